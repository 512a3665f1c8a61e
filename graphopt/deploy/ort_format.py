"""ONNX Runtime's own format, for builds of the runtime that are reduced to what a model needs.

The runtime writes it: a graph that is optimized already, in a form that small builds can read. It
is optimized as far as every machine takes it (`extended`): layouts are for one kind of processor.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from graphopt.errors import RuntimeFailure, TargetError
from graphopt.ir import load, nodes
from graphopt.runtime import SessionOptions, Worker

__all__ = ["REQUIRED_OPERATORS", "convert_to_ort", "graph_of_ort", "required_operators"]

REQUIRED_OPERATORS = "required_operators.config"
_GRAPH = ".optimized.onnx"


def convert_to_ort(path: Path, options: SessionOptions, worker: Worker) -> Path:
    """Write `model.ort` beside an ONNX file, and beside it the same graph as ONNX, to be read.

    Args:
        path: The model.
        options: Session options of the deployment.
        worker: Where the runtime is.

    Raises:
        TargetError: The deployment is not the CPU, or the runtime cannot convert the model.
    """
    if [name for name, _ in options.providers] != ["CPUExecutionProvider"]:
        raise TargetError(
            "the package format `ort` is for the CPU provider",
            why="other providers take nodes out of the graph when it is loaded",
            hint='set `format = "onnx"` under `[package]`',
        )
    target = path.with_suffix(".ort")
    formats = {target: "ORT", Path(f"{target}{_GRAPH}"): "ONNX"}
    try:
        # Twice: the runtime writes one format at a time, and nothing here reads its own.
        for file, name in formats.items():
            saving = SessionOptions(
                optimization="extended",
                optimized_model_path=file,
                config={"session.save_model_format": name},
            )
            worker.load(path, saving).close()
    except RuntimeFailure as error:
        raise TargetError(
            "the model cannot be written in the format `ort`",
            why=error.why or error.message,
            hint='set `format = "onnx"` under `[package]`',
        ) from error
    return target


def graph_of_ort(path: Path) -> ir.Model:
    """Return the graph in a file that `convert_to_ort` wrote, without domains it does not use."""
    model = load(Path(f"{path}{_GRAPH}"))
    used = {"", *(node.domain for node in nodes(model))}
    for domain in [name for name in model.graph.opset_imports if name not in used]:
        del model.graph.opset_imports[domain]
    return model


def required_operators(model: ir.Model) -> str:
    """Return what a reduced build must hold, in the form that the runtime's build reads.

    One line for each domain: `ai.onnx;17;Conv,Relu`. See `--include_ops_by_config` of the
    runtime's `build.sh`.
    """
    found: dict[str, set[str]] = {}
    for node in nodes(model):
        found.setdefault(node.domain, set()).add(node.op_type)
    lines = [
        f"{domain or 'ai.onnx'};{model.opset_imports[domain]};{','.join(sorted(names))}"
        for domain, names in sorted(found.items())
    ]
    return "\n".join(lines) + "\n"
