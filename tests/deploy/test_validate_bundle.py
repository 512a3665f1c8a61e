"""`graphopt validate` and the bundle's own `validate.py`: one answer, from two programs."""

import ast
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from bundle_damage import explode, explode_in_secret

from graphopt.deploy import Bundle, validate, validator_text
from graphopt.deploy.agreement import Validation
from graphopt.deploy.on_device import OnnxRuntime, _arm_features


def run_shipped(folder, *arguments):
    """Run the bundle's own program, as on a device that knows nothing of graphopt."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "validate.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def rewrite(folder, change, *, rehash=()):
    """Change the manifest, and let it fit files that were changed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in rehash:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"sha256": digest, "size_bytes": len(content)}
    change(manifest)
    path.write_text(json.dumps(manifest))


class NothingIsLoaded(OnnxRuntime):
    def open(self, path, settings):
        pytest.fail("the model was loaded")


def assert_broken(folder, text):
    """Both programs find the bundle broken, and neither loads its model."""
    report = Validation(folder, NothingIsLoaded()).run()
    assert (report["status"], report["exit_code"]) == ("broken", 2)
    assert text in report["checks"][-1]["detail"]
    assert validate(folder).exit_code == 2
    shipped = run_shipped(folder)
    assert shipped.returncode == 2, shipped.stdout
    assert text in shipped.stdout
    assert "Traceback" not in shipped.stderr


def test_a_good_bundle_is_ok_and_both_programs_say_the_same(bundle):
    ours = validate(bundle.path)
    shipped = run_shipped(bundle.path, "--json")
    assert (ours.exit_code, shipped.returncode, shipped.stderr) == (0, 0, "")
    documents = [ours.to_dict(), json.loads(shipped.stdout)]
    for document in documents:
        memory = next(check for check in document["checks"] if check["name"] == "memory")
        assert memory.pop("detail").endswith("bytes resident at most")
    assert documents[0] == documents[1]
    numbers = documents[0]["outputs"]["y"]
    assert numbers["model"]["error"] <= 1e-6
    assert 1e-6 < numbers["original"]["error"] < 1e-2  # the candidate's weights are a little off


@pytest.mark.parametrize("program", ["python", "node"])
def test_a_report_that_nobody_gets(bundle, program):
    if program == "node" and shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    command = f"{sys.executable} -I validate.py" if program == "python" else "node validate.mjs"
    for line, status, words in (
        (f"(sleep 0.5; {command}; echo $? >&2) | sleep 0.1", "141", ""),
        (f"{command} --json >/dev/full; echo $? >&2", "2", "broken: the report cannot be written:"),
        (f"{command} >&-; echo $? >&2", "0" if program == "python" else "2", ""),
    ):
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=bundle.path
        )
        *said, found = done.stderr.splitlines()
        assert found == status
        assert len(said) == bool(words)
        assert words in "".join(said)


def test_latency_is_measured_on_demand(bundle):
    ours = validate(bundle.path, latency=True)
    shipped = json.loads(run_shipped(bundle.path, "--json", "--latency").stdout)
    for latency in (ours.to_dict()["latency"], shipped["latency"]):
        assert 0 < latency["p10_ms"] <= latency["median_ms"] <= latency["p99_ms"]
    assert validate(bundle.path).to_dict()["latency"] is None


def test_text_form_names_every_check(bundle):
    lines = run_shipped(bundle.path).stdout.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == list(Validation.CHECKS)
    assert lines[-1] == "ok"
    assert str(validate(bundle.path)).splitlines()[-1] == "ok"


def test_a_flipped_byte(copy):
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    assert_broken(copy, "`model.onnx` was changed")


def test_a_missing_golden_file(copy):
    (copy / "golden/model/1.npz").unlink()
    assert_broken(copy, "`golden/model/1.npz` is missing")


def test_a_golden_file_that_the_manifest_forgets(copy):
    (copy / "golden/model/1.npz").unlink()
    rewrite(copy, lambda manifest: manifest["files"].pop("golden/model/1.npz"))
    assert_broken(copy, "`golden/model/1.npz` is needed")


def test_an_extra_file(copy):
    (copy / "golden" / "sitecustomize.py").write_text("boom")
    assert_broken(copy, "`golden/sitecustomize.py` is not in the manifest")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "a//b", "C:/x", "a\\b", "./a", "a\x00b", ""]
)
def test_an_unsafe_name(copy, name):
    facts = {"sha256": "0" * 64, "size_bytes": 1}
    rewrite(copy, lambda manifest: manifest["files"].update({name: facts}))
    assert_broken(copy, "is not a plain relative path")


