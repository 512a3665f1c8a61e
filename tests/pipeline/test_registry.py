import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from toy_passes import RelabelOperators

from graphopt.errors import PassError, UnknownNameError, UsageError
from graphopt.pipeline import find_pass, pass_names, pass_owner, pass_summary
from graphopt.pipeline.registry import class_name


def test_every_name_is_a_file_and_a_class():
    for name in pass_names():
        found = find_pass(name)
        assert found.name == name
        assert found.__name__ == class_name(name)
        assert found.__module__ == pass_owner(name) == "graphopt.passes." + name.replace("-", "_")


def test_summary_is_the_first_line_of_the_docstring():
    for name in pass_names():
        assert pass_summary(name) == find_pass(name).__doc__.splitlines()[0] != ""


@pytest.mark.usefixtures("toys")
def test_plug_in_is_found():
    assert "relabel-operators" in pass_names()
    assert find_pass("relabel-operators") is RelabelOperators
    assert pass_owner("relabel-operators").endswith(": toy_passes:RelabelOperators")
    assert pass_summary("relabel-operators").startswith("Turn every `old` operator")


def points(*pairs):
    found = [EntryPoint(name=key, value=value, group="graphopt.passes") for key, value in pairs]
    return lambda: found


def test_clash_names_both_owners(monkeypatch):
    clash = points(("external-onnx-ir", "toy_passes:RelabelOperators"))
    monkeypatch.setattr("graphopt.pipeline.registry.plug_ins", clash)
    with pytest.raises(UsageError, match="more than one owner") as caught:
        find_pass("external-onnx-ir")
    assert "`graphopt.passes.external_onnx_ir`" in caught.value.why
    assert "toy_passes:RelabelOperators" in caught.value.why


def test_clash_of_two_plug_ins(monkeypatch):
    clash = points(("a", "one:A"), ("a", "two:A"))
    monkeypatch.setattr("graphopt.pipeline.registry.plug_ins", clash)
    with pytest.raises(UsageError, match="more than one owner"):
        find_pass("a")


@pytest.mark.parametrize("attribute", ["RaiseError", "TOY_PASSES", "Pass"])
def test_plug_in_under_a_wrong_name_is_refused(monkeypatch, attribute):
    wrong = points(("relabel-operators", f"toy_passes:{attribute}"))
    monkeypatch.setattr("graphopt.pipeline.registry.plug_ins", wrong)
    with pytest.raises(PassError, match="does not define pass `relabel-operators`"):
        find_pass("relabel-operators")


@pytest.mark.parametrize("name", ["external_onnx_ir", "external-onnx-irr", "External-Onnx-Ir"])
def test_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(UnknownNameError) as caught:
        find_pass(name)
    assert caught.value.hint.startswith("did you mean `external-onnx-ir`")


def test_listing_passes_imports_nothing_heavy():
    code = """
import sys
from graphopt.pipeline import named_pipelines, pass_names, pass_summary
assert all(pass_summary(name) for name in pass_names())
assert named_pipelines()
print([name for name in ("numpy", "onnx", "onnx_ir", "onnxruntime", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("value", ["no_such_package.module:Pass", "toy_passes:NoSuchPass"])
def test_plug_in_that_cannot_be_imported_names_its_owner(monkeypatch, value):
    monkeypatch.setattr("graphopt.pipeline.registry.plug_ins", points(("a-pass", value)))
    with pytest.raises(PassError, match="`a-pass` cannot be imported") as caught:
        find_pass("a-pass")
    assert value in caught.value.where
    assert pass_summary("a-pass") == ""
