"""What attention as one operator of ONNX Runtime brings: the table in docs/targets.md.

Usage:
    python benchmarks/targets/fused_attention.py --zoo zoo --work work [--graphs NAME,...]
        [--budget 20] [--runs 2] [--build]

For each graph four models are made by `graphopt run` and kept in `--work`: the floats of `@exact`
and of candidate `fused` of `cpu-fp32`, and the 8 bits of candidates `dynamic` and `fused` of
`cpu-int8`. Then each second one is timed against the first, by turns in one process, on one thread,
at the sizes of the graph's `spec.json` without padding, as often as `--runs` says. A row has the
ratios of CPU time with their 95 % intervals. `--build` makes the models and times nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simplify"))
from feeds import make_feed

from graphopt.runtime import measure_latency

PAIRS = {"floats": ("exact", "fused-floats"), "8 bits": ("dynamic", "fused")}


def pipelines() -> dict[str, str]:
    """Return what makes each of the four, as the targets have it."""
    folder = resources.files("graphopt") / "targets"
    floats, integers = (
        tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))["candidates"]
        for name in ("cpu-fp32", "cpu-int8")
    )
    return {
        "exact": "@exact",
        "fused-floats": f"@exact,{floats['fused']['pipeline']}",
        "dynamic": f"@exact,{integers['dynamic']['pipeline']}",
        "fused": f"@exact,{integers['fused']['pipeline']}",
    }


def build(model: Path, folder: Path) -> dict[str, Path]:
    """Return the four models, made where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: folder / f"{name}.onnx" for name in pipelines()}
    for name, text in pipelines().items():
        if not made[name].exists():
            command = ["graphopt", "run", str(model), "-p", text, "--target", "cpu-int8"]
            subprocess.run([*command, "-o", str(made[name])], check=True, capture_output=True)
    return made


def ratios(made: dict[str, Path], spec: Path, budget_s: float) -> dict[str, str]:
    """Time each pair at the size of the spec, every position of every sequence in use."""
    feed = make_feed(json.loads(spec.read_text(encoding="utf-8")), {}, 0)
    if "attention_mask" in feed:
        feed["attention_mask"][...] = 1
    found = {}
    for kind, (before, after) in PAIRS.items():
        latency = measure_latency(made[before], made[after], feed, budget_s=budget_s)
        low, high = latency.cpu_interval or (float("nan"), float("nan"))
        found[kind] = f"{latency.cpu_ratio:.3f} ({low:.3f} to {high:.3f})"
    return found


def main() -> None:
    """Make the models and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--graphs", default="minilm.ts,gpt2.dyn,whisper_enc.dyn")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each pair")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--build", action="store_true", help="make the models alone")
    given = parser.parse_args()
    print("| graph | run | " + " | ".join(f"{kind}: fused over not" for kind in PAIRS) + " |")
    print("|---|---|" + "---|" * len(PAIRS))
    for name in given.graphs.split(","):
        made = build(given.zoo / name / "model.onnx", given.work / name)
        for run in range(0 if given.build else given.runs):
            found = ratios(made, given.zoo / name / "spec.json", given.budget)
            print(f"| {name} | {run + 1} | " + " | ".join(found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
