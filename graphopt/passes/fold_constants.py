"""Constant folding."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.analysis import KeptShapes, annotation_parameters
from graphopt.analysis.constant_regions import (
    ConstantRegion,
    FoldingPart,
    FoldingPlan,
    frame_bytes,
    plan_folding,
    total_weight_bytes,
)
from graphopt.analysis.exact_arithmetic import computed
from graphopt.analysis.foldability import FoldableNodes, liftable_constants
from graphopt.analysis.moving_elements import moved
from graphopt.analysis.proto_writer import ProtoWriter
from graphopt.errors import RuntimeFailure
from graphopt.ir import constant_tensor, tensor_dims
from graphopt.rewrite import Change, Contract, Editor, Exact, Facts, Needs, Pass, option
from graphopt.runtime import SessionOptions, shared_worker

__all__ = ["FoldConstants"]

_Arrays = Mapping[ir.Value, np.ndarray[Any, Any]]

# Weights that the runtime packs for a kernel of its own may round differently; see `Exact`.
_OPTIONS = SessionOptions(optimization="disabled", config={"session.disable_prepacking": "1"})
_BATCH_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Compute beforehand what does not depend on the inputs.

    What it does
        Runs every node whose inputs are constants, all of them in one session of ONNX Runtime with
        its optimizations disabled, and stores the results that other nodes read as initializers.
        No session is needed where nodes move elements, or compute what has one possible result.
        Shape and Size of values whose dimensions are known count as constants, with the integer
        arithmetic on them. `Constant` nodes become initializers, equal small ones the same. Works
        inside subgraphs too.

    When it refuses
        `grows-the-file`          the results are larger than what they replace.
        `random`                  the operator draws random numbers, or trains.
        `unknown-effect`          the operator is of an unknown domain.
        `not-standard`            a call of a function, or an operator of the runtime's own.
        `has-subgraph`            If, Loop and Scan are not run beforehand.
        `quantizer`               QuantizeLinear and its inverse say how a weight is stored.
        `implementation-defined`  conversions of numbers out of range, division by zero.
        `not-a-tensor`            sequences, optionals and sparse tensors cannot be initializers.
        `text`                    strings.
        `unknown-size`            the result's size is not known before it is computed.
        `too-large`               the result, or a value on the way, exceeds `max_bytes`.
        `names-an-output`         a graph returns the value under its name.
        `annotated`               a quantization annotation describes the value.
        `overwritten`             BatchNormalization in training mode updates the value in place.
        `runtime-failed`          ONNX Runtime cannot run the nodes.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them on
        the CPU that folds. Initializers that a caller may override are not constants. The file
        does not grow by more than `max_growth_bytes`.

    Cost
        Time O(nodes + edges) and that of the folded nodes; memory: the tensors that they read and
        compute, at most about 256 MB at a time.

    Example
        before  (float[N] x) => (float[N] z) <float a = {2.0}, float b = {3.0}> { c = Mul(a, b)  z = Mul(x, c) }
        after   (float[N] x) => (float[N] z) <float c = {6.0}> { z = Mul(x, c) }

    References
        Compare ONNX Runtime `ConstantFolding`, which sets no bound to the size of results.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fold-constants"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    max_growth_bytes: int = option(0, help="how much the file may grow", unit="bytes", minimum=0)
    max_bytes: int = option(1 << 30, help="largest result of one node", unit="bytes", minimum=0)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fold constants, again as long as what was folded shows the sizes of more."""
        storage = _Storage(annotation_parameters(model), self.max_growth_bytes, edit)
        if storage.lift(liftable_constants(model)):
            # Half of what some exporters write are Constants: nothing more looks at these nodes.
            facts = replace(facts, shapes=facts.shapes.renewed(model))
        while True:
            edits_before = len(edit.journal.edits)
            foldable = FoldableNodes(model, facts.shapes, max_bytes=self.max_bytes)
            plan = plan_folding(foldable, facts.shapes, storage.budget_bytes)
            _fold(foldable, plan, storage, facts, edit)
            if len(edit.journal.edits) == edits_before:
                break
            known = _changes(facts)
            facts = replace(facts, shapes=facts.shapes.renewed(model))
            was_all = not (foldable.refusals or plan.left_out)
            if was_all and known is not None and known == _changes(facts):
                break
        for node, slug, why in foldable.refusals:
            edit.refuse(node, slug, why=why)
        for node, growth_bytes in plan.left_out.items():
            edit.refuse(node, "grows-the-file", why=f"by {growth_bytes} bytes")


def _changes(facts: Facts) -> int | None:
    return facts.shapes.changes if isinstance(facts.shapes, KeptShapes) else None


