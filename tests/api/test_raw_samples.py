"""From texts, images and sound to a bundle whose device makes the same inputs of them."""

import hashlib
import json
import shutil
import subprocess
import sys
import wave

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.deploy import validate
from graphopt.errors import CalibrationDataError

tokenizers = pytest.importorskip("tokenizers")

ENCODER = """
<ir_version: 10, opset_import: ["" : 20]>
encoder (int64[B, S] input_ids, int64[B, S] attention_mask) => (float[B, S, 16] last_hidden_state)
{
  embedded = Gather(table, input_ids)
  widened = Unsqueeze(attention_mask, axes)
  mask = Cast<to = 1>(widened)
  masked = Mul(embedded, mask)
  again = Identity(masked)
  product = MatMul(again, weight)
  last_hidden_state = Tanh(product)
}
"""
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green", "blue", "sea", "sky", "grass"]


def write_model(path, text, **weights):
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, given in weights.items():
        array = given if isinstance(given, np.ndarray) else random.standard_normal(given)
        array = array if array.dtype.kind == "i" else array.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    trace = model.graph.node[0].metadata_props.add()
    trace.key, trace.value = "pkg.torch.onnx.stack_trace", 'File "/home/somebody/model.py"'
    onnx.save(model, path)
    return path


def write_encoder(path, rows=10):
    weights = {"table": (rows, 16), "weight": (16, 16), "axes": np.array([2])}
    return write_model(path, ENCODER, **weights)


def write_tokenizer(folder, words=WORDS):
    known = {word: place for place, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(folder / "tokenizer.json"))


