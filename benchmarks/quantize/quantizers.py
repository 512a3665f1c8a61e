"""Quantize one model with one tool in a process of its own, and print what the call took.

Usage:
    python benchmarks/quantize/quantizers.py KIND MODEL OUT SAMPLES

Each tool is called as its documentation tells its users to. Needs nothing but numpy and the tool
itself, so that a tool with needs of its own runs in an environment of its own. Prints one JSON
document: seconds of the call, CPU seconds and peak resident bytes of this process and its children.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[Any]]
Quantizer = Callable[[Path, Path, Path], object]


def feeds(folder: Path) -> Iterator[Feed]:
    """Yield the feeds of a folder of `.npz` files, in order of name."""
    for path in sorted(folder.glob("*.npz")):
        yield dict(np.load(path))


class Reader:
    """Hands feeds to ONNX Runtime's calibrators, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._feeds = feeds(folder)

    def get_next(self) -> Feed | None:
        """Return the next feed, or nothing at the end."""
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[Feed]:
        """Yield the feeds that are left."""
        return self._feeds

    def __next__(self) -> Feed:
        """Return the next feed."""
        return next(self._feeds)


def _is_large(model: Path) -> bool:
    return sum(path.stat().st_size for path in model.parent.glob("model.onnx*")) > 1 << 31


def ort_dynamic(model: Path, out: Path, _: Path, **options: Any) -> None:
    """`quantize_dynamic` of ONNX Runtime."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, out, use_external_data_format=_is_large(model), **options)


def ort_dynamic_channel(model: Path, out: Path, samples: Path) -> None:
    """`quantize_dynamic` with one weight scale per channel."""
    ort_dynamic(model, out, samples, per_channel=True)


def ort_static(model: Path, out: Path, samples: Path, **options: Any) -> None:
    """`quantize_static` of ONNX Runtime; every setting at its default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    CalibrationDataReader.register(Reader)
    quantize_static(model, out, Reader(samples), use_external_data_format=False, **options)


def ort_static_channel(model: Path, out: Path, samples: Path) -> None:
    """`quantize_static` with one weight scale per channel."""
    ort_static(model, out, samples, per_channel=True)


def ort_static_u8s8(model: Path, out: Path, samples: Path, **options: Any) -> None:
    """`quantize_static` in the form that is fastest on x86, after its own pre-processing."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        # It fails on models with external data: a user makes the weights inline first.
        inline, prepared = Path(folder) / "inline.onnx", Path(folder) / "model.onnx"
        onnx.save(onnx.load(model), inline)
        try:
            quant_pre_process(str(inline), str(prepared))
        except Exception as error:  # noqa: BLE001 - its symbolic shapes fail in many ways
            print(f"quant_pre_process failed: {error}", file=sys.stderr)
            quant_pre_process(str(inline), str(prepared), skip_symbolic_shape=True)
        ort_static(
            prepared, out, samples, per_channel=True, activation_type=QuantType.QUInt8, **options
        )


def ort_static_percentile(model: Path, out: Path, samples: Path) -> None:
    """The same with ranges by percentile."""
    from onnxruntime.quantization import CalibrationMethod

    ort_static_u8s8(model, out, samples, calibrate_method=CalibrationMethod.Percentile)


def ort_4bit(model: Path, out: Path, _: Path, **options: Any) -> None:
    """The 4-bit weight quantizer of ONNX Runtime, in its default form."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(model), **options)
    quantizer.process()
    quantizer.model.save_model_to_file(str(out), _is_large(model))


def ort_4bit_accurate(model: Path, out: Path, samples: Path) -> None:
    """The same with blocks of 32 and the kernel that computes in integers."""
    ort_4bit(model, out, samples, block_size=32, is_symmetric=True, accuracy_level=4)


def ort_4bit_long(model: Path, out: Path, samples: Path) -> None:
    """The same with blocks of 128."""
    ort_4bit(model, out, samples, block_size=128, is_symmetric=True, accuracy_level=4)


