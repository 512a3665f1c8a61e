"""Layers that sum over units: their weight as a matrix, what enters, and where their bias is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.coupling import Use
from graphopt.ir import constant_tensor
from graphopt.rewrite import Asked, Channels, Window

__all__ = ["Contraction", "contraction_of"]

Array = npt.NDArray[Any]
_MATRIX_RANK = 2
_MOST_POSITIONS = 256
"""Positions of one image at which a convolution is looked at: neighbours see much the same."""


@dataclass(frozen=True)
class Contraction:
    """A layer with a constant weight that sums over a dimension.

    Attributes:
        use: Where: node, input that is the weight, axis of it that is summed over.
        kernel: How many elements of the weight each index has for one output: 1 for matrices.
    """

    use: Use
    kernel: int

    @property
    def node(self) -> ir.Node:
        """The layer."""
        return self.use.node

    @property
    def weight(self) -> ir.Value:
        """Its weight."""
        value = self.node.inputs[self.use.operand]
        assert value is not None
        return value

    @property
    def output_axis(self) -> int:
        """The axis of the weight along which its outputs lie."""
        return 0 if self.node.op_type == "Conv" else 1 - self.use.axis

    @property
    def factor(self) -> float:
        """What the products are multiplied by: the ``alpha`` of a ``Gemm``; not 0."""
        return self.node.attributes.get_float("alpha", 1.0) if self.node.op_type == "Gemm" else 1.0

    def matrix(self) -> Array:
        """Return what inputs are multiplied by, (indices x kernel, outputs), index by index."""
        return self._moved().reshape(self._indices() * self.kernel, -1)

    def rows(self) -> Array:
        """Return what inputs are multiplied by, (indices, kernel x outputs)."""
        return self._moved().reshape(self._indices(), -1)

    def _moved(self) -> Array:
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        array = tensor.numpy()
        if self.node.op_type == "Conv":  # (outputs, indices, *kernel)
            return np.moveaxis(array, 0, -1)
        array = np.moveaxis(array, self.use.axis, 0)
        return array if self.factor == 1.0 else array * array.dtype.type(self.factor)

    def _indices(self) -> int:
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        return int(tensor.shape.numpy()[self.use.axis])

    def stored(self, matrix: Array) -> Array:
        """Return the weight for a matrix like `matrix`, as it is stored, in its type."""
        if self.factor != 1.0:
            matrix = matrix / self.factor
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        shape = tensor.shape.numpy()
        if self.node.op_type == "Conv":
            found = np.moveaxis(matrix.reshape(-1, *shape[2:], shape[0]), -1, 0)
        else:
            found = matrix.T if self.use.axis else matrix
        return np.ascontiguousarray(found, dtype=tensor.dtype.numpy()).reshape(shape)

    def entering(self) -> Asked:
        """Return how to ask for what enters, in the order of the rows of `matrix`."""
        if self.node.op_type != "Conv":
            return self.channels()
        name = self.node.inputs[0].name if self.node.inputs[0] is not None else None
        assert name is not None
        return Channels(
            name, window=_window(self.node, self._kernel_shape()), positions=_MOST_POSITIONS
        )

    def leaving(self, value: ir.Value | None = None) -> Asked:
        """Return how to ask for what leaves, at the positions at which `entering` looks.

        Args:
            value: What is computed of it without another shape; the output itself by default.
        """
        name = (self.node.outputs[0] if value is None else value).name
        assert name is not None
        if self.node.op_type != "Conv":
            return name
        return Channels(name, axis=1, positions=_MOST_POSITIONS)

    def channels(self) -> Asked:
        """Return how to ask for what enters by index."""
        name = self.node.inputs[0].name if self.node.inputs[0] is not None else None
        assert name is not None
        if self.node.op_type == "Conv":
            return Channels(name, axis=1)
        turns = self.node.attributes.get_int("transA", 0) if self.node.op_type == "Gemm" else 0
        return Channels(name, axis=0) if turns else name

    def _kernel_shape(self) -> tuple[int, ...]:
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        return tuple(int(size) for size in tensor.shape.numpy()[2:])


def _window(node: ir.Node, kernel: tuple[int, ...]) -> Window:
    rank = len(kernel)

    def numbers(name: str, default: int, count: int) -> tuple[int, ...]:
        attribute = node.attributes.get(name)
        return (default,) * count if attribute is None else tuple(attribute.as_ints())

    return Window(
        kernel,
        numbers("strides", 1, rank),
        numbers("dilations", 1, rank),
        numbers("pads", 0, 2 * rank),
        1,
    )


def contraction_of(use: Use) -> Contraction | None:
    """Return the layer of a use that sums, or ``None`` where its operand is no constant weight.

    Only layers are returned whose sums can be compensated: ``MatMul`` with a matrix on the right,
    ``Gemm``, and ``Conv`` in one group with explicit padding.
    """
    node, tensor = use.node, constant_tensor(use.node.inputs[use.operand])
    if node.op_type == "Gemm" and not node.attributes.get_float("alpha", 1.0):
        return None  # nothing comes of what it sums
    if tensor is None or use.role != "contracts" or use.operand != 1:
        return None
    shape = tensor.shape.numpy()
    if node.op_type in ("MatMul", "Gemm") and len(shape) == _MATRIX_RANK:
        return Contraction(use, 1)
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
        return None
    return Contraction(use, int(np.prod(shape[2:], dtype=np.int64)))
