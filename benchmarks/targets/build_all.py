"""Build MiniLM and MobileNetV2 for every target, and write the table of `docs/targets.md`.

Usage:
    python benchmarks/targets/build_all.py --zoo zoo --work work [--targets cpu-int8,cuda-fp16]
        [--models minilm,mobilenetv2] [--latency 8] [--again] [--out results.json]
        [--python openvino-int8=PYTHON ...] [--table docs/targets.md]

`zoo/` holds `minilm.ts/model.onnx` and `mobilenetv2.ts/model.onnx` with the samples
`minilm_samples` and `image_samples` (see `benchmarks/README.md`). Each bundle is built by
`graphopt optimize` in a process of its own, with calibration samples, and with fixed sizes
(`--dims`) for targets that take no open ones; where the target is on this machine it is then
checked by `graphopt validate`. `--python TARGET=PYTHON` names the interpreter for a target whose
provider comes with a runtime of its own, as OpenVINO's does. Results are kept in `--out`; what is
there is not built again, unless `--again`, so that a run may be interrupted and go on. With
`--table` the table between the two marks of that page is replaced.

The exit status is 1 where a build ended in anything but a bundle or a refusal with a hint.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]

MODELS = {
    "minilm": ("minilm.ts/model.onnx", "minilm_samples", "batch=1,seq=128"),
    "mobilenetv2": ("mobilenetv2.ts/model.onnx", "image_samples", "batch=1"),
    "resnet50": ("resnet50.ts/model.onnx", "image_samples", "batch=1"),
}
"""By name: the model, its calibration samples, and the sizes of targets with static shapes."""

BEGIN = "<!-- made by benchmarks/targets/build_all.py: begin -->"
END = "<!-- made by benchmarks/targets/build_all.py: end -->"
HOW = (
    "; latency is CPU time of a run on one thread over that of the original, - where the target "
    "is not here."
)
COLUMNS = ("target", "model", "verified", "candidate", "size", "latency", "placement", "notes")


def build(model: str, target: str, arguments: argparse.Namespace) -> Record:
    """Build one bundle; return what came of it."""
    from graphopt.targets import load_target

    path, samples, dims = MODELS[model]
    bundle = arguments.work / f"{model}.{target}"
    shutil.rmtree(bundle, ignore_errors=True)
    calibration = arguments.work / f"{model}_samples"
    is_static = load_target(target).device.static_shapes
    _prepare_samples(arguments.zoo / samples, calibration, dims if is_static else None)
    graphopt = [arguments.python.get(target, sys.executable), "-m", "graphopt"]
    command = [*graphopt, "optimize", str(arguments.zoo / path)]
    command += ["--target", target, "--calibration", str(calibration), "-o", str(bundle)]
    command += ["--latency", arguments.latency, "--json", "--no-progress"]
    command += ["--repair", arguments.repair] if arguments.repair else []
    command += ["--dims", dims] if is_static else []
    document, status = _run(command, arguments.timeout)
    record = {"model": model, "target": target, "exit": status, **_summary(document)}
    if bundle.is_dir():
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        record["manifest"] = {
            "minimum_onnxruntime": manifest["device"]["minimum_onnxruntime"],
            "verified_on": manifest["verified_on"],
        }
        if manifest["verified_on"] is not None:
            checked, _ = _run([*graphopt, "validate", str(bundle), "--json"])
            record["validated"] = checked.get("status")
        if not arguments.keep:
            shutil.rmtree(bundle)
    return record


def _prepare_samples(source: Path, folder: Path, dims: str | None) -> None:
    """Copy sixteen samples; where sizes are fixed, cut or repeat each along its open axes."""
    import numpy as np

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sizes = [int(one.rpartition("=")[2]) for one in dims.split(",")] if dims else []
    for file in sorted(source.glob("*.npz"))[:16]:
        with np.load(file) as held:
            feed = {name: held[name] for name in held.files}
        for axis, size in enumerate(sizes):
            feed = {name: _resized(array, axis, size) for name, array in feed.items()}
        np.savez(folder / file.name, **feed)


def _resized(array: Any, axis: int, size: int) -> Any:
    import numpy as np

    if array.shape[axis] >= size:
        return array.take(range(size), axis)
    # Zeros are padding to the mask, and the padding token to the table.
    widths = [(0, size - array.shape[axis] if one == axis else 0) for one in range(array.ndim)]
    return np.pad(array, widths)


def _run(command: list[str], timeout: float = 600.0) -> tuple[Record, int]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"error": {"message": f"took more than {timeout:g} s"}}, -1
    try:
        return json.loads(done.stdout or done.stderr), done.returncode
    except json.JSONDecodeError:
        return {"error": {"message": (done.stderr or "no output").strip()[-400:]}}, done.returncode


def _summary(document: Record) -> Record:
    if "error" in document and "chosen" not in document:
        return {"refusal": document["error"]}
    latency = document["latency"]
    return {
        "chosen": document["chosen"],
        "size_bytes": document["size_bytes"],
        "gates": document["gates"],
        "latency": {key: latency[key] for key in ("verdict", "ratio", "p10_ms")},
        "not_verified": document.get("not_verified"),
        "placement": _placement_of_chosen(document),
        "candidates": [
            {key: one[key] for key in ("name", "status", "reason")}
            for one in document["candidates"]
        ],
        "notes": document["notes"],
    }


def _placement_of_chosen(document: Record) -> Record | None:
    chosen = (one for one in document["candidates"] if one["name"] == document["chosen"])
    return next((one["placement"] for one in chosen), None)


def rows_of(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """Return the rows of the table, in the order of the targets."""
    found = sorted(records, key=lambda record: (record["target"], record["model"]))
    return [_row(record) for record in found]


def _row(record: Record) -> tuple[str, ...]:
    head = (f"`{record['target']}`", record["model"])
    if record.get("chosen") is None:
        return (*head, "no bundle", "-", "-", "-", "-", _refusal(record))
    sizes, latency = record["size_bytes"], record["latency"]
    size = f"{sizes['after'] / 1e6:.1f} MB ({sizes['after'] / sizes['before']:.2f})"
    timed = f"{latency['ratio']:.2f} ({latency['verdict']})" if latency["ratio"] else "-"
    if latency["ratio"] and latency["p10_ms"]["after"]:
        timed += f", {latency['p10_ms']['after']:.1f} ms"
    verified_on = record["manifest"]["verified_on"]
    verified = f"here, `validate`: {record.get('validated')}"
    if verified_on is not None:
        verified += f" (onnxruntime {verified_on['onnxruntime']})"
    if verified_on is None:
        verified = f"not here: {record['not_verified']}"
    return (*head, verified, f"`{record['chosen']}`", size, timed, _placed(record), _missed(record))


def _placed(record: Record) -> str:
    placement = record.get("placement")
    if not placement:
        return "-"
    kind = "estimate: " if placement["is_estimate"] else ""
    share = placement["share_off_accelerator"]
    off = f", {share:.0%} of the work off" if share else ""
    pieces = placement["partitions"]
    return f"{kind}{pieces} partition{'s' * (pieces != 1)}{off}"


def _missed(record: Record) -> str:
    missed = [
        f"`{gate['name']}` is {gate['value']:.3g}, limit {gate['limit']:g}"
        for gate in record["gates"]
        if gate["passed"] is False and gate["value"] is not None
    ]
    missed += _beyond_estimates(record)
    return "; ".join(missed) or "every gate met"


def _beyond_estimates(record: Record) -> list[str]:
    """Return gates on placement that an estimate, which judges nothing, is beyond."""
    placement = record.get("placement") or {"is_estimate": False}
    if not placement["is_estimate"]:
        return []
    values = {
        "max_partitions": placement["partitions"],
        "max_share_off_accelerator": placement["share_off_accelerator"],
    }
    return [
        f"estimated beyond `{gate['name']}` {gate['limit']:g}"
        for gate in record["gates"]
        if gate["name"] in values and values[gate["name"]] > gate["limit"]
    ]


def _refusal(record: Record) -> str:
    error = record.get("refusal")
    if error is not None:
        parts = [error.get("message"), error.get("why"), error.get("hint")]
        return "; ".join(part for part in parts if part)
    reasons = [f"`{one['name']}`: {_shortened(one['reason'])}" for one in record["candidates"]]
    return "; ".join([*reasons, "loosen a gate with `--gate NAME=VALUE`, or give more samples"])


def _shortened(reason: str) -> str:
    return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3g}", reason)


def table_text(records: Iterable[Record], versions: str) -> str:
    """Return the table as Markdown, with what it was made by."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += [
        "| " + " | ".join(part.replace("|", "/") for part in row) + " |" for row in rows_of(records)
    ]
    return "\n".join([versions, "", *lines])


