"""Export the architectures of Hugging Face by every exporter, and write the table of its page.

    python benchmarks/export/run.py --interpreter torch/bin/python --work work --out results.json
        [--only bert,gpt2] [--exporters torchscript,dynamo,optimum] [--update docs/exports.md]

`--interpreter` is a Python with torch, transformers and onnxscript, and with optimum-onnx for its
column. Models come from `architectures.py`; each export is one command, `graphopt export
hf:FOLDER@TASK`, in a process of its own, and what it says is the row: the largest difference from
the framework at three sizes, or why there is no file. Results are kept in `--out`: a file that
was made by the same versions is not made again, unless `--again`.

The exit status is 1 where an export was wrong: a refusal that says why is no fault, a file that
computes something else, or a failure without a reason, is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]

TASKS = {
    "bert": ("feature-extraction",),
    "distilbert": ("feature-extraction",),
    "gpt2": ("text-generation", "text-generation-with-past"),
    "llama": ("text-generation-with-past",),
    "t5": ("text2text-generation", "text2text-generation/encoder", "text2text-generation/decoder"),
    "whisper": ("automatic-speech-recognition/encoder", "automatic-speech-recognition/decoder"),
    "clip": ("zero-shot-image-classification",),
    "vit": ("image-classification",),
    "segformer": ("semantic-segmentation",),
    "convnext": ("image-classification",),
    "swin": ("image-classification",),
    "resnet": ("image-classification",),
    "mobilenetv2": ("image-classification",),
    "efficientnet": ("image-classification",),
    "detr": ("object-detection",),
}
TITLES = {
    "bert": "BERT",
    "distilbert": "DistilBERT",
    "gpt2": "GPT-2",
    "llama": "Llama, grouped queries",
    "t5": "T5",
    "whisper": "Whisper",
    "clip": "CLIP",
    "vit": "ViT",
    "segformer": "SegFormer",
    "convnext": "ConvNeXt",
    "swin": "Swin",
    "resnet": "ResNet-50",
    "mobilenetv2": "MobileNetV2",
    "efficientnet": "EfficientNet-B0",
    "detr": "DETR",
}
EXPORTERS = ("torchscript", "dynamo", "optimum")
BEGIN = "<!-- made by benchmarks/export/run.py: begin -->"
END = "<!-- made by benchmarks/export/run.py: end -->"
PACKAGES = ("torch", "transformers", "onnxscript", "optimum-onnx")


def export(name: str, task: str, exporter: str, given: argparse.Namespace) -> Record:
    """Run one command; return what came of it."""
    folder = given.work / "out"
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, "-m", "graphopt", "export", f"hf:{given.work / name}@{task}"]
    words += ["-o", str(folder), "--exporter", exporter, "--interpreter", given.interpreter]
    words += ["--timeout", str(given.timeout), "--json", "--no-progress"]
    start = time.monotonic()
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    record: Record = {"name": name, "task": task, "exporter": exporter, "exit": ended.returncode}
    record["seconds"] = round(time.monotonic() - start, 1)
    document = json.loads(ended.stdout or "{}")
    if ended.returncode == 0:
        record["difference"] = document["largest_difference"]
        record["sizes"] = [case["shapes"] for case in document["cases"]]
        record["doubts"] = document["doubts"]
        record["nodes"] = _nodes(folder / "model.onnx")
    else:
        record["why"] = _reason(document) or ended.stderr[-500:]
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _reason(document: Record) -> str:
    error = document.get("error", document)
    return str(error.get("why") or error.get("message") or "")


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def versions(interpreter: str) -> dict[str, str]:
    """Return the versions of what exports, in the interpreter's environment."""
    code = (
        "import json, sys; from importlib.metadata import version, PackageNotFoundError\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = version(name)\n"
        "    except PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    words = [interpreter, "-c", code, *PACKAGES]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(said)
    return found


def cell(record: Record | None) -> str:
    """Return what the table says of one export."""
    if record is None:
        return "-"
    if record["exit"] == 0:
        doubts = sum("not compared" not in said for said in record["doubts"])
        told = f", {doubts} warning{'s' * (doubts > 1)}" if doubts else ""
        return f"{record['difference']:.1e}{told}"
    return f"no: {record['why'][:160]}".replace("|", "\\|").replace("\n", " ")


def table(results: dict[str, Record]) -> str:
    """Return the table in Markdown."""
    found = results["versions"]
    rows = ["| architecture | task | TorchScript | dynamo | optimum |", "|---|---|---|---|---|"]
    for name, tasks in TASKS.items():
        for task in tasks:
            held = [results["exports"].get(f"{name}@{task} {one}") for one in EXPORTERS]
            if any(held):
                rows.append(f"| {TITLES[name]} | `{task}` | {' | '.join(map(cell, held))} |")
    made = ", ".join(f"{name} {version}" for name, version in found.items())
    return "\n".join([*rows, "", f"Made with {made}."])


def update(page: Path, text: str) -> None:
    """Put the table between the marks of a page."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def is_fault(record: Record) -> bool:
    """Tell whether an export ended otherwise than in a file that is right, or in a reason."""
    return record["exit"] not in {0, 2} or not (record["exit"] == 0 or record.get("why"))


def main() -> int:
    """Export what is asked for, and write results and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--interpreter", required=True, help="Python with torch and transformers")
    parser.add_argument("--work", type=Path, required=True, help="where models are made")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON")
    parser.add_argument("--only", default=",".join(TASKS), help="architectures")
    parser.add_argument("--exporters", default=",".join(EXPORTERS))
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one export")
    parser.add_argument("--again", action="store_true", help="make what is there again")
    parser.add_argument("--update", type=Path, help="page whose table is replaced")
    given = parser.parse_args()
    given.work = given.work.absolute()
    results: Record = {"versions": versions(given.interpreter), "exports": {}}
    if given.out.exists() and not given.again:
        before = json.loads(given.out.read_text(encoding="utf-8"))
        if before["versions"] == results["versions"]:
            results = before
    made_by = [given.interpreter, str(Path(__file__).with_name("architectures.py"))]
    for name in given.only.split(","):
        if not (given.work / name / "config.json").exists():
            subprocess.run([*made_by, str(given.work), name], check=True)
        for task in TASKS[name]:
            for exporter in given.exporters.split(","):
                key = f"{name}@{task} {exporter}"
                if results["exports"].get(key, {}).get("exit") == 0:
                    continue
                results["exports"][key] = export(name, task, exporter, given)
                print(key, cell(results["exports"][key]), flush=True)
                given.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    text = table(results)
    print(text)
    if given.update:
        update(given.update, text)
    faults = [key for key, record in results["exports"].items() if is_fault(record)]
    print(*(f"fault: {key}" for key in faults), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
