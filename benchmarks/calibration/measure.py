"""One calibration of one model by one tool: processor seconds, peak memory, and what came of it.

Run by `run.py`, in a process of its own. The last line it prints is a JSON object.
"""

import argparse
import itertools
import json
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

ONNXRUNTIME_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def feeds(folder, count):
    """Yield samples; when they run out, again, mirrored along the last axis."""
    files = sorted(Path(folder).glob("*.npz"))
    for index, path in enumerate(itertools.islice(itertools.cycle(files), count)):
        with np.load(path) as held:
            arrays = {name: held[name] for name in held.files}
        if (index // len(files)) % 2:
            arrays = {
                name: np.ascontiguousarray(array[..., ::-1]) if array.dtype.kind == "f" else array
                for name, array in arrays.items()
            }
        yield arrays


def graphopt(arguments):
    from graphopt.calibration import Calibrator, load_samples
    from graphopt.ir import load
    from graphopt.passes.quantize_static import QuantizeStatic
    from graphopt.rewrite import RangeMethod
    from graphopt.runtime import shared_worker

    model = load(arguments.model)
    names = QuantizeStatic().needs(model).ranges
    samples = load_samples(lambda: feeds(arguments.samples, arguments.count))
    method = RangeMethod(name=arguments.method)
    ranges = Calibrator(samples=samples)(model, names, method)
    shared_worker().close()  # so that its processor time counts
    return {name: (item.minimum, item.maximum) for name, item in ranges.items()}


def onnxruntime(arguments):
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = feeds(arguments.samples, arguments.count)

        def get_next(self):
            return next(self.left, None)

    method = getattr(CalibrationMethod, ONNXRUNTIME_METHODS[arguments.method])
    operators = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "Relu", "GlobalAveragePool"]
    calibrator = create_calibrator(
        Path(arguments.model), operators, Path(arguments.scratch) / "augmented.onnx", method
    )
    calibrator.collect_data(Reader())
    return {
        name: tuple(float(np.ravel(bound)[0]) for bound in item.range_value)
        for name, item in calibrator.compute_data().items()
    }


def resident_bytes(pid):
    """Memory of a process and its children, pages that they share counted once."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += resident_bytes(child)
    except OSError:
        pass  # ended meanwhile
    return total


class Peak(threading.Thread):
    """Looks every tenth of a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self):
        """Look until the program ends."""
        while True:
            self.bytes = max(self.bytes, resident_bytes("self"))
            time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool", choices=("graphopt", "onnxruntime"))
    for option in ("model", "samples", "method", "scratch"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--count", type=int, default=64)
    arguments = parser.parse_args()
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    found = globals()[arguments.tool](arguments)
    seconds = time.perf_counter() - start
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    record = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak.bytes, "ranges": found}
    print(json.dumps(record))


if __name__ == "__main__":
    sys.exit(main())
