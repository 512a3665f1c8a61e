"""Trading the resolution of an image for channels before a strided convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.operands import ints_attribute
from graphopt.compression import NoWeight, remove_unread, trace_weight
from graphopt.ir import graphs
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, ShapeTable, option

__all__ = ["DeepenConvolutions"]

_IMAGE_RANK = 4


class _Refused(NamedTuple):
    slug: str
    why: str


class _Axis(NamedTuple):
    """How a kernel moves along height or width, counted in blocks of `step` pixels.

    Attributes:
        size: Blocks that the kernel touches.
        before: Blocks of padding before the image.
        after: Blocks of padding behind it.
        offset: Pixels of padding before the image in the original.
    """

    size: int
    before: int
    after: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class DeepenConvolutions(Pass):
    """Let a strided convolution of an image read blocks of pixels as channels.

    What it does
        A `Conv` that moves by 2 or more pixels over an image of few channels reads what
        `SpaceToDepth` makes of it, and moves by 1. The weights are the same, with zeros where a
        block holds pixels that the kernel does not cover. Integer kernels gather whole pixels: 3
        bytes at a time are as slow as 12. In float there is nothing to gain.

    When it refuses
        `weight-not-constant`  the weight is computed.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `unknown-size`         height or width is not known.
        `odd-size`             height or width is not a multiple of the stride, or the last windows
                               do not reach the end of the image.
        `unsupported-form`     dilated, with another stride in width than in height, or padded
                               automatically.

    What it keeps
        The result for images of finite numbers: zeros times infinity would not be zero.

    Cost
        Time O(nodes), after shape inference. Weights grow to a multiple of the stride: 147 to 192
        numbers per output channel for 7x7 kernels of 3 channels.

    Example
        before  (float[1,1,2,2] x) => (float[1,1,1,1] y) <float[1,1,2,2] w = {1, 2, 3, 4}> { y = Conv<strides = [2, 2]>(x, w) }
        after   (float[1,1,2,2] x) => (float[1,1,1,1] y) <float[1,4,1,1] v = {1, 2, 3, 4}> { d = SpaceToDepth<blocksize = 2>(x)  y = Conv<strides = [1, 1], pads = [0, 0, 0, 0], kernel_shape = [1, 1]>(d, v) }

    References
        ONNX `SpaceToDepth` (opset 1): channel (row, column, channel) of a block. Known from the
        input layers of networks for matrix units: Ying et al. 2018, "Image classification at
        supercomputer scale", section 3.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "deepen-convolutions"
    # Images of finite numbers give the same up to rounding (2e-7 measured); infinity does not.
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=True
    )
    is_preparation: ClassVar[bool] = True
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Conv"})

    maximum_channels: int = option(
        4, help="images of more channels are left alone", unit="channels", minimum=1
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which tell whether blocks fit into the image."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Deepen every strided convolution of few channels."""
        operators = Operators(model)
        weights: list[ir.Value] = []
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in graph:
                if not _is_candidate(node):
                    continue
                refused = self._deepen(node, facts.shapes, edit, weights)
                if refused is not None:
                    edit.refuse(node, refused.slug, why=refused.why)
        remove_unread(model, edit, weights)

    def _deepen(
        self, node: ir.Node, shapes: ShapeTable, edit: Editor, weights: list[ir.Value]
    ) -> _Refused | None:
        """Rewrite ``node``, or return why not; ``None`` too where it is no matter of this pass."""
        image, weight = node.inputs[:2]
        source = trace_weight(weight)
        if isinstance(source, NoWeight):
            return _Refused(source.slug, source.why)
        if len(source.shape) != _IMAGE_RANK or source.shape[1] > self.maximum_channels:
            return None
        axes = _axes(node, source.shape, shapes)
        if isinstance(axes, _Refused):
            return axes
        assert image is not None
        assert weight is not None
        step = node.attributes["strides"].as_ints()[0]
        with edit.rewrite(node, because="reads blocks of pixels as channels") as change:
            deep = change.node(
                "SpaceToDepth", [image], attributes={"blocksize": step}, name=f"{node.name}_blocks"
            )
            blocks = _in_blocks(source.array(), step, axes)
            change.set_input(node, 0, deep)
            change.set_input(node, 1, change.initializer(blocks, name=f"{weight.name}_blocks"))
            padding = [axis.before for axis in axes] + [axis.after for axis in axes]
            sizes = [axis.size for axis in axes]
            change.set_attributes(
                node,
                {"strides": [1, 1], "pads": padding, "kernel_shape": sizes, "auto_pad": None},
            )
        weights.append(weight)
        return None


def _is_candidate(node: ir.Node) -> bool:
    if node.domain or node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
        return False
    return max(ints_attribute(node, "strides") or (1,)) > 1


def _axes(
    node: ir.Node, weight: tuple[int, ...], shapes: ShapeTable
) -> tuple[_Axis, _Axis] | _Refused:
    """Return how the kernel moves in blocks, for height and width."""
    strides = ints_attribute(node, "strides") or ()
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    dilated = any(step != 1 for step in ints_attribute(node, "dilations") or ())
    if len(set(strides)) != 1 or dilated or automatic not in ("NOTSET", "VALID"):
        return _Refused("unsupported-form", f"strides {strides}, padding {automatic}")
    found = shapes.of(node.inputs[0])
    sizes = found.dims[2:] if found is not None and found.dims is not None else ()
    height, width = (*sizes, None, None)[:2]
    if not isinstance(height, int) or not isinstance(width, int):
        return _Refused("unknown-size", "height or width is not known")
    padding: tuple[int, ...] = (0, 0, 0, 0)
    if automatic == "NOTSET":
        padding = ints_attribute(node, "pads") or padding
    rows = _axis(height, weight[2], strides[0], (padding[0], padding[2]))
    columns = _axis(width, weight[3], strides[0], (padding[1], padding[3]))
    if rows is None or columns is None:
        return _Refused("odd-size", f"{height}x{width} pixels, stride {strides[0]}")
    return rows, columns


def _axis(size: int, kernel: int, step: int, padding: tuple[int, int]) -> _Axis | None:
    """Return how a kernel moves in blocks; ``None`` where blocks do not fit.

    The pixel that weight ``i`` meets at output ``o`` is ``step o + i - padding``: block
    ``o + floor((i - padding) / step)``, and in it pixel ``(i - padding) mod step``.
    """
    first, last = -padding[0] // step, (kernel - 1 - padding[0]) // step
    outputs = (size + sum(padding) - kernel) // step + 1
    blocks = last - first + 1
    after = outputs - size // step + first + blocks - 1
    fits = size % step == 0 and outputs > 0 and first <= 0 and after >= 0
    return _Axis(blocks, -first, after, padding[0]) if fits else None


def _in_blocks(
    weight: npt.NDArray[np.float32], step: int, axes: tuple[_Axis, _Axis]
) -> npt.NDArray[np.float32]:
    """Return weights ``(outputs, step * step * channels, rows, columns)`` over blocks of pixels."""
    rows, columns = axes
    outputs, channels, height, width = weight.shape
    blocks = np.zeros((outputs, step, step, channels, rows.size, columns.size), np.float32)
    for i in range(height):
        row, y = divmod(i - rows.offset, step)
        for j in range(width):
            column, x = divmod(j - columns.offset, step)
            blocks[:, y, x, :, row + rows.before, column + columns.before] = weight[:, :, i, j]
    return blocks.reshape(outputs, step * step * channels, rows.size, columns.size)
