"""Whether it pays to share out what goes: evenly, by scores, or by measured curves.

    python benchmarks/prune/train.py --out trained --only digits_transformer digits_cnn
    python benchmarks/prune/allocation.py trained/digits_transformer --kinds heads \
        --out results_allocation.md

For each kind of unit, ratio and allocation the model is pruned on `calibration/` and judged on
`evaluation/`, which it has not seen: what the scores are off by, ``sqrt(E|y - y0|^2 / E|y0|^2)``,
the share of inputs that get the same class, and the share of the parameters that is left. Ratios of
`measured` are of the weights that lie on units, the others of units: compare by what is left.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np

from graphopt.analysis import summarise
from graphopt.calibration import Calibrator, load_samples
from graphopt.compression.unit_selection import ALLOCATIONS
from graphopt.ir import load, model_bytes
from graphopt.pipeline import Pipeline
from graphopt.runtime import cpu_name, runtime_version, shared_worker

HEADER = (
    "| model | pipeline | groups cut | parameters left | error | same class | seconds |",
    "|---|---|---|---:|---:|---:|---:|",
)


def scores_of(model: object, rows: list[dict]) -> np.ndarray:
    """Return the first output over all inputs, one row for each."""
    with shared_worker().load(model_bytes(model)) as session:
        name = session.outputs[0].name
        return np.concatenate([session.run(feed)[name] for feed in rows]).astype(np.float64)


def measured(folder: Path, text: str) -> str:
    """Prune by a pipeline, and return its line of the table."""
    rows = [dict(feed) for feed in load_samples(folder / "evaluation")]
    original, model = (load(folder / "model.onnx") for _ in range(2))
    wanted, before = scores_of(original, rows), summarise(original).parameters
    start = time.monotonic()
    calibrator = Calibrator(samples=load_samples(folder / "calibration"))
    pipeline = Pipeline.parse(f"@exact,{text}")
    ledger = pipeline.run(model, statistics_provider=calibrator, verify="structure").ledger
    seconds = time.monotonic() - start
    found = scores_of(model, rows)
    error = float(np.sqrt(((found - wanted) ** 2).sum() / (wanted**2).sum()))
    same = float((found.argmax(-1) == wanted.argmax(-1)).mean())
    gone = ", ".join(str(len(one.removed)) for one in ledger.journal.decisions)
    left = summarise(model).parameters / before
    cells = (folder.name, f"`{text}`", gone, f"{left:.3f}", f"{error:.4f}", f"{same:.4f}")
    return f"| {' | '.join(cells)} | {seconds:.0f} |"


def main() -> None:
    """Measure every kind, ratio and allocation, and write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="a model with its samples")
    parser.add_argument("--kinds", nargs="+", default=["heads", "neurons"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.25, 0.5])
    parser.add_argument("--options", default="", help="of every pass, such as `multiple=8`")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    about = f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {platform.python_version()}."
    lines = ["# Sharing out what goes", "", about, "", *HEADER]
    for folder in given.folder:
        for kind in given.kinds:
            for ratio in given.ratios:
                for allocation in ALLOCATIONS:
                    options = f"ratio={ratio} allocation={allocation} {given.options}".strip()
                    line = measured(folder, f"prune-{kind}{{{options}}}")
                    print(line, flush=True)
                    lines.append(line)
                    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
