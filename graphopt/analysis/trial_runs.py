"""Trying a rewrite on a copy, for what only shape inference of the whole model can tell."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from graphopt.analysis.operators import Operators
from graphopt.analysis.part_writer import Part, PartWriter
from graphopt.ir import clone, graphs
from graphopt.rewrite import Edit, Editor, Journal

__all__ = ["Rewrite", "contradictory_places"]

Rewrite = Callable[[ir.Model, Editor, frozenset[str]], None]
"""Changes a model through an editor, but for the places named: see `graphopt.rewrite.describe`."""

_MAX_PLACES = 8
_TRIAL = "trial"
_FAILURES = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError)


def contradictory_places(model: ir.Model, rewrite: Rewrite) -> frozenset[str]:
    """Return the places where ``rewrite`` must not act, or the runtime may refuse the model.

    An If, whose branches may return different ranks, or a Loop hides a rank from shape inference.
    Once known, it may contradict what a reader demands, though the reader's kernel takes it: a
    Range that is given one element in place of a scalar, say. The runtime infers shapes when it
    loads a model.

    Nothing is tried on a model that is contradictory as it is, or where nothing is to be done.
    """
    probe = Journal(limit=0)
    rewrite(model, Editor(model, pass_name=_TRIAL, journal=probe), frozenset())
    if not probe.transactions or not _is_accepted(model):
        return frozenset()
    places: frozenset[str] = frozenset()
    edits, is_accepted = _tried(model, rewrite, places, None)
    while not is_accepted and len(places) < _MAX_PLACES:
        places = places.union({_first_guilty(model, rewrite, places, edits)})
        edits, is_accepted = _tried(model, rewrite, places, None)
    return places if is_accepted else places.union(edit.where for edit in edits)


def _first_guilty(
    model: ir.Model, rewrite: Rewrite, places: frozenset[str], edits: list[Edit]
) -> str:
    accepted, rejected = 0, len(edits)
    while rejected - accepted > 1:
        middle = (accepted + rejected) // 2
        if _tried(model, rewrite, places, middle)[1]:
            accepted = middle
        else:
            rejected = middle
    return edits[rejected - 1].where


def _tried(
    model: ir.Model, rewrite: Rewrite, places: frozenset[str], limit: int | None
) -> tuple[list[Edit], bool]:
    """Return the edits of a run on a copy, and whether inference accepts what it left."""
    copy, journal = clone(model), Journal(limit=limit)
    rewrite(copy, Editor(copy, pass_name=_TRIAL, journal=journal), places)
    _skip_identities(copy)
    return journal.edits, _is_accepted(copy)


def _skip_identities(model: ir.Model) -> None:
    """Let readers read what Identities copy, as other passes will: constants show only then."""
    for graph in graphs(model):
        for node in graph:
            if node.op_type == "Identity" and not node.domain and node.inputs[0] is not None:
                for user, index in node.outputs[0].uses():
                    user.replace_input_with(index, node.inputs[0])


def _is_accepted(model: ir.Model) -> bool:
    """Tell whether shape inference finds no contradiction, as the runtime demands."""
    writer = PartWriter(model, Operators(model), frozenset())
    proto = writer.part(Part(list(model.graph)))
    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except _FAILURES:
        return False
    return True
