"""Shapes of values, and small integer tensors, as expressions over the sizes of the inputs."""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.contrib_dims import CONTRIB_DIMS
from graphopt.analysis.execution_order import always_run
from graphopt.analysis.kept_table import KeptTable, News
from graphopt.analysis.symbolic_dims import DIMS
from graphopt.analysis.symbolic_elements import ELEMENTS
from graphopt.analysis.symbolic_expressions import (
    Expression,
    Integer,
    Symbols,
    assume_positive,
    single_symbol,
)
from graphopt.analysis.worklist import Worklist
from graphopt.ir import (
    constant_array,
    constant_tensor,
    opset_version,
    ordered_nodes,
    tensor_dims,
)
from graphopt.rewrite import ShapeTable

__all__ = ["MAX_ELEMENTS", "Dims", "Elements", "SymbolicShapes"]

MAX_ELEMENTS = 64
"""Tensors with more elements are followed by shape only."""

Dims = tuple[Integer, ...]
Elements = npt.NDArray[np.object_]
"""Elements of an integer or boolean tensor, each an `int` or an `Expression`; never written to."""

_FOLLOWED = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})
_INT32_LIMIT = 2**31
_INT64_LIMIT = 2**63
_BROADCASTING_SINCE = 7
_NAME = "symbolic"
_RULES = {"": DIMS, "com.microsoft": CONTRIB_DIMS}