def write_home(folder):
    """Write a folder as sentence-transformers does, with the model in it."""
    write_tokenizer(folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    parts = [{"type": f"x.{kind}", "path": f"{place}_{kind}"} for place, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return write_encoder(folder / "encoder.onnx")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = ["red sky", "green grass and blue sea", " the sea is blue ", "red red red red red red"]
    path.write_text("\n".join(lines * 10), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, texts):
    """A bundle that no test may change."""
    folder = tmp_path_factory.mktemp("home")
    path = folder / "bundle"
    made = graphopt.optimize(
        write_home(folder), calibration=texts, output=path, latency_budget_s=None
    )
    assert made.exit_code == 0, str(made)
    return path


@pytest.fixture
def copy(shipped, tmp_path):
    return shutil.copytree(shipped, tmp_path / "copy")


def run_shipped(folder, *arguments, path=""):
    """Run the bundle's own program, on a device that knows nothing of graphopt."""
    ended = subprocess.run(
        [sys.executable, str(folder / "validate.py"), "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PYTHONPATH": str(path), "PATH": ""},
    )
    assert ended.stdout, ended.stderr
    return json.loads(ended.stdout)


def check(report, name):
    return next(item for item in report["checks"] if item["name"] == name)


def rehash(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"sha256": digest, "size_bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_device_makes_the_recorded_inputs_and_vectors(shipped):
    for report in (validate(shipped).to_dict(), run_shipped(shipped)):
        assert report["exit_code"] == 0
        assert check(report, "inputs")["detail"].startswith(
            "raw samples that become the recorded inputs and vectors: "
        )
        assert report["outputs"]["vector"]["model"]["error"] <= 1e-6
        assert report["outputs"]["vector"]["original"]["cosine"] > 0.99
    told = json.loads((shipped / "preprocessing.json").read_text())
    assert told["max_length"] == 6
    assert told["vector"] == {"output": "last_hidden_state", "pooling": "mean", "normalize": True}
    texts = json.loads((shipped / "golden" / "raw.json").read_text())
    assert texts[1] == [{"text": "green grass and blue sea"}]
    with np.load(shipped / "golden" / "inputs" / "1.npz") as feed:
        assert feed["input_ids"].tolist() == [[1, 5, 9, 3, 6, 2]]  # cut at six tokens


def test_a_text_on_the_command_line(shipped):
    recorded = np.load(shipped / "golden" / "vectors" / "0.npz")["model"][0]
    report = run_shipped(shipped, "--text", "red sky")
    assert report["item"]["inputs"]["input_ids"] == [1, 4]
    assert np.allclose(report["item"]["vector"], recorded, atol=1e-6)
    assert np.isclose(np.linalg.norm(report["item"]["vector"]), 1.0)
    report = run_shipped(shipped, "--file", "picture.png")
    assert (report["exit_code"], "--text" in check(report, "item")["detail"]) == (2, True)


def test_without_the_library_the_check_is_skipped_with_a_reason(shipped, tmp_path):
    (tmp_path / "tokenizers.py").write_text("raise ImportError('not here')")
    report = run_shipped(shipped, path=tmp_path)
    assert report["exit_code"] == 0
    assert check(report, "inputs")["status"] == "skipped"
    assert "pip install tokenizers" in check(report, "inputs")["detail"]
    assert run_shipped(shipped, "--text", "red", path=tmp_path)["exit_code"] == 2


def test_another_tokenizer_is_noticed(copy):
    other = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "green", "red", "blue", "sea", "sky", "grass"]
    write_tokenizer(copy, other)
    rehash(copy, "tokenizer.json")
    report = validate(copy).to_dict()
    assert report["exit_code"] == 1
    assert "another `input_ids`" in check(report, "inputs")["detail"]


def test_another_way_to_pool_is_noticed(copy):
    path = copy / "preprocessing.json"
    path.write_text(path.read_text().replace('"mean"', '"cls"'))
    rehash(copy, "preprocessing.json")
    report = validate(copy).to_dict()
    assert report["exit_code"] == 1
    assert "vectors: error is" in check(report, "inputs")["detail"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("preprocessing.json", "{", "cannot be used"),
        ("preprocessing.json", '{"kind": "text"}', "cannot be used"),
        ("preprocessing.json", '{"kind": "text", "tokenizer": "/etc/passwd"}', "not among"),
        ("tokenizer.json", "{}", "cannot be used"),
        ("golden/raw.json", '[[{"file": "/etc/passwd"}]]', "not what the manifest says"),
        ("golden/raw.json", "[[1]]", "cannot be read"),
    ],
)
def test_what_is_malformed_is_broken_and_no_traceback(copy, name, content, said):
    (copy / name).write_text(content)
    rehash(copy, name)
    report = run_shipped(copy)
    assert report["exit_code"] == 2
    assert said in check(report, "inputs")["detail"]


def test_the_same_command_makes_the_same_files(shipped, texts, tmp_path):
    again = tmp_path / "again"
    home = shipped.parent / "encoder.onnx"
    graphopt.optimize(home, calibration=texts, output=again, latency_budget_s=None)
    for name in ("preprocessing.json", "tokenizer.json", "golden/raw.json"):
        assert (again / name).read_bytes() == (shipped / name).read_bytes()
    vectors = sorted(path.name for path in (shipped / "golden" / "vectors").iterdir())
    assert vectors
    for name in vectors:
        ours, theirs = (folder / "golden" / "vectors" / name for folder in (again, shipped))
        assert ours.read_bytes() == theirs.read_bytes()
    assert b"/home/somebody" in home.read_bytes()
    assert b"/home/somebody" not in (again / "model.onnx").read_bytes()
    for path in again.rglob("*.json"):
        assert str(texts.parent) not in path.read_text()
        assert str(shipped.parent) not in path.read_text()


@pytest.mark.parametrize("rows", [len(WORDS) - 1, 4 * len(WORDS)])
def test_a_tokenizer_of_another_model(texts, tmp_path, rows):
    write_home(tmp_path)
    model = write_encoder(tmp_path / "encoder.onnx", rows)
    with pytest.raises(CalibrationDataError, match="does not match the model") as caught:
        graphopt.optimize(model, calibration=texts, output=tmp_path / "b", latency_budget_s=None)
    assert f"a table for {rows}" in caught.value.why
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held["post_processor"].update(special_tokens={}), "Panic"),
        (lambda held: held["model"]["vocab"].update({"red": 99}), "the token 99"),
        (lambda held: held["model"].update(type="Nonsense"), "cannot be had"),
    ],
)
def test_tokenizers_that_are_damaged(texts, tmp_path, change, said, capfd):
    model = write_home(tmp_path)
    held = json.loads((tmp_path / "tokenizer.json").read_text())
    change(held)
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(CalibrationDataError) as caught:
        graphopt.optimize(model, calibration=texts, output=tmp_path / "b", latency_budget_s=None)
    assert said in f"{caught.value.message} {caught.value.why}"
    assert not (tmp_path / "b").exists()
    capfd.readouterr()  # the library says on the error stream where it panicked