def machine() -> str:
    """Return the processor and the versions."""
    from graphopt.runtime import cpu_features, runtime_version

    known = ("avx2", "avx512_vnni", "amx_int8", "asimddp")
    kinds = ", ".join(name for name in known if name in cpu_features())
    return (
        f"{platform.machine()} with {kinds}, ONNX Runtime {runtime_version()}, "
        f"Python {platform.python_version()}"
    )


def main() -> int:
    """Build what is asked for, write results and table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--targets", help="some of them, with commas between")
    parser.add_argument("--models", default="minilm,mobilenetv2")
    parser.add_argument("--latency", default="4", help="seconds for each candidate, or off")
    parser.add_argument("--repair", help="seconds to find what stays in float, if not the default")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one build")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    parser.add_argument(
        "--python", action="append", default=[], help="TARGET=PYTHON: builds and checks that target"
    )
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    parser.add_argument("--again", action="store_true", help="build what was built before, too")
    parser.add_argument("--keep", action="store_true", help="leave the bundles in the work folder")
    arguments = parser.parse_args()
    from graphopt.targets import target_names

    arguments.python = dict(one.split("=", 1) for one in arguments.python)
    wanted = arguments.targets.split(",") if arguments.targets else list(target_names())
    held = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    records: dict[str, Record] = held.get("records", {})
    arguments.work.mkdir(parents=True, exist_ok=True)
    for target in wanted:
        for model in arguments.models.split(","):
            key = f"{model}.{target}"
            if key in records and not arguments.again:
                continue
            records[key] = build(model, target, arguments)
            print(" | ".join(_row(records[key])), flush=True)
            document = {"machine": machine(), "records": dict(sorted(records.items()))}
            arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if arguments.table is not None:
        page = arguments.table.read_text(encoding="utf-8")
        text = f"{BEGIN}\n{table_text(records.values(), machine() + HOW)}\n{END}"
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        arguments.table.write_text(
            re.sub(pattern, lambda _: text, page, flags=re.DOTALL), encoding="utf-8"
        )
    return int(any(_is_failure(record) for record in records.values()))


def _is_failure(record: Record) -> bool:
    error = record.get("refusal")
    return error is not None and not error.get("hint")


if __name__ == "__main__":
    sys.exit(main())
