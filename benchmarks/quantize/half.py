"""How far 16-bit floats are from 32, on the CPU provider: `half.py MODEL... [--samples DIR]`.

For each model: outputs after `convert-float16` with ranges measured on samples, without, and with
weights alone in 16 bits, against the original without optimizations, on feeds that were not
measured. One JSON line each; `--markdown` prints the table.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
from pathlib import Path

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
    before = sum(file.stat().st_size for file in path.parent.glob("model.onnx*"))
    slugs = collections.Counter(refusal.slug for refusal in result.ledger.journal.refusals)
    return {
        "model": path.parent.name,
        "form": name,
        "worst_cosine": errors.worst_cosine(),
        "worst_sqnr_db": errors.worst_sqnr_db(),
        "mismatch": [item.mismatch for item in errors.outputs.values() if item.mismatch],
        "size_ratio": size / before,
        "refusals": dict(slugs),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