def test_a_tokenizer_of_a_gigabyte_and_settings_without_end(texts, tmp_path):
    model = write_home(tmp_path)
    fit, options = "tokenizer_config.json", {"calibration": texts, "latency_budget_s": None}
    for content, said in (
        ("[" * 200_000, "nested too deeply"),
        ('{"a": "' + "x" * (17 << 20) + '"}', "more than 16 MiB"),
    ):
        (tmp_path / fit).write_text(content)
        with pytest.raises(CalibrationDataError, match="cannot be read") as caught:
            graphopt.optimize(model, output=tmp_path / "b", **options)
        assert said in caught.value.why
    (tmp_path / fit).unlink()
    with (tmp_path / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 30)  # a hole, which takes no room
    with pytest.raises(CalibrationDataError) as caught:
        graphopt.optimize(model, output=tmp_path / "b", **options)
    assert "more than 256 MiB" in caught.value.why
    assert not (tmp_path / "b").exists()


def test_vectors_of_an_output_that_there_is_not(texts, tmp_path):
    model = write_home(tmp_path)
    asked = {"output": "sentence", "pooling": "mean", "normalize": True}
    spec = {"kind": "text", "source": str(texts), "tokenizer": ".", "vector": asked}
    (tmp_path / "samples.json").write_text(json.dumps(spec))
    with pytest.raises(CalibrationDataError, match="no output `sentence`"):
        graphopt.optimize(model, calibration=tmp_path / "samples.json", latency_budget_s=None)


def test_images_and_recordings(tmp_path):
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    photos, sound = tmp_path / "photos", tmp_path / "sound"
    for folder in (photos, sound):
        folder.mkdir()
    (photos / "preprocessing.json").write_text('{"crop": {"height": 8, "width": 8}}')
    told = {"features": "waveform", "sampling_rate": 8000, "length": 64}
    (sound / "preprocessing.json").write_text(json.dumps(told))
    for number in range(3):
        pixels = random.integers(0, 255, (12, 10, 3), dtype=np.uint8)
        image.fromarray(pixels).save(photos / f"{number}.png")
        with wave.open(str(sound / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(random.integers(-9999, 9999, 50).astype("<i2").tobytes())
    header = '<ir_version: 10, opset_import: ["" : 20]> '
    seeing = write_model(
        tmp_path / "seeing.onnx",
        header + "g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { y = Conv(x, w) }",
        w=(4, 3, 3, 3),
    )
    hearing = write_model(
        tmp_path / "hearing.onnx",
        header + "g (float[N, 64] x) => (float[N, 4] y) { y = MatMul(x, w) }",
        w=(64, 4),
    )
    for model, samples, suffix in ((seeing, photos, ".png"), (hearing, sound, ".wav")):
        path = tmp_path / f"{model.stem}.bundle"
        graphopt.optimize(
            model, target="cpu-fp32", calibration=samples, output=path, latency_budget_s=None
        )
        report = run_shipped(path, "--file", str(samples / f"1{suffix}"))
        assert report["exit_code"] == 0, report
        assert check(report, "inputs")["status"] == "passed"
        assert report["item"]["vector"] is None
        assert (path / "golden" / "raw" / f"0-0{suffix}").is_file()
