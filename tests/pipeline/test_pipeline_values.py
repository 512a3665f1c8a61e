import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass
from toy_passes import AskForFacts, RaiseError, RelabelOperators

from graphopt.errors import OptionError, UnknownNameError, UsageError
from graphopt.pipeline import Fixpoint, Pipeline, named_pipelines
from graphopt.pipeline.named import NamedPipeline

pytestmark = pytest.mark.usefixtures("toys")

CANONICAL = [
    "relabel-operators",
    "relabel-operators{old=Relu limit=3},raise-error",
    "fixpoint(relabel-operators,raise-error)",
    "fixpoint{max=2}(relabel-operators,fixpoint(raise-error))",
    'relabel-operators{old="a b" reverse=true}',
    "ask-for-facts{names=[x,y]}",
]


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_text_is_a_fixed_point(text):
    assert str(Pipeline.parse(text)) == text


@pytest.mark.parametrize("text", CANONICAL)
def test_text_reads_back_to_an_equal_value(text):
    pipeline = Pipeline.parse(text)
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_defaults_and_spaces_are_left_out():
    spaced = " relabel-operators { old = Abs } , fixpoint { max = 8 } ( raise-error ) "
    assert str(Pipeline.parse(spaced)) == "relabel-operators,fixpoint(raise-error)"


def test_pipelines_are_joined():
    both = Pipeline.of(RaiseError()) + Pipeline.parse("relabel-operators")
    assert both == Pipeline.of(RaiseError(), RelabelOperators())
    assert [pass_.name for pass_ in both.passes()] == ["raise-error", "relabel-operators"]


def test_passes_of_groups_are_yielded():
    names = [pass_.name for pass_ in Pipeline.parse(CANONICAL[3]).passes()]
    assert names == ["relabel-operators", "raise-error"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "many"])
def test_rounds_of_a_fixpoint_are_a_positive_number(value):
    with pytest.raises(OptionError, match="at least 1"):
        Pipeline.parse(f"fixpoint{{max={value}}}(raise-error)")


def test_fixpoint_has_no_other_option():
    with pytest.raises(UnknownNameError) as caught:
        Pipeline.parse("fixpoint{maxx=1}(raise-error)")
    assert caught.value.hint == "did you mean `max`?"


def test_unknown_option_names_the_nearest():
    with pytest.raises(
        UnknownNameError, match="unknown option of pass `relabel-operators` `limt`"
    ) as caught:
        Pipeline.parse("relabel-operators{limt=1}")
    assert caught.value.hint == "did you mean `limit`?"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("limit=-1", "a whole number of at least 0"),
        ("limit=1.5", "a whole number"),
        ("limit=true", "a whole number"),
        ("old=3", "text"),
        ("reverse=1", "true or false"),
        ("limit=none", "a whole number"),
    ],
)
def test_wrong_value_names_pass_option_value_and_expectation(options, expected):
    with pytest.raises(OptionError) as caught:
        Pipeline.parse(f"relabel-operators{{{options}}}")
    name, value = options.split("=")
    assert f"option `{name}` of pass `relabel-operators` cannot be `{value}`" in str(caught.value)
    assert expected in caught.value.why


def test_list_without_brackets_is_told_how():
    with pytest.raises(OptionError) as caught:
        Pipeline.parse("ask-for-facts{names=x}")
    assert caught.value.hint == "write a list in brackets: ask-for-facts{names=[x]}"


def test_list_in_brackets():
    assert Pipeline.parse("ask-for-facts{names=[x]}") == Pipeline.of(AskForFacts(names=("x",)))


def test_every_named_pipeline_has_text_that_parses():
    for named in named_pipelines():
        assert named.summary
        assert Pipeline.parse(named.text) == Pipeline.parse(f"@{named.name}")


def test_unknown_named_pipeline_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        Pipeline.parse("@exactt")
    assert caught.value.hint == "did you mean `exact`?"


def test_named_pipeline_that_contains_itself(monkeypatch):
    loop = {"a": "@b", "b": "raise-error,@a"}
    monkeypatch.setattr(
        "graphopt.pipeline.pipeline.find_named_pipeline",
        lambda name: NamedPipeline(name, "", loop[name]),
    )
    with pytest.raises(UsageError, match="@a` contains itself") as caught:
        Pipeline.parse("@a")
    assert caught.value.why == "@a -> @b -> @a"


def test_foreign_passes_are_wrapped_and_have_text():
    pipeline = Pipeline.of(TopologicalSortPass(), RaiseError())
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_foreign_pass_with_arguments_says_that_text_cannot_repeat_it():
    class Configured(ir.passes.InPlacePass):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def call(self, model):
            return ir.passes.PassResult(model, modified=False)

    one, other = Pipeline.of(Configured(1)), Pipeline.of(Configured(2))
    assert one != other
    with pytest.raises(OptionError, match="cannot be"):
        Pipeline.parse(str(one))


@pytest.mark.parametrize(
    "factory", ["nowhere:Pass", "onnx_ir:nothing", "onnx_ir", "builtins:dict", "json:loads"]
)
def test_factory_that_gives_no_pass(factory):
    with pytest.raises(OptionError, match="option `factory`"):
        Pipeline.parse(f'external-onnx-ir{{factory="{factory}"}}')


def test_rounding_of_a_foreign_pass_is_in_its_contract():
    (element,) = Pipeline.parse("external-onnx-ir{rounding=0.5}").elements
    assert element.contract.numerics.bound == 0.5


def test_groups_are_values():
    assert Fixpoint((RaiseError(),), max=2) == Fixpoint((RaiseError(),), max=2)
    assert hash(Pipeline.of(RaiseError())) == hash(Pipeline.parse("raise-error"))
    assert not Pipeline()
    assert RemoveUnusedNodesPass  # imported for the wrapper's default