def _fold(
    foldable: FoldableNodes, plan: FoldingPlan, storage: _Storage, facts: Facts, edit: Editor
) -> None:
    known = {n.outputs[0]: array for n, array in foldable.arrays.items() if array is not None}
    for batch in _batches(plan.parts):
        regions = [region for part in batch for region in part.regions]
        arrays: dict[ir.Value, np.ndarray[Any, Any]] = {}
        failed = _compute(regions, known, facts, edit, arrays)
        for part in batch:
            storage.store(part, arrays, failed)


def _batches(parts: Iterable[FoldingPart]) -> Iterable[list[FoldingPart]]:
    """Gather parts whose weights fit into one session's memory."""
    batch: list[FoldingPart] = []
    filled = 0
    for part in parts:
        read = [value for region in part.regions for node in region.nodes for value in node.inputs]
        size = total_weight_bytes(filter(None, read))
        if batch and filled + size > _BATCH_BYTES:
            yield batch
            batch, filled = [], 0
        batch.append(part)
        filled += size
    if batch:
        yield batch


# -- computing ----------------------------------------------------------------------------------


def _compute(
    regions: Sequence[ConstantRegion],
    known: _Arrays,
    facts: Facts,
    edit: Editor,
    arrays: dict[ir.Value, np.ndarray[Any, Any]],
) -> set[ConstantRegion]:
    """Add the results of ``regions`` to ``arrays``; return those that the runtime cannot run."""
    try:
        arrays.update(_evaluate(regions, known, facts, edit))
    except RuntimeFailure as failure:
        if len(regions) == 1:
            edit.refuse(regions[0].nodes[-1], "runtime-failed", why=str(failure))
            return set(regions)
        half = len(regions) // 2
        halves = (regions[:half], regions[half:])
        return set().union(*(_compute(some, known, facts, edit, arrays) for some in halves))
    return set()


def _evaluate(
    regions: Sequence[ConstantRegion], known: _Arrays, facts: Facts, edit: Editor
) -> _Arrays:
    """Compute the results of several regions in one session.

    Raises:
        RuntimeFailure: The runtime cannot run one of them.
    """
    results = [value for region in regions for value in region.results]
    found = {value: known[value] for value in results if value in known}
    asked = [v for v in results if v not in known and not _is_constant_node(v)]
    if not asked:
        return found
    known = _computed_here(asked, known)
    found |= {value: known[value] for value in asked if value in known}
    asked = [value for value in asked if value not in known]
    if not asked:
        return found
    writer = _RegionWriter(known)
    proto = writer.model(asked, facts, edit)
    with shared_worker().load(proto.SerializeToString(), _OPTIONS) as session:
        outputs = session.run({})
    for value in asked:
        array = outputs[writer.name(value)]
        assert isinstance(array, np.ndarray)
        found[value] = array
    return found


def _computed_here(
    asked: Sequence[ir.Value], known: _Arrays
) -> dict[ir.Value, np.ndarray[Any, Any]]:
    """Add to ``known`` what can be told without a session: most of what exporters leave."""
    arrays = dict(known)
    for value in _RegionWriter(known).dependencies(asked):
        producer = value.producer()
        if producer is None or value in known or constant_tensor(value) is not None:
            continue
        given = [_array_of(item, arrays) for item in producer.inputs if item is not None]
        inputs = [array for array in given if array is not None]
        if len(inputs) < len(producer.inputs):
            continue  # one is left out, or only the runtime can compute it
        array = moved(producer, inputs)
        array = computed(producer, inputs) if array is None else array
        if array is not None:
            arrays[value] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays


