"""Making a failing model smaller while it goes on failing."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from graphs import Sample
from onnx import helper
from scopes import names_read

MAX_STEPS = 150


def reduced(sample: Sample, still_fails: Callable[[Sample], bool]) -> Sample:
    """Return a smaller sample that fails in the same way."""
    steps = 0
    is_shrinking = True
    while is_shrinking:
        is_shrinking = False
        for candidate in _candidates(sample):
            steps += 1
            if steps > MAX_STEPS:
                return sample
            if still_fails(candidate):
                sample, is_shrinking = candidate, True
                break
    return sample


def _candidates(sample: Sample):
    """Yield models with one output less, or without a node whose results become inputs."""
    for index in range(len(sample.model.graph.output)):
        if len(sample.model.graph.output) > 1:
            model = _copy(sample.model)
            del model.graph.output[index]
            yield _cleaned(model, sample)
    for index in range(len(sample.model.graph.node)):
        model = _copy(sample.model)
        node = model.graph.node[index]
        outputs = [sample.values.get(name) for name in node.output if name]
        if any(value is None for value in outputs):
            continue
        returned = {output.name for output in model.graph.output}
        if node.op_type == "Constant" or returned.intersection(node.output):
            continue
        del model.graph.node[index]
        for value in outputs:
            model.graph.input.append(_input(value))
        yield _cleaned(model, sample)


def _input(value) -> onnx.ValueInfoProto:
    if not value.is_tensor:
        return helper.make_value_info(value.name, value.type)
    pairs = list(zip(value.held[0].shape, value.held[1].shape, strict=False))
    dims = [a if a == b else f"d{axis}" for axis, (a, b) in enumerate(pairs)]
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims)


def _cleaned(model: onnx.ModelProto, sample: Sample) -> Sample:
    """Drop nodes, weights and inputs that no output needs."""
    graph = model.graph
    while True:
        read = set(names_read(graph.node)) | {output.name for output in graph.output}
        read |= {o.name for n in graph.node for a in n.attribute for o in a.g.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for held in (graph.initializer, graph.input):
        for item in [item for item in held if item.name not in read]:
            held.remove(item)
    called = {node.op_type for node in graph.node if node.domain}
    called |= {
        n.op_type for node in graph.node for a in node.attribute for n in a.g.node if n.domain
    }
    for function in [function for function in model.functions if function.name not in called]:
        model.functions.remove(function)
    names = {value.name for value in graph.input}
    feeds = tuple(
        {
            **{name: array for name, array in given.items() if name in names},
            **{
                name: sample.values[name].held[index]
                for name in names
                if name not in given and name in sample.values and name not in _weights(graph)
            },
        }
        for index, given in enumerate(sample.feeds)
    )
    return Sample(model, feeds, sample.values)


def _weights(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
