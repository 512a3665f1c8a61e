"""Peak memory of a run, predicted and measured, before and after `reorder-for-memory`.

    python benchmarks/prune/memory.py [MODEL.onnx ...] --out results_memory.md

Two made-up networks come first: a fan of branches in a file whose order holds all of them at once,
and a product whose first side holds much while the second side needs much. Measured is the growth
of the peak resident memory of a fresh process, from before the model is loaded to after its first
run; the least of `--runs`. Weights are in it; their copies made at load do not depend on the order.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.ir import from_text, load, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import (
    SessionOptions,
    cpu_name,
    generate_feeds,
    measure_cold_start,
    runtime_version,
)

MIB = 2**20
ROWS, WIDTH, BRANCHES = 2048, 4096, 8


def fan() -> ir.Model:
    """Return a network that computes all branches before it reads the first of them."""
    makes = "".join(f"b{i} = MatMul(x, w{i}) " for i in range(BRANCHES))
    reads = "".join(f"s{i} = ReduceMax<keepdims = 0>(b{i}, axis) " for i in range(BRANCHES))
    sums = ", ".join(f"s{i}" for i in range(BRANCHES))
    weights = [f"w{i}" for i in range(BRANCHES)]
    return _with_weights(f"{makes}{reads} y = Sum({sums})", weights)


def sides(*, is_wide_first: bool) -> ir.Model:
    """Return a product of a side that is large and one that is small after something large."""
    sides_ = ("t, v" if is_wide_first else "v, t") + ")"
    body = "t = MatMul(x, w0) u = MatMul(x, w1) e = Exp(u) "
    body += "r = ReduceMax<keepdims = 1>(e, axis) v = Exp(r)"
    return _with_weights(
        f"{body} q = Mul({sides_} y = ReduceMax<keepdims = 0>(q, axis)", ["w0", "w1"]
    )


def _with_weights(body: str, names: list[str]) -> ir.Model:
    text = f"(float[{ROWS},64] x) => (float[{ROWS}] y) <int64[1] axis = {{1}}> {{ {body} }}"
    model = from_text(_declared(text, names))
    values = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
    for name in names:
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(values, name=name)
        model.graph.register_initializer(value)
    return model


def _declared(text: str, names: list[str]) -> str:
    extra = "".join(f", float[64,{WIDTH}] {name}" for name in names)
    return text.replace(" x)", f" x{extra})", 1)


def peak(path: Path, feeds: dict, order: str, runs: int) -> float:
    """Return MiB by which the peak resident memory grows in load and first run."""
    options = SessionOptions(order=order)
    found = [measure_cold_start(path, feeds, options) for _ in range(runs)]
    return min(one.peak_rss_bytes - one.base_rss_bytes for one in found) / MIB


def predicted(ledger: object) -> str:
    """Return what the pass says of peaks."""
    texts = [edit.because for edit in ledger.journal.edits]
    texts = texts or [r.why for r in ledger.journal.refusals]
    return texts[-1].replace(" of values in use at once", "") if texts else ""


def row(name: str, model: ir.Model, folder: Path, runs: int) -> str:
    """Return one line of the table; without runs, what is predicted alone."""
    if not runs:
        result = Pipeline.parse("reorder-for-memory").run(model, verify="off")
        return f"| {name} | {predicted(result.ledger)} |" + " |" * 4
    feeds = generate_feeds(model)
    before = save(model, folder / "before.onnx")[0]
    result = Pipeline.parse("reorder-for-memory").run(model, verify="numerics")
    after = save(model, folder / "after.onnx")[0]
    cells = [name, predicted(result.ledger)]
    for path in (before, after):
        cells += [f"{peak(path, feeds, order, runs):.1f}" for order in ("default", "priority")]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files, after the made-up ones")
    parser.add_argument("--out", type=Path, help="where the table goes; printed in any case")
    parser.add_argument("--runs", type=int, default=3, help="processes for each figure; 0: predict")
    arguments = parser.parse_args()
    made = {
        "fan": fan(),
        "sides, wide first": sides(is_wide_first=True),
        "sides, wide last": sides(is_wide_first=False),
    }
    lines = [
        "| model | predicted peak | before: default | priority | after: default | priority |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, model in made.items():
            lines.append(row(name, model, Path(folder), arguments.runs))
            print(lines[-1], flush=True)
        for path in arguments.models:
            name = f"{path.parent.name}/{path.name}"
            lines.append(row(name, load(path), Path(folder), arguments.runs))
            print(lines[-1], flush=True)
    text = "\n".join(
        [
            "# Peak memory of a run by order of nodes",
            "",
            f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {platform.python_version()}.",
            f"MiB, the least of {arguments.runs} fresh processes.",
            "",
            *lines,
            "",
        ]
    )
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