def nncf(model: Path, out: Path, samples: Path, **options: Any) -> None:
    """`nncf.quantize` with its defaults."""
    import nncf as tool
    import onnx

    dataset = tool.Dataset(list(feeds(samples)))
    size = len(list(samples.glob("*.npz")))
    quantized = tool.quantize(onnx.load(model), dataset, subset_size=size, **options)
    onnx.save(quantized, out)


def nncf_transformer(model: Path, out: Path, samples: Path) -> None:
    """`nncf.quantize` told that the model is a transformer."""
    import nncf as tool

    nncf(model, out, samples, model_type=tool.ModelType.TRANSFORMER)


def graphopt_target(target: str) -> Quantizer:
    """Return what runs `graphopt.optimize` for a target and leaves the bundle beside `out`."""

    def run(model: Path, out: Path, samples: Path) -> None:
        import graphopt

        result = graphopt.optimize(model, target=target, calibration=samples)
        result.bundle.save(out.parent / "bundle", force=True, allow_missed_goals=True)
        for path in (out.parent / "bundle").glob("model.onnx*"):
            shutil.copyfile(path, out.parent / path.name)
        print(result.report.chosen, file=sys.stderr)

    return run


def graphopt_pipeline(pipeline: str) -> Quantizer:
    """Return what runs one graphopt pipeline without checking its numbers, as peers do."""

    def run(model: Path, out: Path, samples: Path) -> None:
        import graphopt
        from graphopt.runtime import shared_worker

        graphopt.run_pipeline(
            model,
            pipeline,
            out,
            target="cpu-int8",
            calibration=samples,
            verify="off",
            force=True,
        )
        shared_worker().close()

    return run


QUANTIZERS: dict[str, Quantizer] = {
    "ort-dynamic": ort_dynamic,
    "ort-dynamic-channel": ort_dynamic_channel,
    "ort-static": ort_static,
    "ort-static-channel": ort_static_channel,
    "ort-static-u8s8": ort_static_u8s8,
    "ort-static-percentile": ort_static_percentile,
    "ort-4bit": ort_4bit,
    "ort-4bit-accurate": ort_4bit_accurate,
    "ort-4bit-long": ort_4bit_long,
    "nncf": nncf,
    "nncf-transformer": nncf_transformer,
    "graphopt:cpu-int8": graphopt_target("cpu-int8"),
    "graphopt:cpu-int4": graphopt_target("cpu-int4"),
    "graphopt-static": graphopt_pipeline("quantize-static"),
    "graphopt-static-tables": graphopt_pipeline(
        "@exact,quantize-static,quantize-dynamic{ops=[Gather]}"
    ),
    "graphopt-static-percentile": graphopt_pipeline("quantize-static{method=percentile}"),
    "graphopt-static-entropy": graphopt_pipeline("quantize-static{method=entropy}"),
    "graphopt-static-mse": graphopt_pipeline("quantize-static{method=mse}"),
    "graphopt-outliers": graphopt_pipeline(
        "@exact,deepen-masks,quantize-linear-layers{twofold_price_db=1.08 twofold_share=0.17 "
        "rounding=compensated},quantize-dynamic{ops=[Gather]},clear-value-info"
    ),
    "graphopt-mixed": graphopt_pipeline(
        "@fused,join-products,quantize-weights{block_size=128 eight_bits_share=0.375 "
        "eight_bits_block_size=256},clear-value-info"
    ),
}


def spent() -> tuple[float, int]:
    """Return CPU seconds and peak resident bytes of this process and of its children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return seconds, 1024 * sum(usage.ru_maxrss for usage in usages)


def main() -> None:
    """Run one quantizer and print what the call took."""
    kind, model, out, samples = sys.argv[1], *map(Path, sys.argv[2:5])
    cpu, wall = spent()[0], time.perf_counter()
    QUANTIZERS[kind](model, out, samples)
    seconds, peak = spent()
    record = {"wall_s": time.perf_counter() - wall, "cpu_s": seconds - cpu, "peak_bytes": peak}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
