"""Whether samples that were made of texts are made for this model."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis import index_ranges
from graphopt.calibration import Samples
from graphopt.errors import CalibrationDataError

__all__ = ["check_prepared", "vector_output"]

_LEAST_SHARE = 0.9
"""Of a table that a vocabulary fills: tables are padded, to multiples of 64 or by spare tokens."""

_HINT = "give the tokenizer that the model was trained with; `docs/calibration.md` shows how"

_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_TOKEN_RANK = 3


def check_prepared(model: ir.Model, samples: Samples) -> None:
    """Refuse a tokenizer that is another model's, and vectors of an output that there is not.

    Raises:
        CalibrationDataError: The tokenizer has indices beyond the model's table, or by far fewer;
            or a specification names an output that the model has not.
    """
    if samples.prepared is None or samples.prepared.spec["kind"] != "text":
        return
    spec = samples.prepared.spec
    known, tables = int(spec["vocabulary"]), index_ranges(model)
    for name, held in spec["inputs"].items():
        rows = tables.get(name)
        if held["holds"] == "ids" and rows is not None and not _fits(known, rows):
            raise CalibrationDataError(
                "the tokenizer does not match the model",
                where=f"input `{name}`",
                why=f"the tokenizer knows {known} tokens, the model has a table for {rows}",
                hint=_HINT,
            )
        if held["holds"] == "ids" and rows is not None:
            _check_tokens(samples, name, rows)
    asked = spec["vector"]
    outputs = [value.name for value in model.graph.outputs]
    if asked is not None and asked["output"] not in (None, *outputs):
        raise CalibrationDataError(
            f"the model has no output `{asked['output']}`",
            where="`vector.output` of a specification of texts",
            why="its outputs are " + ", ".join(f"`{name}`" for name in outputs),
        )


def vector_output(model: ir.Model, samples: Samples) -> str | None:
    """Return the output of which vectors are made; ``None`` where none are asked for.

    Where nobody names it, it is the one that holds something for each token; a model without one
    returns its vectors itself.
    """
    asked = samples.prepared.spec.get("vector") if samples.prepared is not None else None
    if asked is None:
        return None
    if asked["output"] is not None:
        return str(asked["output"])
    outputs = {value.name or "": value for value in model.graph.outputs}
    for name in _TOKEN_OUTPUTS:
        if name in outputs:
            return name
    ranks = {
        name: None if value.shape is None else value.shape.rank() for name, value in outputs.items()
    }
    found = [name for name, rank in ranks.items() if rank == _TOKEN_RANK]
    return found[0] if len(found) == 1 else None


def _check_tokens(samples: Samples, name: str, rows: int) -> None:
    """Refuse indices beyond the table, which a tokenizer may give whatever its vocabulary says."""
    for number, feed in enumerate(samples, start=1):
        largest = int(feed[name].max(initial=0))
        if largest >= rows:
            raise CalibrationDataError(
                "the tokenizer does not match the model",
                where=f"sample {number} of `{samples.source}`, input `{name}`",
                why=f"it has the token {largest}, the model has a table for {rows}",
                hint=_HINT,
            )


def _fits(known: int, rows: int) -> bool:
    return _LEAST_SHARE * rows <= known <= rows
