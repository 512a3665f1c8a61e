"""Folders of Hugging Face by optimum's exporter and both of PyTorch."""

import json
import shutil

import onnx
import pytest

from graphopt.errors import InputError

CACHE = [f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]


def interface(report):
    graph = onnx.load(report.path).graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


@pytest.mark.parametrize("exporter", ["optimum", "dynamo", "torchscript"])
def test_an_encoder_is_the_same_by_every_exporter(export, sources, exporter):
    report = export(f"hf:{sources / 'bert'}@feature-extraction", exporter=exporter)
    assert report.exporter == exporter
    assert f"exported by {exporter}" in str(report)
    inputs, outputs = interface(report)
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert outputs == ["last_hidden_state"]
    assert [case.shapes["input_ids"] for case in report.cases] == [(2, 7), (1, 1), (3, 10)]
    assert report.largest_difference() <= 1e-5
    said = {item.key: item.value for item in onnx.load(report.path).metadata_props}
    assert said["graphopt.exporter"] == exporter
    assert ("graphopt.version.optimum-onnx" in said) == (exporter == "optimum")


def test_optimum_is_asked_first_and_what_it_cannot_is_done_by_the_next(export, sources):
    assert export(f"hf:{sources / 'vit'}").exporter == "optimum"
    report = export(f"hf:{sources / 't5'}@text2text-generation/encoder", force=True)
    assert (report.exporter, report.origin["part"]) == ("optimum", "encoder")
    report = export(f"hf:{sources / 'bert'}", exporter="auto", opset=24, force=True)
    assert report.exporter == "dynamo"
    assert "optimum" in report.failures


@pytest.mark.parametrize("exporter", ["optimum", "dynamo", "torchscript"])
def test_a_decoder_takes_a_cache_and_returns_it_grown(export, sources, exporter):
    report = export(f"hf:{sources / 'llama'}@text-generation-with-past", exporter=exporter)
    inputs, outputs = interface(report)
    assert {"input_ids", "attention_mask", *CACHE} <= set(inputs)
    assert outputs == ["logits", *(name.replace("past_key_values", "present") for name in CACHE)]
    assert [case.shapes[CACHE[0]][2] for case in report.cases] == [5, 12, 3]
    assert report.largest_difference() <= 1e-5


def test_a_cache_that_forgets_is_not_exported(export, sources):
    with pytest.raises(InputError) as caught:
        export(f"hf:{sources / 'sliding'}@text-generation-with-past", exporter="dynamo")
    assert "where every layer keeps all of them" in caught.value.why


def test_encoder_and_decoder_are_models_of_their_own(export, sources):
    report = export(f"hf:{sources / 't5'}@text2text-generation/decoder", exporter="torchscript")
    inputs, outputs = interface(report)
    assert set(inputs) == {"input_ids", "encoder_hidden_states", "encoder_attention_mask"}
    assert outputs == ["logits"]
    for task, why in (
        ("text2text-generation/head", "its parts: encoder, decoder"),
        ("fill-mask/encoder", "it has no parts"),
    ):
        with pytest.raises(InputError) as caught:
            export(f"hf:{sources / 't5'}@{task}", force=True)
        assert why in caught.value.why


def test_a_decoder_that_is_given_no_mask_is_traced(export, sources):
    source = f"hf:{sources / 'whisper'}@automatic-speech-recognition/decoder"
    report = export(source, exporter="torchscript")
    assert set(interface(report)[0]) == {"input_ids", "encoder_hidden_states"}
    assert report.largest_difference() <= 1e-5


def test_code_in_a_folder_is_not_run(export, sources, tmp_path):
    folder = shutil.copytree(sources / "bert", tmp_path / "bert")
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    parts = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    config |= {"auto_map": parts, "model_type": "made-up"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        export(f"hf:{folder}@feature-extraction")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["../secret.safetensors", "/secret.safetensors", "weights.bin"])
def test_an_index_names_only_plain_weights_in_the_folder(export, sources, tmp_path, place):
    folder = shutil.copytree(sources / "bert", tmp_path / "bert")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    (folder / "spare.safetensors").touch()
    index = {"metadata": {}, "weight_map": {"pooler.dense.bias": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        export(f"hf:{folder}@feature-extraction")
    assert "`model.safetensors.index.json` names" in caught.value.why
