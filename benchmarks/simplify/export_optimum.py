"""Export decoders of the zoo with optimum, from configurations with seeded random weights.

Usage (in an environment with `optimum-onnx`, torch and transformers):
    ZOO_DEFS=folder/of/zoo_defs python benchmarks/simplify/export_optimum.py --zoo zoo [NAME ...]

Writes NAME.optimum/model.onnx and spec.json: GPT-2 with a cache, a Llama-style decoder with
grouped queries and a cache, T5's encoder, and T5's merged decoder, whose two branches (with and
without a cache) are one `If`. MiniLM comes from its published weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

INTEGER = {"dtype": "int64"}
TEXT_DIMS = {"batch_size": "batch", "sequence_length": "seq", "encoder_sequence_length": "enc"}
TEXT_DIMS |= {"encoder_sequence_length_out": "enc", "decoder_sequence_length": "seq"}
TEXT_DIMS |= {"past_sequence_length": "past", "past_decoder_sequence_length": "past"}
TEXT_DIMS |= {"past_sequence_length + sequence_length": "total", "total_sequence_length": "total"}
VOCABULARY = {"gpt2_past": 50257, "llama4_past": 32000, "t5s": 32128, "minilm": 30522}
TASKS = {
    "minilm": "feature-extraction",
    "gpt2_past": "text-generation-with-past",
    "llama4_past": "text-generation-with-past",
    "t5s": "text2text-generation-with-past",
}
FILES = {
    "minilm": {"minilm": "model.onnx"},
    "gpt2_past": {"gpt2_past": "model.onnx"},
    "llama4_past": {"llama4_past": "model.onnx"},
    "t5s": {"t5s_enc": "encoder_model.onnx", "t5s_merged": "decoder_model_merged.onnx"},
}


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    """Return the dimensions of an input, by the symbols of the zoo."""
    found = value.type.tensor_type.shape.dim
    return [TEXT_DIMS.get(d.dim_param, d.dim_param) if d.dim_param else d.dim_value for d in found]


def generator(name: str, vocabulary: int) -> dict[str, Any]:
    """Return how an input is made, judged by its name."""
    match name:
        case "input_ids" | "decoder_input_ids":
            return {"kind": "randint", "high": vocabulary}
        case "position_ids":
            return {"kind": "randint", "high": 512}
        case "token_type_ids":
            return {"kind": "zeros"}
        case "attention_mask" | "encoder_attention_mask" | "use_cache_branch":
            return {"kind": "ones"}
        case _:
            return {"kind": "randn"}


def inputs(path: Path, vocabulary: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and specification of each input of a model."""
    for value in onnx.load(path, load_external_data=False).graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        entry = {"dtype": str(kind), "dims": dimensions(value)}
        yield value.name, {**entry, "gen": generator(value.name, vocabulary)}


def specification(name: str, path: Path, vocabulary: int) -> dict[str, Any]:
    """Return the spec of an exported file; a merged decoder is fed once for each branch."""
    entries = list(inputs(path, vocabulary))
    symbols = {dim for _, entry in entries for dim in entry["dims"] if isinstance(dim, str)}
    sizes = {"batch": 1, "seq": 1 if "past" in symbols else 128, "past": 128, "total": 129}
    sizes["enc"] = 128
    unknown = symbols - sizes.keys()
    if unknown:
        raise ValueError(f"{name}: no size for {unknown}")
    spec = {"name": name, "exporter": "optimum", "dims": {s: sizes[s] for s in sorted(symbols)}}
    spec["inputs"] = entries
    if name.endswith("_merged"):
        first = {"dims": {"seq": 7, "batch": 2}, "values": {"use_cache_branch": 0}}
        spec["feeds"] = [
            first,
            {"dims": {"batch": 2, "past": 9}, "values": {"use_cache_branch": 1}},
        ]
    return spec


def export(source: str, zoo: Path) -> None:
    """Export one configuration and lay its files out as the zoo does."""
    import zoo_defs
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory(dir=zoo) as folder:
        work = Path(folder)
        if source == "minilm":
            config = Path(zoo_defs.minilm_dir())
        else:
            config = work / "config"
            zoo_defs.hf(source, "eager").save_pretrained(config)
        settings = {"task": TASKS[source], "library_name": "transformers", "framework": "pt"}
        main_export(str(config), work / "out", do_validation=False, **settings)
        for name, file in FILES[source].items():
            target = zoo / f"{name}.optimum"
            target.mkdir(exist_ok=True)
            shutil.move(work / "out" / file, target / "model.onnx")
            data = work / "out" / f"{file}_data"
            if data.exists():
                shutil.move(data, target / data.name)
            spec = specification(name, target / "model.onnx", VOCABULARY[source])
            (target / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
            print(f"{target}: {len(spec['inputs'])} inputs")


def main() -> None:
    """Export what is named, or everything."""
    parser = argparse.ArgumentParser(description="Export decoders with optimum.")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=[*TASKS])
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, os.environ["ZOO_DEFS"])
    for name in arguments.names:
        export(name, arguments.zoo.absolute())


if __name__ == "__main__":
    main()