@pytest.mark.parametrize("name", ["report.html", "golden/model", "manifest.json"])
def test_a_symbolic_link(copy, tmp_path, name):
    (copy / name).rename(tmp_path / "moved")
    (copy / name).symlink_to(tmp_path / "moved")
    assert_broken(copy, "regular file" if name == "manifest.json" else f"`{name}` is a link")


def test_an_unknown_schema_version(copy):
    rewrite(copy, lambda manifest: manifest.update(schema_version=99))
    assert_broken(copy, "unknown schema version 99, expected 1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema_version": 1, "schema_version": 1}', "a key is there twice"),
        ('{"schema_version": NaN}', "NaN is not a number of JSON"),
        ("[]", "wrong type"),
        ('{"schema_version": 1}', "is missing"),
    ],
)
def test_a_manifest_that_is_none(copy, text, found):
    (copy / "manifest.json").write_text(text)
    assert_broken(copy, found)


def test_a_folder_that_is_not_there(tmp_path):
    report = validate(tmp_path / "nowhere")
    assert report.exit_code == 2
    assert "`manifest.json` is missing" in str(report)


def test_a_runtime_that_is_too_old(copy):
    rewrite(copy, lambda manifest: manifest["device"].update(minimum_onnxruntime="99.1"))
    assert_broken(copy, "onnxruntime 99.1 or newer is needed")


def test_a_provider_that_is_not_here(copy):
    providers = [{"name": "QNNExecutionProvider", "options": {}}]
    rewrite(copy, lambda manifest: manifest["session"].update(providers=providers))
    assert_broken(copy, "QNNExecutionProvider is needed")


def test_a_cpu_feature_that_is_not_here(copy):
    rewrite(copy, lambda manifest: manifest["device"].update(cpu_features=["abacus"]))
    assert_broken(copy, "the CPU lacks abacus")


@pytest.mark.parametrize("text", ["./evil.so", "model.onnx", "C:\\evil.dll"])
def test_a_session_option_that_names_a_file(copy, text):
    rewrite(copy, lambda manifest: manifest["session"].update(config={"backend_path": text}))
    assert_broken(copy, "names a file")


def test_a_model_that_does_not_load_breaks_the_contract(copy):
    (copy / "model.onnx").write_bytes(b"not a model")
    rewrite(copy, lambda manifest: None, rehash=["model.onnx"])
    for code, text in ((validate(copy).exit_code, str(validate(copy))), shipped_result(copy)):
        assert code == 2
        assert "failed  load" in text


def test_a_golden_file_with_pickled_objects_is_not_read(copy):
    np.savez(copy / "golden/inputs/0.npz", x=np.array([{"a": 1}], dtype=object))
    rewrite(copy, lambda manifest: None, rehash=["golden/inputs/0.npz"])
    for code, text in ((validate(copy).exit_code, str(validate(copy))), shipped_result(copy)):
        assert code == 2
        assert "`golden/inputs/0.npz` cannot be read" in text


def test_a_record_that_unpacks_to_gigabytes(copy):
    explode(copy)
    assert_broken(copy, "`golden/inputs/1.npz` unpacks to 68157440 bytes, more than 67108864")


def test_a_record_that_hides_what_it_unpacks_to(copy):
    explode_in_secret(copy)
    for code, text in ((validate(copy).exit_code, str(validate(copy))), shipped_result(copy)):
        assert code == 2
        assert "`golden/inputs/1.npz` cannot be read" in text


