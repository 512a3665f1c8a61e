"""What half the neurons of an encoder's feed-forward parts save of their share of the time.

Usage:
    python benchmarks/prune/speed.py --model zoo/bert_base.ts/model.onnx --work work
        [--out results_speed.md] [--budget 60] [--turns 2]

The model is measured beside itself with 50 % and with nearly all neurons cut (128 of each layer
stay), in turns, on one thread, by processor time. Time is linear in the neurons that stay:

    t(k) = other + k * feed_forward,   k: share of the neurons that stay

so that two ratios tell `feed_forward`, and what 50 % make of it. The answer on inputs of batch 1
and 128 tokens; scores are those of `l2`, without compensation, as neither changes the speed.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple, find_groups
from graphopt.ir import load, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import (
    SessionOptions,
    cpu_name,
    measure_latency,
    representative_feed,
    runtime_version,
)

CUTS = {"half": "ratio=0.5", "least": "ratio=0.95 multiple=128"}


def neurons(path: Path) -> int:
    """Return how many neurons can go, over all layers."""
    model = load(path)
    groups = find_groups(couple(model, infer_shapes(model)))
    return sum(len(g.units) for g in groups if g.kind == "neurons" and g.pin is None)


def prepared(model: Path, work: Path) -> dict[str, Path]:
    """Write the model, and its cuts, after the same exact pipeline."""
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, options in {"whole": None, **CUTS}.items():
        out = work / f"{name}.onnx"
        found[name] = out
        if out.exists():
            continue
        cut = f",prune-neurons{{{options} score=l2 compensation=off}}" if options else ""
        copy = load(model)
        Pipeline.parse(f"@exact{cut}").run(copy, source=model, verify="structure")
        save(copy, out)
    return found


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the cut files")
    parser.add_argument("--out", type=Path, help="Markdown to write")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison")
    parser.add_argument("--turns", type=int, default=2, help="how often all is measured")
    arguments = parser.parse_args()
    paths = prepared(arguments.model, arguments.work)
    counts = {name: neurons(path) for name, path in paths.items()}
    least = counts["least"] / counts["whole"]
    half = counts["half"] / counts["whole"]
    feed = representative_feed(load(paths["whole"]))
    command = f"python benchmarks/prune/speed.py --model {arguments.model.parent.name}/model.onnx"
    versions = f"onnxruntime {runtime_version()}, Python {platform.python_version()}, {cpu_name()}"
    columns = (
        "turn",
        "neurons that stay",
        "time of the whole model",
        "share of the feed-forward parts",
        "their time",
        "speed-up of that share",
    )
    lines = [
        f"`{command} --work work`; {versions}, one thread, processor time.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for turn in range(arguments.turns):
        ratio = {}
        for name in CUTS:
            found = measure_latency(
                paths["whole"],
                paths[name],
                feed,
                options=SessionOptions(threads=1),
                budget_s=arguments.budget,
            )
            ratio[name] = found.cpu_ratio
        share = (1.0 - ratio["least"]) / (1.0 - least)
        left = ratio["half"] - (1.0 - share)
        lines.append(
            f"| {turn + 1} | {half:.3f} | {ratio['half']:.3f}x | {share:.3f} "
            f"| {left / share:.3f}x | {share / left:.2f}x |"
        )
        print(lines[-1], flush=True)
    if arguments.out:
        title = "# Speed of half the neurons\n\n"
        arguments.out.write_text(title + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
