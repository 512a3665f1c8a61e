"""Signal to noise of a statically quantized model by the method that its ranges come from."""

import argparse
import tempfile
from pathlib import Path

from graphopt import api
from graphopt.calibration import load_samples
from graphopt.runtime import shared_worker
from graphopt.verification import ErrorSummary

METHODS = (
    "method=minmax",
    "method=percentile percentile=99.9",
    "method=percentile percentile=99.99",
    "method=percentile percentile=99.999",
    "method=entropy",
    "method=mse",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--eval", required=True, help="samples that are not among the first ones")
    arguments = parser.parse_args()
    worker = shared_worker()
    print("| method | worst SQNR dB | worst cosine | mean cosine |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            path = Path(folder) / "quantized.onnx"
            api.run_pipeline(
                arguments.model,
                f"quantize-static{{{method}}}",
                path,
                target="cpu-int8",
                calibration=arguments.calibration,
                calibration_cache=Path(folder) / "cache",
                force=True,
            )
            summary = ErrorSummary()
            with worker.load(arguments.model) as original, worker.load(path) as quantized:
                for feed in load_samples(arguments.eval, inputs=original.inputs):
                    summary.update(original.run(feed), quantized.run(feed))
            means = [summary.mean_cosine(name) for name in summary.outputs]
            mean = min(value for value in means if value is not None)
            numbers = f"{summary.worst_sqnr_db():.2f} | {summary.worst_cosine():.5f} | {mean:.5f}"
            print(f"| {method.replace('method=', '')} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
