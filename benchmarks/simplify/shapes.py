"""Our own rules for types and shapes beside ONNX's inference, value by value, over a zoo of graphs.

Usage:
    python benchmarks/simplify/shapes.py --zoo zoo [--models minilm.ts,gpt2.dyn]

For every graph: values, contradictions, dimensions and types of which the rules know less than
inference, and those of which they know more. Exits with 1 where rules contradict or know less.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from graphopt.analysis.shapes import infer_shapes
from graphopt.analysis.typed_shapes import TypedShapes, is_covered
from graphopt.ir import load
from graphopt.rewrite import ValueShape

UNKNOWN = "unk__"  # what a size is called that inference knows nothing of


def compare(ours: ValueShape | None, theirs: ValueShape | None) -> Iterator[str]:
    """Yield what differs about one value: `wrong`, `less` or `more`, once for each dimension."""
    if ours is None or theirs is None:
        if ours is not theirs:
            yield "more" if theirs is None else "less"
        return
    if ours.dtype != theirs.dtype:
        yield "wrong"
    if ours.dims is None or theirs.dims is None:
        if ours.dims is not theirs.dims:
            yield "more" if theirs.dims is None else "less"
        return
    if len(ours.dims) != len(theirs.dims):
        yield "wrong"
        return
    pairs = zip(ours.dims, theirs.dims, strict=True)
    yield from (compare_sizes(mine, other) for mine, other in pairs if mine != other)


def compare_sizes(mine: int | str | None, other: int | str | None) -> str:
    """Return what differs about one dimension."""
    if isinstance(mine, int) and isinstance(other, int):
        return "wrong"
    is_named = isinstance(other, str) and not other.startswith(UNKNOWN)
    return "less" if isinstance(other, int) or is_named else "more"


def values(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the inputs of a model and what its nodes compute."""
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


def main() -> int:
    """Compare graph by graph; return how the process ends."""
    parser = argparse.ArgumentParser(description="Own shape rules beside ONNX's inference.")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of NAME/model.onnx")
    parser.add_argument("--models", help="comma-separated folders of the zoo; all by default")
    arguments = parser.parse_args()
    present = sorted(path.parent.name for path in arguments.zoo.glob("*/model.onnx"))
    total: Counter[str] = Counter()
    print("| graph | values | wrong | less | more |\n|---|---|---|---|---|")
    for name in arguments.models.split(",") if arguments.models else present:
        model = load(arguments.zoo / name / "model.onnx")
        if not is_covered(model):
            total["left to inference"] += 1
            print(f"| {name} | left to inference | | | |")
            continue
        rules, table = TypedShapes(model), infer_shapes(model)
        found = Counter(
            kind for value in values(model) for kind in compare(rules.shape(value), table.of(value))
        )
        found["values"] = sum(1 for _ in values(model))
        print("|", name, *(f"| {found[key]}" for key in ("values", "wrong", "less", "more")), "|")
        total.update(found)
    print(f"\nall: {dict(total)}")
    return int(total["wrong"] + total["less"] > 0)


if __name__ == "__main__":
    sys.exit(main())
