"""Constants that operators read as weights: each once, with all who read it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import annotation_parameters, is_annotated
from graphopt.compression.packed_weight import WeightView
from graphopt.compression.weight_source import NoWeight, WeightSource, reader_count, trace_weight
from graphopt.compression.weight_views import WEIGHT_INPUTS, weight_view
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import Change, Editor, is_overwritten

__all__ = ["ReadWeight", "Reading", "Wanted", "matches_any", "read_weights", "store_weight"]

_LARGEST_WEIGHT = 1e30
_MATRIX_RANK = 2


@dataclass(frozen=True)
class Reading:
    """One operator that reads a constant as its weight.

    Attributes:
        node: The operator.
        source: The weight as the operator reads it.
        view: What it sums over, in the weight as it is stored.
    """

    node: ir.Node
    source: WeightSource
    view: WeightView

    @property
    def is_lookup(self) -> bool:
        """Tell whether rows are looked up: nothing is multiplied by the weight."""
        return self.node.op_type == "Gather"


@dataclass(frozen=True)
class ReadWeight:
    """A float32 constant that is a weight for everyone who reads it.

    Attributes:
        origin: The initializer, or the output of a ``Constant``.
        readings: Its readers, in the order of the graphs; at least one.
    """

    origin: ir.Value
    readings: list[Reading] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return self.origin.name or "weight"

    @property
    def tensor(self) -> ir.TensorProtocol:
        """What it holds."""
        return self.readings[0].source.tensor

    @property
    def place(self) -> ir.Node:
        """The first of its readers, where reports say that it is."""
        return self.readings[0].node

    def array(self) -> npt.NDArray[np.float32]:
        """Return the weight as it is stored; possibly mapped, so never to be written."""
        array: npt.NDArray[np.float32] = self.tensor.numpy()
        return array


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which weights a pass treats.

    Attributes:
        ops: Operators whose weights it treats, of `WEIGHT_INPUTS`.
        minimum_elements: Smaller ones are left.
        exclude: Patterns of names of operators whose weights are left.
    """

    ops: tuple[str, ...]
    minimum_elements: int
    exclude: tuple[str, ...]


def matches_any(node: ir.Node, patterns: Iterable[str]) -> bool:
    """Tell whether the name of an operator matches one of the patterns."""
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)


def read_weights(model: ir.Model, edit: Editor, wanted: Wanted) -> list[ReadWeight]:
    """Return the weights that may be given other values; refuse the others, reader by reader.

    Slugs: ``weight-not-constant``, ``weight-overridable``, ``already-quantized``, ``not-float32``,
    ``weight-not-finite``, ``weight-rank``, ``unsupported-form``, ``too-small``,
    ``names-an-output``, ``annotated``, ``overwritten``, ``excluded``, ``shared-with-others``.

    Args:
        model: The model; branches, loop bodies and functions are looked into.
        edit: Where refusals are recorded.
        wanted: What the pass treats.
    """
    found: dict[ir.Value, ReadWeight] = {}
    annotations = annotation_parameters(model)
    for node, value in _operands(model):
        examined = _examine(node, value, wanted, annotations)
        if isinstance(examined, Reading):
            origin = examined.source.origin
            found.setdefault(origin, ReadWeight(origin)).readings.append(examined)
        # Most of what `Gather` picks from are shapes and activations: no refusal is due there.
        elif node.op_type != "Gather" or _is_of_floats(value):
            edit.refuse(node, examined.slug, why=examined.why)
    free = []
    for weight in found.values():
        # Whoever else reads it would see other values, or keep the old ones in the file.
        if reader_count(weight.origin) > len(weight.readings):
            edit.refuse(
                weight.place, "shared-with-others", why=f"`{weight.name}` is read elsewhere"
            )
        else:
            free.append(weight)
    return free


def _is_of_floats(value: ir.Value | None) -> bool:
    """Tell tables of weights from sizes and activations, of which a `Gather` picks some."""
    is_overridable = value is not None and value.is_graph_input()
    tensor = value.const_value if value is not None and is_overridable else constant_tensor(value)
    return tensor is not None and tensor.dtype.is_floating_point()


def _operands(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value | None]]:
    """Yield each operator that has weights, with each of them that is there."""
    for graph in graphs(model):
        for node in graph:
            for index in () if node.domain else WEIGHT_INPUTS.get(node.op_type, ()):
                yield node, node.inputs[index] if index < len(node.inputs) else None


def _examine(
    node: ir.Node, value: ir.Value | None, wanted: Wanted, annotations: frozenset[str]
) -> Reading | NoWeight:
    source = trace_weight(value)
    if isinstance(source, NoWeight):
        return source
    view = weight_view(node, source)
    if view is None:
        return NoWeight("weight-rank", f"the weight has rank {len(source.shape)}")
    refused = (
        _choice_refusal(node, source, wanted)
        or _form_refusal(node, source)
        or _origin_refusal(source.origin, annotations)
    )
    if refused is None and not np.all(np.abs(source.tensor.numpy()) < _LARGEST_WEIGHT):
        refused = NoWeight("weight-not-finite", "the weight holds NaN or infinity, or nearly")
    return refused or Reading(node, source, view)


def _choice_refusal(node: ir.Node, source: WeightSource, wanted: Wanted) -> NoWeight | None:
    if node.op_type not in wanted.ops or matches_any(node, wanted.exclude):
        return NoWeight("excluded", "by the options of the pass")
    if source.tensor.size < wanted.minimum_elements:
        return NoWeight("too-small", f"{source.tensor.size} elements")
    return None


def _form_refusal(node: ir.Node, source: WeightSource) -> NoWeight | None:
    rank, why = len(source.shape), None
    if source.is_reordered and (rank != _MATRIX_RANK or node.op_type == "Gather"):
        why = "the axes of the weight are reordered before it is read"
    elif node.op_type == "Gather" and node.attributes.get_int("axis", 0) not in (0, -rank):
        why = "gathered along another axis than the first"
    return None if why is None else NoWeight("unsupported-form", why)


def _origin_refusal(origin: ir.Value, annotations: frozenset[str]) -> NoWeight | None:
    """Return why something else than the operators needs the weight as it is, or ``None``."""
    if origin.is_graph_output():
        return NoWeight("names-an-output", f"a graph returns `{origin.name}`")
    if is_annotated(origin) or origin.name in annotations:
        return NoWeight("annotated", f"an annotation refers to `{origin.name}`")
    if is_overwritten(origin):
        return NoWeight("overwritten", f"`{origin.name}` is updated in place")
    return None


def store_weight(change: Change, weight: ReadWeight, array: npt.NDArray[np.float32]) -> None:
    """Give a weight other values, under the same name and for all its readers.

    Args:
        change: The rewrite that does so.
        weight: The weight.
        array: Of the shape in which it is stored.
    """
    producer = weight.origin.producer()
    if producer is None:
        change.set_tensor(weight.origin, array)
    else:  # a `Constant`; no other form of one holds more than a vector
        change.set_attributes(producer, {"value": ir.tensor(array, name=weight.origin.name)})
