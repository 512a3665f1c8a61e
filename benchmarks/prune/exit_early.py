"""What early exits of trained classifiers save, and whether they agree with the whole model.

    python benchmarks/prune/train.py --out trained --only digits_transformer digits_cnn
    python benchmarks/prune/exit_early.py trained/digits_transformer --out results_exit_early.md

For each rule the exit is made from `calibration/` and judged on `evaluation/`, which it has not
seen: the share of rows that leave, the share that gets the same class as from the whole model, the
accuracy by labels, and the mean CPU time of a row at batch 1 relative to the original's, both timed
in turns on the same rows. `nobody` and `everybody` are the model with a threshold that no row, or
every row, passes: what the exit itself costs, and what is spared at most.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import clone, load, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import Session, cpu_name, input_specs, runtime_version, shared_worker

RULES = (
    "agreement=0.99",
    "agreement=0.99 certainty=entropy",
    "agreement=0.99 pool=mean",
    "agreement=0.98",
    "agreement=0.95",
    "agreement=0.99 after=block-0",
    "agreement=0.99 after=block-3",
    "agreement=0.99 after=block-5",
)


def with_threshold(model: ir.Model, value: float) -> ir.Model:
    """Return a copy with another threshold."""
    copy = clone(model)
    held = copy.graph.initializers["exit_threshold"]
    held.const_value = ir.tensor(np.array(value, np.float32), name=held.name)
    return copy


def leaving(model: ir.Model, session_of: object, rows: list[dict]) -> float:
    """Return the share of rows that leave: their scores are those of the head."""
    all_leave = session_of(with_threshold(model, -np.finfo(np.float32).max))
    none_leave = session_of(with_threshold(model, np.finfo(np.float32).max))
    own = session_of(model)
    left = 0
    for row in rows:
        found, early, late = (_scores(s, row) for s in (own, all_leave, none_leave))
        left += np.array_equal(found, early) and not np.array_equal(found, late)
    return left / len(rows)


def _scores(session: Session, row: dict) -> np.ndarray:
    (scores,) = session.run(row).values()
    return scores


def time_ratio(candidate: Session, original: Session, rows: list[dict], rounds: int) -> float:
    """Return the mean time of a row, relative to the original's; the median of rounds."""
    ratios = []
    for _ in range(rounds):
        spent = {original: 0.0, candidate: 0.0}
        for row in rows:
            for session in (original, candidate):
                session.prepare(row)
                spent[session] += min(session.time().cpu_ns for _ in range(3))
        ratios.append(spent[candidate] / spent[original])
    return float(np.median(ratios))


def measured(folder: Path, rule: str, place: Path, rounds: int) -> list[list[str]]:
    """Make one exit, and return lines of the table."""
    base = load(folder / "model.onnx")
    Pipeline.parse("@exact").run(base, verify="structure")
    specs = input_specs(base)
    samples = load_samples(folder / "calibration", inputs=specs)
    model = clone(base)
    start = time.monotonic()
    ledger = (
        Pipeline.parse(f"exit-early{{{rule}}}")
        .run(model, verify="structure", statistics_provider=Calibrator(samples=samples))
        .ledger
    )
    seconds = time.monotonic() - start
    if not ledger.journal.edits:
        slugs = sorted({refusal.slug for refusal in ledger.journal.refusals})
        return [[rule, "refused: " + ", ".join(slugs), *[""] * 5]]
    held_out = dict(np.load(next(iter(sorted((folder / "evaluation").glob("*.npz"))))))
    labels = held_out.pop("__labels__")
    rows = [{k: v[i : i + 1] for k, v in held_out.items()} for i in range(len(labels))]
    worker = shared_worker()

    def session_of(some: ir.Model) -> Session:
        return worker.load(save(some, place / f"{time.monotonic_ns()}.onnx")[0])

    original, lines = session_of(base), []
    wanted = np.array([_scores(original, row).argmax() for row in rows])
    limit = float(np.finfo(np.float32).max)
    where = ledger.journal.edits[0].because.split("behind ")[1].split(" ")[0]
    cases = {"": model}
    if rule == RULES[0]:
        cases |= {
            "nobody": with_threshold(model, limit),
            "everybody": with_threshold(model, -limit),
        }
    for name, case in cases.items():
        session = session_of(case)
        classes = np.array([_scores(session, row).argmax() for row in rows])
        share = leaving(model, session_of, rows) if not name else float(name == "everybody")
        lines.append(
            [
                f"{rule} {name}",
                where,
                f"{share:.3f}",
                f"{(classes == wanted).mean():.4f}",
                f"{(classes == labels).mean():.4f}",
                f"{time_ratio(session, original, rows[:: max(1, len(rows) // 120)], rounds):.3f}",
                f"{seconds:.0f}",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="models of `train.py`")
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--out", type=Path, help="where the table goes")
    arguments = parser.parse_args()
    lines = [
        "# Early exits",
        "",
        f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {platform.python_version()}.",
        "One thread, batch 1.",
        "",
    ]
    titles = ["rule", "behind", "leave", "agreement", "accuracy", "CPU time", "seconds to make"]
    for folder in arguments.folders:
        lines += [f"## {folder.name}", "", f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * 5]
        for rule in RULES:
            with tempfile.TemporaryDirectory() as place:
                for cells in measured(folder, rule, Path(place), arguments.rounds):
                    lines.append(f"| {' | '.join(cells)} |")
                    print(lines[-1], flush=True)
        lines.append("")
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