def _array_of(value: ir.Value, arrays: _Arrays) -> np.ndarray[Any, Any] | None:
    if value in arrays:
        return arrays[value]
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def _is_constant_node(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"


class _RegionWriter(ProtoWriter):
    """Writes the nodes that some constants depend on as a model without inputs."""

    def __init__(self, known: _Arrays) -> None:
        super().__init__()
        self._known = known

    def model(self, asked: Sequence[ir.Value], facts: Facts, edit: Editor) -> onnx.ModelProto:
        """Return a model that computes ``asked``, whose types are known."""
        proto = onnx.ModelProto(ir_version=max(edit.model.ir_version, _MINIMUM_IR_VERSION))
        for domain, version in edit.model.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.graph.name = "constants"
        for value in self.dependencies(asked):
            producer = value.producer()
            tensor = constant_tensor(value)
            if value in self._known:
                data = ir.tensor(self._known[value])
                self.tensor(value, data, proto.graph.initializer.add())
            elif tensor is not None:
                self.tensor(value, tensor, proto.graph.initializer.add())
            elif producer is not None and value is _first_named(producer):
                self.node(producer, proto.graph.node.add())
        for value in asked:
            known = facts.shapes.of(value)
            assert known is not None
            assert known.dtype is not None  # `FoldableNodes` sees to it
            output = proto.graph.output.add(name=self.name(value))
            output.type.tensor_type.elem_type = known.dtype.value
        return proto

    def dependencies(self, asked: Sequence[ir.Value]) -> Iterable[ir.Value]:
        """Return ``asked`` and all that they depend on, in an order in which they can be written.

        All outputs of a node count as dependencies of each, so that the node is written once.
        """
        done: dict[ir.Value, None] = {}
        pending = [(value, False) for value in reversed(asked)]
        while pending:
            value, is_expanded = pending.pop()
            if is_expanded:
                done.setdefault(value)
            elif value not in done:
                pending.append((value, True))
                pending.extend((needed, False) for needed in self._needed(value))
        return done

    def _needed(self, value: ir.Value) -> list[ir.Value]:
        producer = value.producer()
        if producer is None or value in self._known or constant_tensor(value) is not None:
            return []
        first = _first_named(producer)
        if value is not first:
            return [first]
        return [given for given in producer.inputs if given is not None]


_MINIMUM_IR_VERSION = 8


def _first_named(node: ir.Node) -> ir.Value:
    return next(value for value in node.outputs if value.name)


# -- storing ------------------------------------------------------------------------------------


class _Storage:
    """Stores results as long as the file does not grow by more than it may.

    What regions save that the runtime then could not run is not there for others to spend.

    Attributes:
        budget_bytes: By how much the file may grow from now on.
    """

    def __init__(self, kept: frozenset[str], budget_bytes: int, edit: Editor) -> None:
        self._kept = kept
        self.budget_bytes = budget_bytes
        self._edit = edit
        self._stored: dict[Hashable, ir.Value] = {}
        self._keys: dict[ir.Value, Hashable] = {}

    def lift(self, nodes: Sequence[ir.Node]) -> bool:
        """Make initializers of ``Constant`` nodes, in one rewrite; tell if there are any.

        Args:
            nodes: Some that `liftable_constants` found.
        """
        if not nodes:
            return False
        because = f"{len(nodes)} Constant nodes hold tensors"
        with self._edit.rewrite(self._edit.model.graph, because=because) as change:
            for node in nodes:
                value = node.outputs[0]
                if value.uses():
                    change.replace(value, self._stored_result(value, {}, change))
                change.remove(node)
        self.budget_bytes += sum(map(frame_bytes, nodes))
        return True

    def store(self, part: FoldingPart, arrays: _Arrays, failed: set[ConstantRegion]) -> None:
        """Store the regions of ``part``, together where none failed."""
        is_whole = failed.isdisjoint(part.regions) and part.growth_bytes <= self.budget_bytes
        if is_whole:
            self.budget_bytes -= part.growth_bytes
        for region in part.regions:
            if region in failed:
                continue
            if not is_whole and region.growth_bytes > self.budget_bytes:
                why = f"by {region.growth_bytes} bytes"
                self._edit.refuse(region.nodes[-1], "grows-the-file", why=why)
                continue
            if not is_whole:
                self.budget_bytes -= region.growth_bytes
            self._store_region(region, arrays)

    def _store_region(self, region: ConstantRegion, arrays: _Arrays) -> None:
        last, count = region.nodes[-1], len(region.nodes)
        because = f"{count} nodes compute constants" if count > 1 else f"{last.op_type} is constant"
        freed = [value for value in region.freed() if value.name not in self._kept]
        for value in freed:  # it goes with the nodes that read it: nothing may share it
            self._stored.pop(self._keys.pop(value, None), None)
        with self._edit.rewrite(last, because=because) as change:
            for value in region.results:
                if value.uses():
                    change.replace(value, self._stored_result(value, arrays, change))
            for node in reversed(region.nodes):
                change.remove(node)
            for value in freed:
                change.remove_initializer(value)

    def _stored_result(self, value: ir.Value, arrays: _Arrays, change: Change) -> ir.Value:
        """Return an initializer that holds ``value``; exporters repeat small ones at each use."""
        graph = value.graph
        assert isinstance(graph, ir.Graph)
        data = arrays[value] if value in arrays else constant_tensor(value)
        assert data is not None
        key = _content(data) if change.can_own_initializers() else None
        if key is None:
            return change.initializer(data, name=value.name or "constant", graph=graph)
        if (graph, key) not in self._stored:
            stored = change.initializer(data, name=value.name or "constant", graph=graph)
            self._stored[graph, key] = stored
            self._keys[stored] = graph, key
        return self._stored[graph, key]


def _content(data: np.ndarray[Any, Any] | ir.TensorProtocol) -> Hashable | None:
    """Return what tells a small tensor from others; ``None`` of large ones, and of text."""
    if data.nbytes > _SMALL_BYTES:
        return None
    if isinstance(data, np.ndarray):
        return None if data.dtype.kind in "OSU" else (data.dtype, data.shape, data.tobytes())
    if data.dtype == ir.DataType.STRING or data.dtype.bitwidth < _BITS_PER_BYTE:
        return None
    return data.dtype.numpy(), tensor_dims(data), data.tobytes()


_SMALL_BYTES, _BITS_PER_BYTE = 256, 8