def test_an_archive_is_not_unpacked_by_the_program(bundle, tmp_path):
    """`graphopt validate` unpacks with care; on a device that is left to the user."""
    packed = tmp_path / "tiny.zip"
    Bundle.load(bundle.path).save(packed)
    shipped = subprocess.run(
        [sys.executable, "-I", str(bundle.path / "validate.py"), str(packed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shipped.returncode == 2
    assert "`manifest.json` is missing" in shipped.stdout
    assert [*tmp_path.iterdir()] == [packed]


def test_memory_beyond_the_ceiling_breaks_the_contract(copy):
    rewrite(copy, lambda manifest: manifest["device"].update(maximum_memory_bytes=1))
    for code, text in ((validate(copy).exit_code, str(validate(copy))), shipped_result(copy)):
        assert code == 2
        assert "the device contract allows 1" in text


def shipped_result(folder):
    result = run_shipped(folder)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout


@pytest.mark.parametrize("kind", ["model", "original"])
def test_wrong_numbers(copy, kind):
    name = f"golden/{kind}/2.npz"
    recorded = dict(np.load(copy / name))
    recorded["y"] = recorded["y"] + np.float32([0, 40])
    np.savez(copy / name, **recorded)
    rewrite(copy, lambda manifest: None, rehash=[name])
    for code, text in ((validate(copy).exit_code, str(validate(copy))), shipped_result(copy)):
        assert code == 1
        assert f"`y` against the {kind}" in text
        assert text.splitlines()[-1] == "wrong"


def test_wrong_numbers_on_a_lesser_cpu_name_what_it_lacks(copy):
    name = "golden/model/0.npz"
    recorded = dict(np.load(copy / name))
    np.savez(copy / name, **{**recorded, "y": -recorded["y"]})
    rewrite(
        copy,
        lambda manifest: manifest["verified_on"].update(cpu_features=["abacus", "sse2"]),
        rehash=[name],
    )
    assert "this CPU lacks abacus" in shipped_result(copy)[1]


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ({}, 1),
        ({"onnxruntime": "1.0.0"}, 0),
        ({"platform": "Plan9-mips"}, 0),
        ({"cpu_features": ["avx2"]}, 0),
    ],
)
def test_other_kernels_may_differ_more_than_the_same_ones(copy, place, code):
    name = "golden/model/0.npz"
    recorded = dict(np.load(copy / name))
    np.savez(copy / name, **{**recorded, "y": recorded["y"] * np.float32(1.001)})

    def change(manifest):
        manifest["golden"]["outputs"]["y"]["bound"] = 0.01
        manifest["verified_on"].update(place)

    rewrite(copy, change, rehash=[name])
    assert shipped_result(copy)[0] == code
    assert validate(copy).exit_code == code


def test_nan_where_there_was_none(copy):
    name = "golden/model/1.npz"
    recorded = dict(np.load(copy / name))
    recorded["y"][0, 0] = np.nan
    np.savez(copy / name, **recorded)
    rewrite(copy, lambda manifest: None, rehash=[name])
    code, text = shipped_result(copy)
    assert code == 1
    assert "NaN at other positions" in text
    json.loads(run_shipped(copy, "--json").stdout, parse_constant=pytest.fail)


def test_an_integer_that_differs(copy):
    name = "golden/model/1.npz"
    recorded = dict(np.load(copy / name))
    recorded["label"][0] += 1
    np.savez(copy / name, **recorded)
    rewrite(copy, lambda manifest: None, rehash=[name])
    assert validate(copy).exit_code == 1


def test_an_unverified_bundle_is_compared_with_the_original_only(copy):
    for index in range(3):
        (copy / f"golden/model/{index}.npz").unlink()

    def change(manifest):
        manifest["verified_on"] = None
        for index in range(3):
            del manifest["files"][f"golden/model/{index}.npz"]

    rewrite(copy, change)
    report = validate(copy).to_dict()
    assert report["exit_code"] == 0
    assert report["outputs"]["y"].keys() == {"original"}


def test_nothing_of_the_bundle_is_executed(copy, tmp_path):
    mark = tmp_path / "executed"
    (copy / "validate.py").write_text(f"open({str(mark)!r}, 'w')")
    rewrite(copy, lambda manifest: None, rehash=["validate.py"])
    assert validate(copy).exit_code == 0
    assert not mark.exists()


def test_shipped_program_is_python_38_and_needs_no_graphopt():
    tree = ast.parse(validator_text(), feature_version=(3, 8))
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    } | {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert "graphopt" not in imported
    only_with_a_key = {"cryptography", "nacl"}
    only_with_raw_samples = {"tokenizers", "PIL"}
    others = imported - set(sys.stdlib_module_names)
    assert others == {"numpy", "onnxruntime"} | only_with_a_key | only_with_raw_samples


def test_no_part_of_the_shipped_program_hides_a_name_of_another():
    names = [
        node.name
        for node in ast.parse(validator_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(names) == len(set(names)) > 20


def test_features_of_arm_are_read_from_what_the_kernel_tells(tmp_path):
    words = {16: 1 << 20 | 1 << 1, 26: 1 << 13, 6: 4096}
    (tmp_path / "auxv").write_bytes(b"".join(struct.pack("=QQ", *pair) for pair in words.items()))
    assert _arm_features(tmp_path / "auxv") == {"asimd", "asimddp", "i8mm"}
    (tmp_path / "auxv").write_bytes(b"half")
    assert _arm_features(tmp_path / "auxv") == _arm_features(tmp_path / "none") == set()


def test_shipped_program_says_what_it_takes(bundle):
    result = run_shipped(bundle.path, "--help")
    assert result.returncode == 0
    assert "--latency" in result.stdout
    assert run_shipped(bundle.path, "--wrong").returncode == 2


@pytest.mark.parametrize("library", ["numpy", "onnxruntime"])
def test_shipped_program_says_what_is_not_installed(bundle, tmp_path, library):
    (tmp_path / f"{library}.py").write_text("raise ImportError('none here')")
    result = subprocess.run(
        [sys.executable, str(bundle.path / "validate.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 2
    assert f"{library} cannot be imported: none here" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
