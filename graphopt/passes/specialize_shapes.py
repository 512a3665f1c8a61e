"""Sizes that callers always give become part of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import OptionError
from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, option

__all__ = ["SpecializeShapes"]

_SETTING = re.compile(r"(?P<name>[^=]+)=(?P<size>\d+)")
_PLACE = re.compile(r"(?P<input>.+):(?P<axis>\d+)")


@dataclass(frozen=True, kw_only=True)
class SpecializeShapes(Pass):
    """Fix open dimensions of inputs, so that everything computed from them is known too.

    What it does
        A symbol that is named in `dims` becomes its number wherever it stands in a declared shape:
        inputs, outputs, values in between, bodies of branches and loops. In an expression
        (`past + 1`) the symbol is replaced, and the number takes its place once all symbols are
        known. A dimension without a name, or one alone of several with the same name, is given by
        input and axis: `ids:1=128`. Passes that come after (`@exact`) fold what depends on sizes
        alone. Accelerators that take no open sizes need it; a CPU plans memory ahead by it.

    When it refuses
        `unknown-dimension`  no input has the dimension, so that nothing would hold callers to it;
                             the refusal lists what inputs have.
        `known-dimension`    the input declares another size already.

    What it keeps
        Names and order of inputs and outputs, every node, every weight. Callers that give another
        size are refused by the runtime: the interface changes, and is not what the original had.

    Cost
        Time O(values). No weight is read.

    Example
        options {dims=["n=2"]}
        before  (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }
        after   (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }

    References
        ONNX IR specification, "Static tensor shapes": `dim_param` names one size per run.
    """

    name: ClassVar[str] = "specialize-shapes"
    contract: ClassVar[Contract] = Contract(
        numerics=Exact(), is_idempotent=True, changes_interface=True
    )

    dims: tuple[str, ...] = option((), help="sizes: `SYMBOL=SIZE` or `INPUT:AXIS=SIZE`", unit="dim")

    def __post_init__(self) -> None:
        """Check that every setting can be read.

        Raises:
            OptionError: One has another form, or names its dimension twice.
        """
        super().__post_init__()
        names = []
        for text in self.dims:
            match = _SETTING.fullmatch(text)
            if match is None:
                raise OptionError(
                    f"option `dims` of pass `{self.name}` cannot be read: `{text}`",
                    why="expected `SYMBOL=SIZE` or `INPUT:AXIS=SIZE`",
                    hint='an example: `specialize-shapes{dims=["batch=1","ids:1=128"]}`',
                )
            names.append(match["name"])
        if twice := [name for name in names if names.count(name) > 1]:
            raise OptionError(f"option `dims` of pass `{self.name}` has `{twice[0]}` twice")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Fix all dimensions in one rewrite."""
        symbols, places = self._settings(model, edit)
        declared = [
            (value, shape)
            for value in _values(model)
            if (shape := _specialized(value, symbols, places)) is not None
        ]
        if declared:
            named = ", ".join(self.dims)
            with edit.rewrite(model.graph, because=f"callers always give {named}") as change:
                for value, shape in declared:
                    change.set_value_info(value, shape=shape)

    def _settings(
        self, model: ir.Model, edit: Editor
    ) -> tuple[dict[str, int], dict[tuple[str, int], int]]:
        """Return sizes by symbol, and by input and axis; refuse those that no input has."""
        inputs = {value.name: value for value in model.graph.inputs}
        known = _symbols_of_inputs(model)
        symbols: dict[str, int] = {}
        places: dict[tuple[str, int], int] = {}
        for text in self.dims:
            name, _, size = text.rpartition("=")
            place = _PLACE.fullmatch(name)
            value = inputs.get(place["input"]) if place else None
            if name in known:
                symbols[name] = int(size)
            elif value is None or value.shape is None or int(place["axis"]) >= len(value.shape):  # type: ignore[index]
                edit.refuse(
                    model.graph,
                    "unknown-dimension",
                    why=f"`{name}`: inputs have {', '.join(f'`{one}`' for one in known) or 'none'}",
                )
            elif value.shape[axis := int(place["axis"])] != int(size):  # type: ignore[index]
                if isinstance(value.shape[axis], int):
                    edit.refuse(value, "known-dimension", why=f"axis {axis} is {value.shape[axis]}")
                else:
                    places[value.name or "", axis] = int(size)
        return symbols, places


def _symbols_of_inputs(model: ir.Model) -> list[str]:
    """Return the symbols in the shapes of inputs, in order; those of expressions included."""
    found: dict[str, None] = {}
    for value in model.graph.inputs:
        for dim in value.shape or ():
            if not isinstance(dim, int) and dim.value:
                found |= dict.fromkeys([dim.value])
                found |= dict.fromkeys(_symbols(dim))
    return list(found)


def _symbols(dim: ir.SymbolicDim) -> list[str]:
    """Return the symbols of an expression; none where its text is no expression."""
    try:
        return sorted(dim.free_symbols())
    except ValueError:
        return []


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _specialized(
    value: ir.Value, symbols: Mapping[str, int], places: Mapping[tuple[str, int], int]
) -> ir.Shape | None:
    """Return the shape of a value with its sizes; ``None`` where none of them is new."""
    if value.shape is None:
        return None
    is_input = value.is_graph_input()
    dims = [
        places.get((value.name or "", axis), dim) if is_input else dim
        for axis, dim in enumerate(_sized(dim, symbols) for dim in value.shape)
    ]
    if all(new == old for new, old in zip(dims, value.shape, strict=True)):
        return None
    return ir.Shape(dims, denotations=[value.shape.get_denotation(i) for i in range(len(dims))])


def _sized(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or not dim.value:
        return dim
    if dim.value in symbols:
        return symbols[dim.value]
    if not any(symbol in dim.value for symbol in symbols) or not set(_symbols(dim)) & set(symbols):
        return dim
    return dim.evaluate(symbols)
