"""Samples from texts, images and the folders of backend tests."""

import json
import sys

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import numpy_helper

from graphopt.calibration import LABELS, load_samples
from graphopt.calibration.sample_spec import sample_spec_schema
from graphopt.errors import CalibrationDataError, MissingExtraError
from graphopt.runtime import TensorSpec

IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
MASK = TensorSpec("attention_mask", "int64", ("batch", "sequence"))
TYPES = TensorSpec("token_type_ids", "int32", ("batch", "sequence"))
IMAGE = TensorSpec("pixels", "float32", ("batch", 3, "height", "width"))


def failure(call, *arguments, kind=CalibrationDataError, **keywords):
    with pytest.raises(kind) as caught:
        call(*arguments, **keywords)
    return caught.value


def values(samples):
    return [{name: array.tolist() for name, array in feed.items()} for feed in samples]


# -- backend tests ------------------------------------------------------------------------------


def write_tensor(path, array, name=""):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(numpy_helper.from_array(np.asarray(array), name).SerializeToString())


def test_folders_of_backend_tests(tmp_path):
    for number in (10, 2, 0):
        folder = tmp_path / f"test_data_set_{number}"
        write_tensor(folder / "input_0.pb", [[number]])
        write_tensor(folder / "input_1.pb", [[1]], name="attention_mask")
        write_tensor(folder / "output_0.pb", [[5]])
    (tmp_path / "model.onnx").write_bytes(b"")
    samples = load_samples(tmp_path, inputs=[IDS, MASK])
    assert [feed["input_ids"].item() for feed in samples] == [0, 2, 10]
    samples.check([IDS, MASK])
    one = load_samples(tmp_path / "test_data_set_2", inputs=[MASK, IDS])
    assert values(one) == [{"attention_mask": [[1]]}]  # the name is worth more than the number


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG", onnx.SequenceProto(name="s").SerializeToString()]
)
def test_backend_test_that_cannot_be_read(tmp_path, content):
    (tmp_path / "input_0.pb").write_bytes(content)
    error = failure(list, load_samples(tmp_path, inputs=[IDS]))
    assert "`input_0.pb`" in error.message


def test_tensor_whose_data_lies_elsewhere_is_refused(tmp_path):
    tensor = numpy_helper.from_array(np.zeros((1, 1)), "input_ids")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    assert "another file" in failure(list, load_samples(tmp_path, inputs=[IDS])).why


# -- texts --------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 7, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5, "c": 6}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    made.enable_padding(length=50)  # what a tokenizer says of padding is not what samples need
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write_spec(folder, **spec):
    path = folder / "samples.json"
    path.write_text(json.dumps(spec))
    return path


def text_spec(folder, **more):
    return write_spec(folder, kind="text", source="texts.txt", tokenizer=".", **more)


def test_texts_beside_their_tokenizer(tokenizer):
    (tokenizer / "texts.txt").write_text("a b\n\nc x c\n", encoding="utf-8")
    samples = load_samples(tokenizer / "texts.txt", inputs=[IDS, MASK, TYPES])
    assert values(samples) == [
        {
            "input_ids": [[1, 4, 5, 2]],
            "attention_mask": [[1, 1, 1, 1]],
            "token_type_ids": [[0, 0, 0, 0]],
        },
        {
            "input_ids": [[1, 6, 3, 6, 2]],
            "attention_mask": [[1] * 5],
            "token_type_ids": [[0] * 5],
        },
    ]
    samples.check([IDS, MASK, TYPES])


