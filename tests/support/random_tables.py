"""Tables of rows, with layers whose weight is the same table again."""

import numpy as np
from hypothesis import strategies as st
from random_models import FLOAT


def tied_layer(scope):
    """Rows looked up, and multiplied by the table transposed: nearly, or to the bit."""
    table = np.random.default_rng(scope.draw(st.integers(0, 1))).normal(size=(5, 4))
    table = table.astype(np.float32)
    indices = scope.weight(np.array([[0, 4, 2]], np.int64))
    rows = scope.node("Gather", [scope.weight(table), indices], FLOAT, (1, 3, 4))
    copy = np.ascontiguousarray(table.T)
    if scope.draw(st.booleans()):
        copy[0, 0] = np.nextafter(copy[0, 0], np.float32(9))
    return scope.node("MatMul", [rows, scope.weight(copy)], FLOAT, (1, 3, 5))


TABLES = {"tie-embeddings": (tied_layer,)}
"""By pass: the patterns that it acts on."""