class SymbolicShapes:
    """What is known of the values of one model, functions apart.

    Believed are the inputs of the model, constants, and shape inference on them; declared shapes of
    other values are not. A symbol stands for a dimension or an element that only a run tells: equal
    expressions are equal numbers in every run of the model that succeeds, whatever the sizes, zero
    included. Within the body of a loop they are equal in each iteration.

    It is assumed that sizes are below 2**31, that products of sizes fit into 64 bits, and that a
    Reshape with `allowzero` does not hold both 0 and -1, which ONNX forbids.

    Time O(nodes + edges), after shape inference.

    Attributes:
        memo: What others computed of expressions alone, which holds as long as those are compared.
        changes: Of how many values, those of new nodes included, edits changed what is known.
    """

    def __init__(self, model: ir.Model, shapes: ShapeTable) -> None:
        self.symbols = Symbols()
        self.version = opset_version(model)
        self._model = model
        self._table = shapes
        self._dims: dict[ir.Value, Dims | None] = {}
        self._elements: dict[ir.Value, Elements | None] = {}
        self._computed: set[ir.Value] = set()
        self._doubtful: set[ir.Node] = set()  # those for which more sizes above zero may matter
        self._reliant: set[ir.Node] = set()  # and those for which fewer may
        self._assumed: dict[ir.Node, list[Integer]] = {}
        self.memo: dict[Hashable, Any] = {}
        self.changes = 0
        self._always_run: frozenset[ir.Node] | None = None  # looked for where it matters
        if self.version < _BROADCASTING_SINCE:
            return
        nodes = self._nodes()
        for node in nodes:
            self._visit(node)
        if self.symbols.positive and self._doubtful:
            # What the last one demands of a size holds for the first one.
            self._settle(Worklist(nodes), set(self._doubtful))

    @classmethod
    def kept(cls, model: ir.Model, shapes: ShapeTable) -> SymbolicShapes:
        """Return what is known of ``model`` as it is now; after edits only what they may change."""
        if not isinstance(shapes, KeptTable):
            return cls(model, shapes)
        if (own := shapes.symbolic()) is not None:
            return own
        known = shapes.derived.get(_NAME)
        if not isinstance(known, SymbolicShapes) or shapes.touched:
            known = known or shapes.outdated.pop(_NAME, None)
            news = shapes.pending_news()
            if not (isinstance(known, SymbolicShapes) and news and known.follow(news)):
                known = cls(model, shapes)
            shapes.derived[_NAME] = known
            shapes.news = News()
        return known

    # -- following edits ---------------------------------------------------------------------

    def follow(self, news: News) -> bool:
        """Follow what edits changed; tell whether that leads where a new analysis would lead."""
        if self.version < _BROADCASTING_SINCE or self.version != opset_version(self._model):
            return False
        for value in news.values:
            if value not in self._computed:
                self._dims.pop(value, None)
                self._elements.pop(value, None)
        positive = set(self.symbols.positive)
        self.symbols.forget_positive()
        self._always_run = None
        due = news.around()
        if due:
            visited = self._follow(Worklist(self._nodes()), due, is_anew=True)
        else:  # there is no order to find for what nobody has to look at
            visited = set()
            for node, sizes in self._assumed.items():
                for size in sizes:
                    self._assume(node, size)
        again = self._doubtful.intersection(visited)
        if positive - self.symbols.positive:
            again |= self._reliant
        if self.symbols.positive - positive:
            again |= self._doubtful
        if again:
            self._settle(Worklist(self._nodes()), again)
        return True

    def _follow(
        self, work: Worklist, due: Iterable[ir.Node], *, is_anew: bool = False
    ) -> set[ir.Node]:
        """Visit nodes that are ``due``, and those that read what turns out different.

        Args:
            work: Puts nodes in order.
            due: Nodes to visit.
            is_anew: What all nodes demand of sizes was forgotten, and is noted again on the way.

        Returns:
            The nodes visited.
        """
        visited = set(due)
        for node in (*visited, *(self._assumed if is_anew else ())):
            work.add(node)
        for node in work:
            if node not in visited:
                for size in self._assumed.get(node, ()):
                    self._assume(node, size)
                continue
            for value in self._changed_by(node):
                self.changes += 1
                for user, _ in value.uses():
                    visited.add(user)
                    work.add(user)
        return visited

    def _settle(self, work: Worklist, due: Iterable[ir.Node]) -> None:
        """Visit nodes that are ``due``, until no more sizes turn out to be above zero."""
        while due:
            count = len(self.symbols.positive)
            self._follow(work, due)
            due = set(self._doubtful) if len(self.symbols.positive) > count else ()

    def _changed_by(self, node: ir.Node) -> list[ir.Value]:
        """Visit ``node`` again; return those of its outputs of which other things are known now."""
        dims = [self._dims.pop(value, None) for value in node.outputs]
        elements = [self._elements.pop(value, None) for value in node.outputs]
        self._computed.difference_update(node.outputs)
        self._visit(node)
        return [
            value
            for value, size, items in zip(node.outputs, dims, elements, strict=True)
            if self.dims(value) != size or not self._holds(value, items)
        ]

    def _holds(self, value: ir.Value, items: Elements | None) -> bool:
        """Tell whether the elements of ``value`` are ``items``; ``None``: nobody has asked yet."""
        known = self._elements.get(value) if items is None else self.elements(value)
        if known is None or items is None:
            return known is items
        return known.shape == items.shape and bool(known.tolist() == items.tolist())

    # -- asking ------------------------------------------------------------------------------

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Return the dimensions of ``value``; ``None`` where not even the rank is known."""
        if value is None:
            return None
        if value not in self._dims:
            self._dims[value] = self._inferred_dims(value)
        return self._dims[value]

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the number of dimensions of ``value``, or ``None``."""
        known = self.dims(value)
        return None if known is None else len(known)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the element type of ``value``, or ``None``."""
        known = self._table.of(value)
        if known is not None:
            return known.dtype
        tensor = constant_tensor(value)
        return None if tensor is None else tensor.dtype

    def elements(self, value: ir.Value | None) -> Elements | None:
        """Return the elements of a small integer or boolean tensor, or ``None``.

        Elements of which nothing else is known are symbols of their own.
        """
        if value is None:
            return None
        known = self._elements.get(value)
        if known is None and value not in self._elements:
            known = self._elements[value] = self._unknown_elements(value)
        return known

    def numbers(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the elements of ``value``, flattened, where every one is a number."""
        known = self.elements(value)
        if known is None:
            return None
        items = known.reshape(-1).tolist()
        return tuple(items) if all(isinstance(item, int) for item in items) else None

    def array(self, value: ir.Value) -> npt.NDArray[Any] | None:
        """Return a tensor of which every element is a number, or ``None``."""
        known, dtype = self.elements(value), self.dtype(value)
        if known is None or dtype is None or self.numbers(value) is None:
            return None
        return known.astype(dtype.numpy())

    def is_computed(self, node: ir.Node) -> bool:
        """Tell whether the elements of every output of ``node`` follow from those of its inputs."""
        return self._computed.issuperset(node.outputs)

    def assume_positive(self, node: ir.Node, size: Integer) -> None:
        """Take note that ``node`` fails where ``size`` is zero."""
        self._assumed.setdefault(node, []).append(size)
        self._assume(node, size)

    def _assume(self, node: ir.Node, size: Integer) -> None:
        if self._always_run is None:
            self._always_run = always_run(self._model.graph, ordered_nodes(self._model))
        if node in self._always_run:
            assume_positive(size)

    def alias(self, new: ir.Value, old: ir.Value) -> None:
        """Take note that ``new``, created after the analysis, has the shape of ``old``."""
        self._dims[new] = self.dims(old)

    def learn(self, new: ir.Value, dims: Dims) -> None:
        """Take note of the shape of ``new``, created after the analysis."""
        self._dims[new] = dims

    def unknown_dim(self, value: ir.Value, axis: int) -> Expression:
        """Return a symbol for a dimension of which it would help to know that it is not zero."""
        self.symbols.doubts += 1
        return self.symbols.of(("dim", value, axis), is_size=True)

    def ask_inference(self, _node: ir.Node) -> Dims | None:
        """Return the dimensions of the first output that no rule tells, if there is more to ask.

        ``None`` here: what ONNX's inference knows is in the table already.
        """
        return None

    # -- walking -----------------------------------------------------------------------------

    def _nodes(self) -> list[ir.Node]:
        """Return the nodes of the main graph and its subgraphs that compute something."""
        functions = self._model.functions
        return [
            node
            for node in ordered_nodes(self._model)
            if node.op_type != "Constant"
            and (not functions or node.op_identifier() not in functions)
        ]

    def _visit(self, node: ir.Node) -> None:
        doubts, reliances = self.symbols.doubts, self.symbols.reliances
        self._assumed.pop(node, None)
        if node.domain or not self._visit_elements(node):
            self._visit_dims(node)
        if self.symbols.doubts > doubts:
            self._doubtful.add(node)
        else:
            self._doubtful.discard(node)
        if self.symbols.reliances > reliances:
            self._reliant.add(node)
        else:
            self._reliant.discard(node)

    def _visit_elements(self, node: ir.Node) -> bool:
        """Find the elements of small outputs; tell whether those of all, and so their sizes."""
        rule = ELEMENTS.get(node.op_type)
        if rule is None or self.dtype(node.outputs[0]) not in _FOLLOWED:
            return False
        found = rule(node, self)
        if found is None:
            return False
        count = 0
        for output, elements in zip(node.outputs, found, strict=False):
            if elements.size <= MAX_ELEMENTS:
                self._elements[output] = self._bounded(elements, self.dtype(output))
                self._dims[output] = elements.shape
                self._computed.add(output)
                count += 1
        return count == len(node.outputs)

    def _bounded(self, elements: Elements, dtype: ir.DataType | None) -> Elements:
        items = elements.reshape(-1).tolist()
        limit = _INT32_LIMIT if dtype == ir.DataType.INT32 else _INT64_LIMIT
        is_numbers = {int}.issuperset(map(type, items))
        if is_numbers and (not items or (-limit <= min(items) and max(items) < limit)):
            return elements  # most are
        flat = [self._bounded_item(item, dtype) for item in items]
        if all(map(operator.is_, flat, items)):
            return elements
        found = np.empty(len(flat), object)
        found[:] = flat
        return found.reshape(elements.shape)

    def _bounded_item(self, item: Integer, dtype: ir.DataType | None) -> Integer:
        """Keep the item as short as may be, and apart from what wraps around at 32 bits."""
        if isinstance(item, int):
            limit = _INT32_LIMIT if dtype == ir.DataType.INT32 else _INT64_LIMIT
            return (item + limit) % (2 * limit) - limit
        if dtype == ir.DataType.INT32:
            symbol = single_symbol(item)
            if symbol is None or not symbol.is_size:
                return self.symbols.of(("int32", item))
        return self.symbols.bounded(item)

    def _visit_dims(self, node: ir.Node) -> None:
        rules = _RULES.get(node.domain)
        rule = rules.get(node.op_type) if rules is not None else None
        found = rule(node, self) if rule is not None else None
        if found is None:
            return
        for output, dims in zip(node.outputs, found, strict=False):
            if dims is not None and output not in self._elements:
                self._dims[output] = self._merged(output, dims)

    def _merged(self, value: ir.Value, dims: Dims) -> Dims:
        """Prefer numbers that shape inference found."""
        known = self._table.of(value)
        inferred = known.dims if known is not None else None
        if inferred is None or len(inferred) != len(dims):
            return tuple(self.symbols.bounded(dim) for dim in dims)
        return tuple(
            other if isinstance(other, int) else self.symbols.bounded(dim)
            for dim, other in zip(dims, inferred, strict=True)
        )

    # -- what no rule tells ------------------------------------------------------------------

    def _inferred_dims(self, value: ir.Value) -> Dims | None:
        tensor = constant_tensor(value)
        if tensor is not None:
            return tensor_dims(tensor)
        known = self._table.of(value)
        if known is None or known.dims is None:
            return None
        return tuple(
            dim
            if isinstance(dim, int)
            else self.symbols.named(dim)
            if dim is not None
            else self.symbols.of(("dim", value, axis), is_size=True)
            for axis, dim in enumerate(known.dims)
        )

    def _unknown_elements(self, value: ir.Value) -> Elements | None:
        if constant_tensor(value) is not None:
            array = constant_array(value, MAX_ELEMENTS)
            if array is None or array.dtype.kind not in "iub":
                return None
            return array.astype(np.int64, copy=False).astype(object)
        dims = self.dims(value)
        if dims is None or self.dtype(value) not in _FOLLOWED:
            return None
        sizes = [dim for dim in dims if isinstance(dim, int)]
        if len(sizes) < len(dims) or math.prod(sizes) > MAX_ELEMENTS:
            return None
        found = np.empty(math.prod(sizes), object)
        found[:] = [self.symbols.of(("element", value, index)) for index in range(found.size)]
        return found.reshape(sizes)
