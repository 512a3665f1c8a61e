"""How far 16-bit floats are from 32, on the CPU provider: `half.py MODEL... [--samples DIR]`.

For each model: outputs after `convert-float16` with ranges measured on samples, without, and with
weights alone in 16 bits, against the original without optimizations, on feeds that were not
measured. One JSON line each.

The CPU provider leaves out the rounding between neighbours that it computes in 32 bits. What
devices with 16-bit kernels do is therefore emulated: `emulated_*` are of the converted model with
32-bit operators, and every result rounded to 16 bits by an explicit pair of `Cast`.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import load, save
from graphopt.pipeline import Pipeline
from graphopt.rewrite import TargetFacts
from graphopt.runtime import Worker, generate_feeds
from graphopt.verification import compare_models

FORMS = {
    "measured": "convert-float16",
    "not measured": "convert-float16{measure=false}",
    "weights only": "convert-float16{weights_only=true}",
    "bfloat16 weights": "convert-float16{weights_only=true format=bfloat16}",
}
MEASURED, EVALUATED = 4, 2


def main() -> None:
    arguments = parse()
    for path in arguments.models:
        for name, text in FORMS.items():
            if arguments.forms and name not in arguments.forms:
                continue
            print(json.dumps(measure(path, name, text, arguments.samples)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--samples", type=Path, help="folder of feeds, else generated ones")
    parser.add_argument("--forms", nargs="*", choices=FORMS)
    return parser.parse_args()


def measure(path: Path, name: str, text: str, samples: Path | None) -> dict[str, object]:
    model = load(path)
    if samples is None:
        feeds = [generate_feeds(model, seed=seed) for seed in range(MEASURED + EVALUATED)]
    else:
        feeds = list(load_samples(samples))[: MEASURED + EVALUATED]
    calibrator = Calibrator(samples=load_samples(feeds[:MEASURED]))
    start = time.perf_counter()
    result = Pipeline.parse(text).run(
        model,
        verify="structure",
        target=TargetFacts(),
        statistics_provider=calibrator,
        reproducer_dir=None,
    )
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        written = save(model, Path(folder) / "half.onnx")
        size = sum(file.stat().st_size for file in written)
        errors = compare_models(path, written[0], feeds[MEASURED:], worker=worker).errors
        emulation = save(emulated(load(written[0])), Path(folder) / "emulated.onnx")[0]
        rounded = compare_models(path, emulation, feeds[MEASURED:], worker=worker).errors
    before = sum(file.stat().st_size for file in path.parent.glob("model.onnx*"))
    slugs = collections.Counter(refusal.slug for refusal in result.ledger.journal.refusals)
    return {
        "model": path.parent.name,
        "form": name,
        "worst_cosine": errors.worst_cosine(),
        "worst_sqnr_db": errors.worst_sqnr_db(),
        "emulated_cosine": rounded.worst_cosine(),
        "emulated_sqnr_db": rounded.worst_sqnr_db(),
        "mismatch": [item.mismatch for item in rounded.outputs.values() if item.mismatch],
        "size_ratio": size / before,
        "refusals": dict(slugs),
        "seconds": seconds,
    }


def emulated(model: ir.Model) -> ir.Model:
    """Return the model with 32-bit operators whose 16-bit results are rounded one by one."""
    shapes = infer_shapes(model)
    half = {
        value
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT16
        or ((known := shapes.of(value)) is not None and known.dtype == ir.DataType.FLOAT16)
    }
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT16:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(model.graph):
        if node.op_type == "ConstantOfShape" and node.outputs[0] in half:
            filling = node.attributes["value"].as_tensor().numpy().astype(np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filling))
        for value in node.outputs:
            if value in half and not value.is_graph_output():
                round_to_half(model.graph, node, value)
    for value in (*half, *model.graph.outputs):
        if value in half:
            value.type = None
    return model


def round_to_half(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    uses = tuple(value.uses())
    source = value
    for to in (ir.DataType.FLOAT16, ir.DataType.FLOAT):
        name = f"{value.name}_rounded_{to.name}"
        cast = ir.node("Cast", [source], attributes={"to": to.value}, name=name)
        cast.outputs[0].name = name
        graph.insert_after(node, cast)
        node, source = cast, cast.outputs[0]
    for user, index in uses:
        user.replace_input_with(index, source)


if __name__ == "__main__":
    main()
