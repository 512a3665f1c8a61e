"""What the files beside a model of Hugging Face say of how inputs are made."""

import json

import numpy as np
import pytest

from graphopt.calibration.prepared_images import image_array
from graphopt.calibration.prepared_texts import pooled
from graphopt.calibration.sample_spec import implied_spec
from graphopt.calibration.transformers_spec import processor_spec, text_facts


def write(folder, **files):
    for name, held in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(held))
    return folder


def modules(*kinds):
    return [
        {"type": f"sentence_transformers.models.{kind}", "path": f"{number}_{kind}"}
        for number, kind in enumerate(kinds)
    ]


def test_sentence_encoder(tmp_path):
    write(
        tmp_path,
        modules=modules("Transformer", "Pooling", "Normalize"),
        **{
            "1_Pooling__config": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
        },
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": True},
        tokenizer_config={"model_max_length": 512, "padding_side": "left"},
    )
    assert text_facts(tmp_path) == {
        "max_length": 256,
        "padding_side": "left",
        "lowercase": True,
        "vector": {"output": None, "pooling": "mean", "normalize": True},
    }


def test_limits_of_a_tokenizer(tmp_path):
    assert text_facts(tmp_path) == {}
    write(tmp_path, tokenizer_config={"model_max_length": 512})
    assert text_facts(tmp_path) == {"max_length": 512}
    write(tmp_path, tokenizer_config={"model_max_length": int(1e30)})
    assert text_facts(tmp_path) == {}


@pytest.mark.parametrize(
    ("kinds", "pooling", "said"),
    [
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_cls_token": True}, "Dense"),
        (("Transformer", "Pooling"), {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "max_tokens",
        ),
        (("Transformer", "Pooling"), {}, "not named"),
    ],
)
def test_vectors_that_cannot_be_told_are_noted(tmp_path, kinds, pooling, said):
    write(tmp_path, modules=modules(*kinds), **{"1_Pooling__config": pooling})
    facts = text_facts(tmp_path)
    assert "vector" not in facts
    assert said in facts["note"]


@pytest.mark.parametrize(
    ("held", "pooling"),
    [({"pooling_mode": "cls"}, "cls"), ({"pooling_mode_lasttoken": True}, "last")],
)
def test_names_of_pooling(tmp_path, held, pooling):
    write(tmp_path, modules=modules("Transformer", "Pooling"), **{"1_Pooling__config": held})
    assert text_facts(tmp_path)["vector"] == {
        "output": None,
        "pooling": pooling,
        "normalize": False,
    }


VALUES = np.array([[[1.0, 8.0], [3.0, -4.0], [50.0, 60.0]]])
MASK = np.array([[1, 1, 0]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [2.0, 2.0]),
        ("cls", [1.0, 8.0]),
        ("max", [3.0, 8.0]),
        ("last", [3.0, -4.0]),
        ("mean_sqrt_len", [4.0 / 2**0.5, 4.0 / 2**0.5]),
    ],
)
def test_pooling_leaves_padding_out_on_either_side(pooling, expected):
    asked = {"pooling": pooling, "normalize": False}
    assert np.allclose(pooled(VALUES, MASK, asked), [expected])
    moved = np.roll(VALUES, 1, axis=1)
    assert np.allclose(pooled(moved, np.array([[0, 1, 1]]), asked), [expected])


def test_vectors_have_a_norm_of_one():
    found = pooled(np.array([[3.0, 4.0], [0.0, 0.0]]), None, {"pooling": "none", "normalize": True})
    assert np.allclose(found, [[0.6, 0.8], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
            {"resize": {"shortest_edge": 256}, "crop": {"height": 224, "width": 224}},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            {"resize": {"height": 384, "width": 384}},
        ),
        (
            {"size": {"shortest_edge": 800, "longest_edge": 1333}},
            {"resize": {"shortest_edge": 800, "longest_edge": 1333}},
        ),
        (
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "include_top": True,
                "image_mean": [0.5],
                "image_std": [0.5],
            },
            {"mean": [0.5], "std": [0.25]},
        ),
        ({"do_rescale": False}, {"scale": 1.0}),
    ],
)
def test_processors_with_ways_of_their_own(held, expected):
    spec = processor_spec(held)
    assert {key: spec[key] for key in expected} == expected


@pytest.mark.parametrize(
    "held",
    [
        {"rescale_offset": True},
        {"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1},
        {"feature_extractor_type": "OtherExtractor", "sampling_rate": 16000},
    ],
)
def test_what_is_not_known_is_refused(held):
    with pytest.raises(ValueError, match=r"not known|no inputs twice"):
        processor_spec(held)


def test_long_images_stay_within_the_longest_edge(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (400, 100)).save(tmp_path / "a.png")
    held = {"size": {"shortest_edge": 100, "longest_edge": 200}}
    spec = implied_spec(write(tmp_path, preprocessor_config=held))
    assert image_array(tmp_path / "a.png", spec).shape == (1, 3, 50, 200)
    held = {"size": {"shortest_edge": 33}}
    spec = implied_spec(write(tmp_path, preprocessor_config=held))
    # 33 * 400 / 100 is cut, not rounded.
    assert image_array(tmp_path / "a.png", spec).shape == (1, 3, 33, 132)


def test_how_texts_become_vectors_is_not_read_from_another_folder(tmp_path):
    folder, other = tmp_path / "model", tmp_path / "other"
    folder.mkdir(), other.mkdir()
    (other / "config.json").write_text('{"pooling_mode_cls_token": true}')
    modules = [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../other"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert "elsewhere" in text_facts(folder)["note"]
    assert "vector" not in text_facts(folder)
    (folder / "pool").mkdir()
    (folder / "pool" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    modules[1]["path"] = "pool"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert text_facts(folder)["vector"]["pooling"] == "cls"
