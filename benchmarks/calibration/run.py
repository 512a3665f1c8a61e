"""Calibrate a model with graphopt and with ONNX Runtime, and print a table. See README.md."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = Path(__file__).with_name("measure.py")
METHODS = {
    "graphopt": ("minmax", "percentile", "entropy", "mse"),
    "onnxruntime": ("minmax", "percentile", "entropy"),
}


def measured(tool, method, count, arguments):
    """Run one calibration in a process of its own, on one core."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(MEASURE), tool, "--method", method, "--count", str(count)]
        command += ["--model", arguments.model, "--samples", arguments.samples]
        done = subprocess.run(
            [*command, "--scratch", scratch],
            capture_output=True,
            text=True,
            check=False,
            timeout=arguments.timeout,
            preexec_fn=lambda: os.sched_setaffinity(0, {arguments.core}),
        )
    record = {"tool": tool, "method": method, "samples": count}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return record | {"failure": f"exit status {done.returncode}: {last}"}
    return record | json.loads(done.stdout.splitlines()[-1])


def row(record):
    """Return a line of the table."""
    head = f"| {record['tool']} | {record['method']} | {record['samples']} |"
    if "failure" in record:
        return f"{head} {record['failure']} | |"
    return f"{head} {record['cpu_seconds']:.1f} | {record['peak_bytes'] / 1e6:.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--samples", required=True, help="folder of .npz files, one feed each")
    parser.add_argument("--counts", type=int, nargs="+", default=[64])
    parser.add_argument("--tools", nargs="+", default=list(METHODS))
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--out", required=True, help="JSON file that results are added to")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    records = json.loads(out.read_text()) if out.exists() else []
    print("| tool | method | samples | processor s | peak MB |\n|---|---|---:|---:|---:|")
    for count in arguments.counts:
        for tool in arguments.tools:
            for method in METHODS[tool]:
                if arguments.methods and method not in arguments.methods:
                    continue
                records.append(measured(tool, method, count, arguments))
                out.write_text(json.dumps(records))
                print(row(records[-1]), flush=True)


if __name__ == "__main__":
    main()