def test_texts_are_cut_batched_and_filled_up(tokenizer):
    (tokenizer / "texts.txt").write_text("a b c\na\nb\n", encoding="utf-8")
    spec = text_spec(tokenizer, max_length=4, batch_size=2)
    first, second = load_samples(spec, inputs=[IDS, MASK])
    assert first["input_ids"].tolist() == [[1, 4, 5, 2], [1, 4, 2, 7]]
    assert first["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert second["input_ids"].tolist() == [[1, 5, 2]]


def test_fixed_sizes_of_the_model_come_first(tokenizer):
    (tokenizer / "texts.txt").write_text("a b c\na\nb\n", encoding="utf-8")
    fixed = TensorSpec("input_ids", "int64", (2, 5))
    (feed,) = load_samples(text_spec(tokenizer, max_length=3), inputs=[fixed])
    assert feed["input_ids"].tolist() == [[1, 4, 5, 6, 2], [1, 4, 2, 7, 7]]


def test_lines_of_json_with_pairs_and_labels(tokenizer):
    lines = [{"x": "a", "y": "b c", "z": 1}, {"x": "c", "y": "a", "z": 0}]
    (tokenizer / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    spec = write_spec(
        tokenizer,
        kind="text",
        source="pairs.jsonl",
        tokenizer="tokenizer.json",
        field="x",
        pair_field="y",
        label_field="z",
    )
    samples = load_samples(spec, inputs=[IDS, TYPES])
    assert next(iter(samples))["input_ids"].tolist() == [[1, 4, 2, 5, 6, 2]]
    assert next(iter(samples))["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]
    assert samples.labels.tolist() == [1, 0]


def test_meaning_of_inputs(tokenizer):
    (tokenizer / "texts.txt").write_text("a\n")
    inputs = [
        TensorSpec("tokens", "int32", ("b", "s")),
        TensorSpec("position_ids", "int64", ("b", "s")),
        TensorSpec("segment", "int64", ("b", "s")),
        TensorSpec("padding_mask", "float32", ("b", "s")),
    ]
    (feed,) = load_samples(tokenizer / "texts.txt", inputs=inputs)
    assert [array.tolist() for array in feed.values()] == [
        [[1, 4, 2]],
        [[0, 1, 2]],
        [[0, 0, 0]],
        [[1, 1, 1]],
    ]
    strange = TensorSpec("foo", "int64", ("b", "s"))
    assert "foo" in failure(load_samples, tokenizer / "texts.txt", inputs=[strange]).message
    spec = text_spec(tokenizer, inputs={"foo": "ids"})
    assert next(iter(load_samples(spec, inputs=[strange])))["foo"].tolist() == [[1, 4, 2]]


def test_lines_that_cannot_be_understood(tokenizer):
    (tokenizer / "texts.jsonl").write_text('"a"\n{"txt": "b"}\n')
    error = failure(list, load_samples(tokenizer / "texts.jsonl", inputs=[IDS]))
    assert error.where.endswith("line 2")
    assert "`text`" in error.why


def test_texts_in_another_encoding_are_told_as_such(tokenizer):
    (tokenizer / "texts.txt").write_bytes("a\nb\ncaf\xe9\n".encode("latin-1"))
    error = failure(list, load_samples(tokenizer / "texts.txt", inputs=[IDS]))
    assert "UTF-8" in error.why
    assert "iconv" in error.hint


def test_labels_of_different_lengths_are_refused(tokenizer):
    lines = ['{"text": "a", "label": [1, 2]}', '{"text": "b", "label": [1]}']
    (tokenizer / "texts.jsonl").write_text("\n".join(lines))
    spec = write_spec(
        tokenizer,
        kind="text",
        source="texts.jsonl",
        tokenizer=".",
        label_field="label",
        batch_size=2,
    )
    error = failure(list, load_samples(spec, inputs=[IDS]))
    assert "labels" in error.message


@pytest.mark.parametrize("limit", ['"3"', "[3]", "true", "-1", "1e30"])
def test_a_limit_that_is_no_number_of_tokens_is_none(tokenizer, limit):
    (tokenizer / "texts.txt").write_text("a b c a b c\n")
    (without,) = load_samples(tokenizer / "texts.txt", inputs=[IDS])
    (tokenizer / "tokenizer_config.json").write_text(f'{{"model_max_length": {limit}}}')
    (found,) = load_samples(tokenizer / "texts.txt", inputs=[IDS])
    assert found["input_ids"].tolist() == without["input_ids"].tolist()


def test_texts_without_what_they_need(tokenizer, tmp_path_factory, monkeypatch):
    alone = tmp_path_factory.mktemp("alone") / "texts.txt"
    alone.write_text("a\n")
    assert "tokenizer.json" in failure(load_samples, alone, inputs=[IDS]).why
    (tokenizer / "texts.txt").write_text("a\n")
    assert "inputs" in failure(load_samples, tokenizer / "texts.txt").why
    spec = write_spec(tokenizer, kind="text", source="texts.txt", tokenizer="nothing")
    assert "tokenizer not found" in failure(load_samples, spec, inputs=[IDS]).message
    (tokenizer / "tokenizer.json").write_text("{}")
    error = failure(load_samples, tokenizer / "texts.txt", inputs=[IDS])
    assert "tokenizer.json" in error.message
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    error = failure(load_samples, tokenizer / "texts.txt", inputs=[IDS], kind=MissingExtraError)
    assert "pip install 'graphopt[data]'" in error.hint


# -- images -------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for index, name in enumerate(("dogs/b.png", "cats/a.png")):
        array = np.zeros((4, 8, 3), np.uint8)
        array[..., 0] = np.arange(8) * 30
        array[..., 2] = 255 if index else 51
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        image.fromarray(array).save(tmp_path / "photos" / name)
    return tmp_path


def image_spec(folder, **more):
    return write_spec(folder, kind="image", source="photos", **more)


def test_images_by_a_specification(photos):
    spec = image_spec(
        photos,
        crop={"height": 2, "width": 2},
        mean=[0.0, 0.5, 0.2],
        std=[1.0, 2.0, 0.5],
        labels="folders",
    )
    samples = load_samples(spec, inputs=[IMAGE])
    first, second = samples
    assert first["pixels"].dtype == np.float32
    red = [90 / 255, 120 / 255]
    expected = [[[red] * 2, [[-0.25] * 2] * 2, [[1.6] * 2] * 2]]
    assert np.allclose(first["pixels"], expected, atol=1e-6)  # cats come first
    assert np.allclose(second["pixels"][0, 2], 0.0, atol=1e-6)
    assert samples.labels.tolist() == [0, 1]
    samples.check([IMAGE])


@pytest.mark.parametrize(
    ("more", "shape"),
    [
        ({}, (1, 3, 4, 8)),
        ({"layout": "NHWC"}, (1, 4, 8, 3)),
        ({"color": "L"}, (1, 1, 4, 8)),
        ({"resize": {"shortest_edge": 6}}, (1, 3, 6, 12)),
        ({"resize": {"height": 5, "width": 7}, "resample": "nearest"}, (1, 3, 5, 7)),
        ({"resize": {"shortest_edge": 6}, "crop": {"height": 6, "width": 6}}, (1, 3, 6, 6)),
        ({"crop": {"height": 6, "width": 10}}, (1, 3, 6, 10)),
        ({"batch_size": 2}, (2, 3, 4, 8)),
        ({"batch_size": 3}, (2, 3, 4, 8)),
    ],
)
def test_shapes_of_images(photos, more, shape):
    assert (
        next(iter(load_samples(image_spec(photos, **more), inputs=[IMAGE])))["pixels"].shape
        == shape
    )


def test_order_of_colours_and_scale(photos):
    def pixels(**more):
        return next(iter(load_samples(image_spec(photos, **more), inputs=[IMAGE])))["pixels"]

    assert np.array_equal(pixels(color="BGR"), pixels()[:, ::-1])
    assert pixels(scale=1.0).max() == 255.0
    assert pixels(scale=1.0)[0, 0, 0].tolist() == [0, 30, 60, 90, 120, 150, 180, 210]


def test_specification_in_the_folder_of_images(photos):
    folder = photos / "photos"
    error = failure(load_samples, folder, inputs=[IMAGE])
    assert "preprocessing.json" in error.why
    processor = {
        "size": {"shortest_edge": 6},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 5,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    found = [feed["pixels"] for feed in load_samples(folder, inputs=[IMAGE])]
    same = image_spec(
        photos,
        resize={"shortest_edge": 6},
        resample="bicubic",
        crop={"height": 5, "width": 5},
        mean=[0.5],
        std=[0.5],
    )
    assert all(
        np.array_equal(one, other["pixels"])
        for one, other in zip(found, load_samples(same, inputs=[IMAGE]), strict=True)
    )
    (folder / "preprocessing.json").write_text(json.dumps({"scale": 1.0}))
    first = next(iter(load_samples(folder, inputs=[IMAGE])))["pixels"]
    assert first.shape == (1, 3, 4, 8)  # our own file comes first


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("preprocessing.json", "{", "Expecting"),
        ("preprocessing.json", "[1]", "TypeError"),
        ("preprocessing.json", '{"mean": "grey"}', "'grey' is not of type 'array'"),
        ("preprocessor_config.json", "[]", "AttributeError"),
        ("preprocessor_config.json", '{"size": {"longest_edge": 9}}', "'height'"),
    ],
)
def test_specification_in_the_folder_that_says_nothing(photos, name, content, detail):
    (photos / "photos" / name).write_text(content)
    assert detail in failure(load_samples, photos / "photos", inputs=[IMAGE]).why


def test_images_without_what_they_need(photos, monkeypatch):
    spec = image_spec(photos)
    assert "one input" in failure(load_samples, spec, inputs=[IDS]).why
    assert "one input" in failure(load_samples, spec, inputs=[IMAGE, MASK]).why
    empty = write_spec(photos, kind="image", source=".", mean=[0.1, 0.2])
    assert "`mean`" in failure(list, load_samples(empty, inputs=[IMAGE])).message
    (photos / "photos" / "cats" / "a.png").write_bytes(b"no image")
    assert "`a.png`" in failure(list, load_samples(spec, inputs=[IMAGE])).message
    monkeypatch.setitem(sys.modules, "PIL", None)
    error = failure(load_samples, spec, inputs=[IMAGE], kind=MissingExtraError)
    assert "graphopt[data]" in error.hint


# -- specifications -----------------------------------------------------------------------------


def test_the_schema_is_one():
    Draft202012Validator.check_schema(sample_spec_schema())


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        ("[]", "found `None`"),
        ('{"kind": "sound"}', "found `sound`"),
        ("{", "Expecting"),
        ('{"kind": "text", "source": "t.txt"}', "'tokenizer' is a required property"),
        ('{"kind": "image", "source": ".", "color": "CMYK"}', "'CMYK' is not one of"),
        ('{"kind": "image", "source": ".", "colour": "RGB"}', "'colour' was unexpected"),
    ],
)
def test_specification_that_breaks_the_schema(tmp_path, spec, detail):
    (tmp_path / "samples.json").write_text(spec)
    error = failure(load_samples, tmp_path / "samples.json", inputs=[IMAGE])
    assert detail in error.why


def test_wrong_shape_that_a_transposition_mends():
    channels_last = [{"pixels": np.zeros((1, 8, 8, 3), np.float32)}]
    error = failure(load_samples(channels_last).check, [IMAGE])
    assert "array.transpose(0, 3, 1, 2)" in error.hint
    error = failure(load_samples([{"pixels": np.zeros((3, 8, 8), np.float32)}]).check, [IMAGE])
    assert "array[None]" in error.hint


def test_labels_have_their_own_key():
    assert LABELS == "__labels__"
