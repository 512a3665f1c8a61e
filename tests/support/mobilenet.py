"""MobileNetV2 (Sandler et al., 2018, table 2) with seeded weights, narrow enough for emulation."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Expansion, channels, repetitions, stride of the first.
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


class _Builder:
    def __init__(self, seed):
        self.random, self.nodes, self.weights = np.random.default_rng(seed), [], []

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, operator, inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolve(self, value, channels, to, *, kernel=1, stride=1, group=1, is_bounded=True):
        """A convolution with its folded batch normalization, and ReLU6."""
        # He's initialization keeps the variance; linear outputs lose no half to the ReLU.
        gain = np.sqrt((2 if is_bounded else 1) / (channels // group * kernel**2))
        kernels = self.random.standard_normal((to, channels // group, kernel, kernel)) * gain
        inputs = [value, self.weight(kernels), self.weight(0.1 * self.random.standard_normal(to))]
        pads = [kernel // 2] * 4
        value = self.node("Conv", inputs, strides=[stride] * 2, pads=pads, group=group)
        if not is_bounded:
            return value
        limits = [self.weight(np.array(limit)) for limit in (0.0, 6.0)]
        return self.node("Clip", [value, *limits])


def make_mobilenet(path, *, seed=0, width=0.25, classes=10):
    """Write the model; its input is `image`, float32 (batch, 3, height, width)."""
    build = _Builder(seed)
    channels = 8
    value = build.convolve("image", 3, channels, kernel=3, stride=2)
    for expansion, wide, repetitions, first_stride in STAGES:
        to = max(8, int(wide * width) // 8 * 8)
        for index in range(repetitions):
            stride = first_stride if index == 0 else 1
            inner, before = channels * expansion, value
            if expansion > 1:
                value = build.convolve(value, channels, inner)
            value = build.convolve(value, inner, inner, kernel=3, stride=stride, group=inner)
            value = build.convolve(value, inner, to, is_bounded=False)
            if stride == 1 and channels == to:
                value = build.node("Add", [before, value])
            channels = to
    value = build.convolve(value, channels, 256)
    value = build.node("GlobalAveragePool", [value])
    value = build.node("Flatten", [value], axis=1)
    dense = build.weight(build.random.standard_normal((classes, 256)) / 16)
    inputs = [value, dense, build.weight(build.random.standard_normal(classes))]
    scores = build.node("Gemm", inputs, transB=1)
    build.nodes[-1].output[0] = "scores"
    assert scores
    graph = helper.make_graph(
        build.nodes,
        "mobilenetv2",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])],
        build.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
