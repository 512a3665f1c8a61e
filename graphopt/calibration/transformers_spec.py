"""What the files beside a model of Hugging Face say of how inputs are made, as a specification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.calibration.json_files import read_json

__all__ = ["PROCESSOR", "processor_spec", "text_facts"]

PROCESSOR = "preprocessor_config.json"

# Pillow's numbers for the ways to resample, as configurations of `transformers` have them.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_ENDLESS = 10**6
"""Tokenizers without a limit say 1e30 instead."""

# As older files name the ways to pool, and newer ones.
_POOLING = {
    **{name: name for name in ("cls", "max", "mean", "mean_sqrt_len")},
    "lasttoken": "last",
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
}
_CONVNEXT_LIMIT = 384


def text_facts(folder: Path) -> dict[str, Any]:
    """Return the keys of a text specification that files beside a tokenizer settle.

    The longest text comes from `sentence_bert_config.json`, else from `tokenizer_config.json`;
    which vector is made of a text from `modules.json` and what it names, as sentence-transformers
    wrote them. What they ask for and cannot be told to a device is said in `note`.

    Raises:
        CalibrationDataError: A file is no JSON.
    """
    tokenizer = _held(folder, "tokenizer_config.json")
    sentence = _held(folder, "sentence_bert_config.json")
    found: dict[str, Any] = {}
    limits = (sentence.get("max_seq_length"), tokenizer.get("model_max_length"))
    # JSON of strangers: a limit that is text, a list or `true` is none.
    numbers = [
        limit for limit in limits if isinstance(limit, int | float) and not isinstance(limit, bool)
    ]
    known = [int(limit) for limit in numbers if 0 < limit < _ENDLESS]
    if known:
        found["max_length"] = known[0]
    if tokenizer.get("padding_side") in ("left", "right"):
        found["padding_side"] = tokenizer["padding_side"]
    if sentence.get("do_lower_case"):
        found["lowercase"] = True
    try:
        vector = _vector(folder)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        return {**found, "note": f"how a vector is made of a text is not told: {error}"}
    return found | ({"vector": vector} if vector else {})


def _vector(folder: Path) -> dict[str, Any] | None:
    """Return how sentence-transformers makes one vector of a text; ``None`` where it does not."""
    modules = read_json(folder / "modules.json") if (folder / "modules.json").exists() else None
    if not modules:
        return None
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ValueError(f"`modules.json` asks for {', '.join(kinds)}")
    place = folder / str(modules[1].get("path", ""))
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ValueError("`modules.json` names a folder elsewhere")
    pooling = _held(place, "config.json")
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value]
    if isinstance(pooling.get("pooling_mode"), str):
        modes = [f"pooling_mode_{pooling['pooling_mode']}"]
    named = [_POOLING.get(mode.removeprefix("pooling_mode_")) for mode in modes]
    if len(named) != 1 or named[0] is None:
        raise ValueError(f"its pooling is {', '.join(modes) or 'not named'}")
    return {"output": None, "pooling": named[0], "normalize": "Normalize" in kinds}


def processor_spec(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification that a `preprocessor_config.json` stands for, without its source.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It says something that is not known here.
    """
    extractor = held.get("feature_extractor_type")
    if held.get("image_processor_type") is None and extractor is not None:
        if extractor == "WhisperFeatureExtractor":
            return _whisper(held)
        if extractor == "Wav2Vec2FeatureExtractor":
            return _waveform(held)
        if not str(extractor).endswith("ImageProcessor") and "sampling_rate" in held:
            raise ValueError(f"sound for `{extractor}` is not known")
    return _image(held)


def _whisper(held: Mapping[str, Any]) -> dict[str, Any]:
    rate = held.get("sampling_rate", 16000)
    if held.get("dither"):
        raise ValueError("`dither` adds noise to sound, which gives no inputs twice")
    return {
        "kind": "audio",
        "features": "log-mel",
        "sampling_rate": rate,
        "normalize": bool(held.get("do_normalize", False)),
        "length": rate * held.get("chunk_length", 30),
        "n_fft": held.get("n_fft", 400),
        "hop_length": held.get("hop_length", 160),
        "n_mels": held.get("feature_size", 80),
    }


def _waveform(held: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "audio",
        "features": "waveform",
        "sampling_rate": held.get("sampling_rate", 16000),
        "normalize": bool(held.get("do_normalize", True)),
    }


def _image(held: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(held.get("image_processor_type") or held.get("feature_extractor_type") or "")
    spec: dict[str, Any] = {"kind": "image", "scale": 1.0}
    if held.get("do_resize", True) and "size" in held:
        spec["resize"] = _size(held["size"])
        spec["resample"] = _RESAMPLING.get(held.get("resample", 2), "bilinear")
    if held.get("do_center_crop") and "crop_size" in held:
        crop = _size(held["crop_size"])
        edge = crop.get("shortest_edge")
        spec["crop"] = crop if edge is None else {"height": edge, "width": edge}
    if held.get("do_rescale", True):
        spec["scale"] = held.get("rescale_factor", 1 / 255)
    if held.get("rescale_offset"):
        raise ValueError("`rescale_offset` is not known")
    if held.get("do_normalize", True) and "image_mean" in held:
        spec |= {"mean": held["image_mean"], "std": held["image_std"]}
        if held.get("include_top") and "EfficientNet" in kind:
            # Its processor divides by the deviation once more.
            spec["std"] = [value * value for value in held["image_std"]]
    if "ConvNext" in kind:
        _enlarge_before_crop(spec, held)
    return spec


def _enlarge_before_crop(spec: dict[str, Any], held: Mapping[str, Any]) -> None:
    """Small images are made larger by `crop_pct` and cropped; large ones are squashed."""
    edge = spec.get("resize", {}).get("shortest_edge")
    if edge is None:
        return
    if edge >= _CONVNEXT_LIMIT:
        spec["resize"] = {"height": edge, "width": edge}
        return
    spec["resize"] = {"shortest_edge": int(edge / held.get("crop_pct", 224 / 256))}
    spec["crop"] = {"height": edge, "width": edge}


def _size(held: Any) -> dict[str, int]:
    if isinstance(held, int):
        return {"shortest_edge": held}
    if "shortest_edge" in held:
        return {key: held[key] for key in ("shortest_edge", "longest_edge") if held.get(key)}
    return {name: held[name] for name in ("height", "width")}


def _held(folder: Path, name: str) -> dict[str, Any]:
    """Return the content of a file of settings; nothing where there is none."""
    held = read_json(folder / name) if (folder / name).is_file() else {}
    return held if isinstance(held, dict) else {}
