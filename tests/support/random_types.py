"""Values of every kind between floats: narrow and wide numbers, text, sequences, optionals, nothing.

Each operator takes a float or boolean value and returns one, so that it may stand anywhere; what lies
between is of another type. Copies of nodes, constants and subgraphs are among them on purpose.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_models import BOOL, FLOAT, INT, Known, constant

NARROW = [
    *(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E4M3FNUZ),
    *(TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE),
]
INTEGERS = [
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16),
    *(TensorProto.INT32, TensorProto.UINT32, TensorProto.UINT64),
]


def _hidden(scope, op, inputs, outputs=1, **attributes):
    """Add a node whose outputs nothing else may read; names go in and out."""
    names = [scope.fresh() for _ in range(outputs)]
    scope.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
    return names[0] if outputs == 1 else names


def _copied(scope, name):
    """Pass a value of any kind through nothing, once, or twice."""
    for _ in range(scope.draw(st.integers(0, 2))):
        name = _hidden(scope, "Identity", [name])
    return name


def narrow(scope):
    """A float that loses bits on its way."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    name = x.name
    for kind in scope.draw(st.lists(st.sampled_from(NARROW), min_size=1, max_size=2)):
        name = _copied(scope, _hidden(scope, "Cast", [name], to=kind))
    scope.nodes.append(helper.make_node("Cast", [name], [scope.fresh()], to=FLOAT))
    return _known(scope, FLOAT, x.dims)


def integer(scope):
    """Truth as an integer of some width, bit by bit."""
    if (x := scope.pick(BOOL)) is None:
        return None
    kind = scope.draw(st.sampled_from(INTEGERS))
    name = _copied(scope, _hidden(scope, "Cast", [x.name], to=kind))
    held = np.array(scope.draw(st.sampled_from([0, 1, 255])), np.int64).astype(
        ir.DataType(kind).numpy()
    )
    scope.initializers.append(ir.to_proto(ir.tensor(held, name=scope.fresh())))
    limit = scope.initializers[-1].name
    name = _hidden(scope, scope.draw(st.sampled_from(["BitwiseAnd", "BitwiseXor"])), [name, limit])
    scope.nodes.append(helper.make_node("Cast", [name], [scope.fresh()], to=BOOL))
    return _known(scope, BOOL, x.dims)


def text(scope):
    """Numbers as text, in a constant or in a value, compared."""
    if (x := scope.pick(INT, BOOL)) is None:
        return None
    name = _copied(scope, _hidden(scope, "Cast", [x.name], to=TensorProto.STRING))
    written = scope.draw(st.sampled_from(["0", "1", "é", ""]))
    other = _hidden(scope, "Constant", [], value_string=written)
    if scope.draw(st.booleans()):
        name, other = (_hidden(scope, "StringConcat", [side, other]) for side in (name, other))
    scope.nodes.append(helper.make_node("Equal", [name, other], [scope.fresh()]))
    return _known(scope, BOOL, x.dims)


def sequence(scope):
    """One of several values of a sequence."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    y = scope.pick(FLOAT, where=lambda value: value.dims == x.dims)
    held = _copied(scope, _hidden(scope, "SequenceConstruct", [x.name, y.name]))
    place = scope.weight(np.array(scope.draw(st.sampled_from([0, 1, -1])), np.int64))
    return scope.node("SequenceAt", [_Named(held), place], FLOAT, x.dims)


def optional(scope):
    """A value that is there, as one that may be missing; and whether it is there."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    held = _copied(scope, _hidden(scope, "Optional", [x.name]))
    if scope.draw(st.booleans()):
        return scope.node("OptionalHasElement", [_Named(held)], BOOL, ())
    return scope.node("OptionalGetElement", [_Named(held)], FLOAT, x.dims)


def nothing(scope):
    """Empty constants: what is computed of them, and joined to something."""
    if (x := scope.pick(FLOAT, where=lambda value: len(value.dims) == 1)) is None:
        return None
    empty = constant(scope, FLOAT, (0,))
    empty = scope.node("Neg", [empty], FLOAT, (0,)) if scope.draw(st.booleans()) else empty
    pair = [x, empty] if scope.draw(st.booleans()) else [empty, x]
    return scope.node("Concat", pair, FLOAT, x.dims, axis=0)


class _Named:
    """A value that is known by its name alone."""

    def __init__(self, name):
        self.name = name


def _known(scope, kind, dims):
    """Let what comes after read the output of the last node."""
    value = Known(scope.nodes[-1].output[0], kind, tuple(dims))
    scope.values.append(value)
    return value


ODD_TYPES = (narrow, narrow, integer, text, sequence, optional, nothing)
assert ml_dtypes  # registers the types that numpy lacks
