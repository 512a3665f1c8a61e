"""What execution providers say that they run: for estimates where they are not at hand.

The lists in `provider_rules.json` are those of the providers' documentation, which each entry
names. They say nothing of limits on shapes, types and attributes beyond the few below, and drivers
differ: what comes of them is an estimate, and is called one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = ["ProviderRules", "provider_rules"]

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_MATRIX_RANK = 2


@dataclass(frozen=True, kw_only=True)
class ProviderRules:
    """What a provider runs.

    Attributes:
        source: Where that is written.
        operators: Operators of the default domain that it runs; ``None``: all but `lacks`.
        lacks: Operators of the default domain that it does not run.
        contrib: Operators of `com.microsoft` that it runs.
        lacks_types: Names of types that none of its operators reads.
        lacks_kernels: By name of a type the operators that it runs on other types only.
        constant_weights: Operators whose second operand must be constant.
        static_shapes: Every size must be known.
        needs_integers: Operators on floats are not run; their operands come from quantizers.
        flat_products: Products must be of matrices, without further axes.
        flat_layers: Products with a constant must be of matrices; two tensors that are computed may
            have further axes if these are alike, in floats.
        joined: Activations that it runs as a part of the layer before them.
    """

    source: str
    operators: frozenset[str] | None
    lacks: frozenset[str]
    contrib: frozenset[str]
    lacks_types: frozenset[str]
    constant_weights: frozenset[str]
    static_shapes: bool = False
    needs_integers: bool = False
    flat_products: bool = False
    flat_layers: bool = False
    joined: frozenset[str] = frozenset()
    lacks_kernels: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def runs(self, node: ir.Node, shapes: ShapeTable) -> bool:
        """Tell whether the provider runs a node, as far as these rules go."""
        return (
            self._knows(node)
            and not any(self._is_foreign(value, shapes) for value in node.inputs)
            and node.op_type not in self.lacks_kernels.get(_data_type(node, shapes), ())
            and not (self.static_shapes and _has_open_sizes(node, shapes))
            and not (self.needs_integers and _is_in_floats(node, shapes))
            and self._takes_weights(node, shapes)
        )

    def _knows(self, node: ir.Node) -> bool:
        if node.domain:
            return node.domain == "com.microsoft" and node.op_type in self.contrib
        if self.operators is not None:
            return node.op_type in self.operators
        return node.op_type not in self.lacks

    def _is_foreign(self, value: ir.Value | None, shapes: ShapeTable) -> bool:
        """Tell whether a computed operand has a type that the provider lacks."""
        # A weight is prepared once, when the model is loaded: `lacks_types` is of what flows.
        if value is None or constant_tensor(value) is not None:
            return False
        known = shapes.of(value)
        return (
            known is not None and known.dtype is not None and known.dtype.name in self.lacks_types
        )

    def _takes_weights(self, node: ir.Node, shapes: ShapeTable) -> bool:
        if self.flat_products and node.op_type == "MatMul":
            ranks = [_rank(value, shapes) for value in node.inputs]
            if any(rank is None or rank > _MATRIX_RANK for rank in ranks):
                return False
        if self.flat_layers and node.op_type == "MatMul" and not _is_flat_or_alike(node, shapes):
            return False
        if node.op_type not in self.constant_weights or len(node.inputs) < 2:  # noqa: PLR2004
            return True
        return _is_weight(node.inputs[1])


@cache
def provider_rules(provider: str) -> ProviderRules | None:
    """Return the rules of a provider by its name in ONNX Runtime; ``None`` where none are known."""
    text = (resources.files("graphopt.targets") / "provider_rules.json").read_text(encoding="utf-8")
    entry = json.loads(text).get(provider)
    if entry is None:
        return None
    listed = entry.get("operators")
    return ProviderRules(
        source=entry["source"],
        operators=None if listed is None else frozenset(listed.split()),
        lacks=frozenset(entry.get("lacks", "").split()),
        contrib=frozenset(entry["contrib"].split()),
        lacks_types=frozenset(entry.get("lacks_types", "").split()),
        constant_weights=frozenset(entry.get("constant_weights", "").split()),
        static_shapes=entry.get("static_shapes", False),
        needs_integers=entry.get("needs_integers", False),
        flat_products=entry.get("flat_products", False),
        flat_layers=entry.get("flat_layers", False),
        joined=frozenset(entry.get("joined", "").split()),
        lacks_kernels={
            name: frozenset(operators.split())
            for name, operators in entry.get("lacks_kernels", {}).items()
        },
    )


def _is_weight(value: ir.Value | None) -> bool:
    """Tell whether an operand is constant, as it is or behind a quantizer."""
    if value is None or constant_tensor(value) is not None:
        return True
    maker = value.producer()
    is_restored = maker is not None and maker.op_type in ("DequantizeLinear", "Cast")
    return is_restored and constant_tensor(maker.inputs[0]) is not None if maker else False


def _data_type(node: ir.Node, shapes: ShapeTable) -> str:
    """Return the name of the type that an operator works on, which names its kernel; or nothing."""
    place = 1 if node.op_type == "Where" else 0
    value = node.inputs[place] if len(node.inputs) > place else None
    known = None if value is None else shapes.of(value)
    return "" if known is None or known.dtype is None else known.dtype.name


def _rank(value: ir.Value | None, shapes: ShapeTable) -> int | None:
    known = shapes.of(value) if value is not None else None
    return None if known is None or known.dims is None else len(known.dims)


def _is_flat_or_alike(product: ir.Node, shapes: ShapeTable) -> bool:
    """Tell whether a product is of matrices, or of two tensors whose further axes are the same."""
    known = [shapes.of(value) for value in product.inputs]
    dims = [() if one is None or one.dims is None else one.dims for one in known]
    if _is_weight(product.inputs[1]):
        return all(len(one) == _MATRIX_RANK for one in dims)
    # Batches of products are not computed in integers.
    is_float = not any(_is_restored(value) for value in product.inputs)
    return is_float and min(map(len, dims)) > _MATRIX_RANK and dims[0][:-2] == dims[1][:-2]


def _is_restored(value: ir.Value | None) -> bool:
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def _has_open_sizes(node: ir.Node, shapes: ShapeTable) -> bool:
    for value in (*node.inputs, *node.outputs):
        # An output without a name is left out; nobody asks for its size.
        known = shapes.of(value) if value is not None and value.name else None
        if known is not None and not all(isinstance(dim, int) for dim in known.dims or ()):
            return True
    return False


def _is_in_floats(node: ir.Node, shapes: ShapeTable) -> bool:
    """Tell whether a node computes floats that no quantizer stands around."""
    if node.op_type in _QUANTIZERS:
        return False
    known = shapes.of(node.outputs[0])
    if known is None or known.dtype is None or not known.dtype.is_floating_point():
        return False
    # Between quantizers a node on floats is fused into one on integers: only what stands outside of
    # them counts.
    readers = [use.node.op_type for use in node.outputs[0].uses()]
    if readers and all(reader == "QuantizeLinear" for reader in readers):
        return False
    made = [value.producer() for value in node.inputs if value is not None]
    return not any(maker is not None and maker.op_type == "DequantizeLinear" for maker in made)
