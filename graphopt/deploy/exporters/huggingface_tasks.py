"""How models of Hugging Face are called for their tasks, and inputs of three sizes for them.

Names of inputs and outputs are those of optimum's exporter, so that what reads its files reads
these. The sizes are not multiples of each other, and one is a single item of a single token: what
an exporter took for a constant shows there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .loaded import ExportError

__all__ = ["PARTS", "TASKS", "Call", "Task"]

PARTS = ("encoder", "decoder")
"""Of tasks with an encoder and a decoder: each can be a model of its own."""

_SIZES = ((2, 7), (1, 1), (3, 10))
_PAST = (5, 12, 3)
_ENCODED = (9, 4, 6)
_IMAGES = (3, 1, 2)
_BATCH, _LENGTH, _TOTAL = "batch_size", "sequence_length", "total_sequence_length"
_TEXT = {0: _BATCH, 1: _LENGTH}

Tensors = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """How a model is called.

    Attributes:
        run: From inputs to outputs, both by name.
        cases: Inputs of several sizes.
        axes: By input and axis the name of the size that may change.
        outputs: What it returns; empty: what the task says.
        implied: See `Loaded`.
    """

    run: Callable[[Tensors], Mapping[str, Any]]
    cases: Sequence[Tensors]
    axes: Mapping[str, dict[int, str]]
    outputs: tuple[str, ...] = ()
    implied: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)


def _texts(model: Any, _folder: Path, _part: str, **options: Any) -> Call:
    import torch

    cases = []
    for number, (batch, length) in enumerate(_SIZES):
        given = {"input_ids": _ids(model, batch, length, number), "attention_mask": None}
        given["attention_mask"] = _mask(batch, length)
        if getattr(model.config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        cases.append(given)
    return Call(
        run=lambda given: model(**given, **options),
        cases=cases,
        axes=dict.fromkeys(cases[0], _TEXT),
        implied={
            "position_ids": lambda given: _positions(given["input_ids"], 0),
            "token_type_ids": lambda given: torch.zeros_like(given["input_ids"]),
        },
    )


def _generated(model: Any, folder: Path, part: str) -> Call:
    return _texts(model, folder, part, use_cache=False)


def _generated_with_past(model: Any, _folder: Path, _part: str) -> Call:
    """A decoder that takes the keys and values of earlier tokens, and returns them grown."""
    import torch

    layers = len(_empty_cache(model).layers)
    config = model.config
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    names = [f"{number}.{kind}" for number in range(layers) for kind in ("key", "value")]
    cases = []
    for number, ((batch, length), past) in enumerate(zip(_SIZES, _PAST, strict=True)):
        draw = torch.Generator().manual_seed(number)
        mask = torch.ones((batch, past + length), dtype=torch.int64)
        mask[1:, : past // 2] = 0  # a shorter text is padded on the left, as for generation
        given = {"input_ids": _ids(model, batch, length, number), "attention_mask": mask}
        shape = (batch, kept, past, width)
        given |= {f"past_key_values.{name}": torch.randn(shape, generator=draw) for name in names}
        cases.append(given)

    def run(given: Tensors) -> Mapping[str, Any]:
        cache = _empty_cache(model)
        for number, layer in enumerate(cache.layers):
            layer.keys = given[f"past_key_values.{number}.key"]
            layer.values = given[f"past_key_values.{number}.value"]
            layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
            layer.is_initialized = True
        found = model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            past_key_values=cache,
            use_cache=True,
        )
        held = [one for layer in cache.layers for one in (layer.keys, layer.values)]
        present = zip(names, held, strict=True)
        return {"logits": found.logits, **{f"present.{name}": one for name, one in present}}

    axes = {"input_ids": _TEXT, "attention_mask": {0: _BATCH, 1: _TOTAL}}
    axes |= {f"past_key_values.{name}": {0: _BATCH, 2: "past_sequence_length"} for name in names}
    return Call(
        run=run,
        cases=cases,
        axes=axes,
        outputs=("logits", *(f"present.{name}" for name in names)),
        implied={
            "position_ids": lambda given: _positions(
                given["input_ids"], given["past_key_values.0.key"].shape[2]
            )
        },
    )


def _empty_cache(model: Any) -> Any:
    import transformers

    cache = transformers.DynamicCache(config=model.config)
    kinds = {type(layer).__name__ for layer in getattr(cache, "layers", ())}
    if kinds != {"DynamicLayer"}:
        raise ExportError(
            "a cache of keys and values can be exported where every layer keeps all of them, with "
            f"transformers 4.56 or newer; here: {', '.join(sorted(kinds)) or 'no layers'}"
        )
    return cache


def _images(model: Any, folder: Path, _part: str) -> Call:
    import torch

    size = _image_size(model, folder)
    channels = getattr(model.config, "num_channels", 3)
    cases = []
    for number, (batch, _) in enumerate(_SIZES):
        draw = torch.Generator().manual_seed(number)
        cases.append({"pixel_values": torch.randn((batch, channels, *size), generator=draw)})
    return Call(run=lambda given: model(**given), cases=cases, axes={"pixel_values": {0: _BATCH}})


def _image_size(model: Any, folder: Path) -> tuple[int, int]:
    """Return height and width: what the model is made for, or else what its images are cut to."""
    spec = folder / "preprocessor_config.json"
    cut = json.loads(spec.read_text(encoding="utf-8")).get("size", {}) if spec.exists() else {}
    own = getattr(model.config, "image_size", None) or cut or 224
    if isinstance(own, dict):
        shortest = own.get("shortest_edge") or 224
        own = (own.get("height") or shortest, own.get("width") or shortest)
    return (own, own) if isinstance(own, int) else (int(own[0]), int(own[1]))


def _texts_and_images(model: Any, _folder: Path, _part: str) -> Call:
    import torch

    size, channels = model.config.vision_config.image_size, model.config.vision_config.num_channels
    cases = []
    for number, ((batch, length), images) in enumerate(zip(_SIZES, _IMAGES, strict=True)):
        draw = torch.Generator().manual_seed(number)
        cases.append(
            {
                "input_ids": _ids(model, batch, length, number),
                "pixel_values": torch.randn((images, channels, size, size), generator=draw),
                "attention_mask": _mask(batch, length),
            }
        )
    text = {0: "text_batch_size", 1: _LENGTH}
    axes = {"input_ids": text, "pixel_values": {0: "image_batch_size"}, "attention_mask": text}
    return Call(run=lambda given: model(**given), cases=cases, axes=axes)


def _translated(model: Any, _folder: Path, part: str) -> Call:
    """From text to text: the whole, or its encoder or decoder."""
    source = {0: _BATCH, 1: "encoder_sequence_length"}
    inputs = []
    for number, ((batch, _), length) in enumerate(zip(_SIZES, _ENCODED, strict=True)):
        ids, mask = _ids(model, batch, length, number), _mask(batch, length)
        inputs.append({"input_ids": ids, "attention_mask": mask})
    return _encoded_decoded(model, part, inputs, source)


def _transcribed(model: Any, _folder: Path, part: str) -> Call:
    """From the spectrum of speech to text: the whole, or its encoder or decoder."""
    import torch

    inputs = []
    for number, (batch, _) in enumerate(_SIZES):
        draw = torch.Generator().manual_seed(number)
        # Two frames come to one position: the second convolution has a stride of two.
        shape = (batch, model.config.num_mel_bins, 2 * model.config.max_source_positions)
        inputs.append({"input_features": torch.randn(shape, generator=draw)})
    return _encoded_decoded(model, part, inputs, {0: _BATCH})


def _encoded_decoded(
    model: Any, part: str, inputs: Sequence[Tensors], source: dict[int, str]
) -> Call:
    encoder = model.get_encoder()
    if part == "encoder":
        axes = dict.fromkeys(inputs[0], source)
        return Call(
            run=lambda given: encoder(**given),
            cases=inputs,
            axes=axes,
            outputs=("last_hidden_state",),
        )
    asked = [_ids(model, *size, number) for number, size in enumerate(_SIZES)]
    if not part:
        return Call(
            run=lambda given: model(**given, use_cache=False),
            cases=[
                {**given, "decoder_input_ids": ids}
                for given, ids in zip(inputs, asked, strict=True)
            ],
            axes={**dict.fromkeys(inputs[0], source), "decoder_input_ids": _TEXT},
        )
    cases = [_decoder_inputs(encoder, *pair) for pair in zip(inputs, asked, strict=True)]

    def run(given: Tensors) -> Mapping[str, Any]:
        from transformers.modeling_outputs import BaseModelOutput

        found: Mapping[str, Any] = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=given["encoder_hidden_states"]),
            attention_mask=given.get("encoder_attention_mask"),
            decoder_input_ids=given["input_ids"],
            use_cache=False,
        )
        return found

    return Call(run=run, cases=cases, axes={**dict.fromkeys(cases[0], source), "input_ids": _TEXT})


def _decoder_inputs(encoder: Any, given: Tensors, ids: Any) -> Tensors:
    import torch

    with torch.no_grad():
        hidden = encoder(**given).last_hidden_state
    mask = given.get("attention_mask")
    masked = {} if mask is None else {"encoder_attention_mask": mask}
    return {**masked, "input_ids": ids, "encoder_hidden_states": hidden}


def _ids(model: Any, batch: int, length: int, seed: int) -> Any:
    import torch

    config = model.config
    size = getattr(config, "vocab_size", None) or config.get_text_config().vocab_size
    return torch.randint(1, size, (batch, length), generator=torch.Generator().manual_seed(seed))


def _mask(batch: int, length: int) -> Any:
    """Return ones, but for the padding of all texts after the first."""
    import torch

    mask = torch.ones((batch, length), dtype=torch.int64)
    mask[1:, (length + 1) // 2 :] = 0
    return mask


def _positions(ids: Any, start: int) -> Any:
    import torch

    return torch.arange(start, start + ids.shape[1]).expand(ids.shape)


@dataclass(frozen=True)
class Task:
    """What a model is loaded as, and how it is called.

    Attributes:
        kind: Class of transformers.
        outputs: What is exported of the results, in order.
        form: From model, folder and part to the call.
        has_parts: Whether encoder and decoder can be exported alone.
    """

    kind: str
    outputs: tuple[str, ...]
    form: Callable[[Any, Path, str], Call]
    has_parts: bool = False


_LOGITS = ("logits",)
_CLIP = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
TASKS = {
    "feature-extraction": Task("AutoModel", ("last_hidden_state",), _texts),
    "fill-mask": Task("AutoModelForMaskedLM", _LOGITS, _texts),
    "text-classification": Task("AutoModelForSequenceClassification", _LOGITS, _texts),
    "token-classification": Task("AutoModelForTokenClassification", _LOGITS, _texts),
    "question-answering": Task(
        "AutoModelForQuestionAnswering", ("start_logits", "end_logits"), _texts
    ),
    "text-generation": Task("AutoModelForCausalLM", _LOGITS, _generated),
    "text-generation-with-past": Task("AutoModelForCausalLM", _LOGITS, _generated_with_past),
    "text2text-generation": Task("AutoModelForSeq2SeqLM", _LOGITS, _translated, has_parts=True),
    "automatic-speech-recognition": Task(
        "AutoModelForSpeechSeq2Seq", _LOGITS, _transcribed, has_parts=True
    ),
    "image-classification": Task("AutoModelForImageClassification", _LOGITS, _images),
    "image-feature-extraction": Task("AutoModel", ("last_hidden_state",), _images),
    "semantic-segmentation": Task("AutoModelForSemanticSegmentation", _LOGITS, _images),
    "object-detection": Task("AutoModelForObjectDetection", ("logits", "pred_boxes"), _images),
    "zero-shot-image-classification": Task("AutoModel", _CLIP, _texts_and_images),
}
"""By task."""
