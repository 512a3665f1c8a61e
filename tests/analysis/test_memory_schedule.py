"""Orders of nodes by the memory that they hold."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.analysis import Operators
from graphopt.analysis.memory_schedule import schedule_graph
from graphopt.analysis.value_bytes import bytes_of_values
from graphopt.ir import from_text


def scheduled(text, inputs=None):
    model = from_text(text)
    sizes, unknown = bytes_of_values(model, inputs or {})
    assert not unknown
    return model, sizes, schedule_graph(model.graph, sizes, Operators(model), {})


def test_peak_of_a_chain():
    # x -> a (64 bytes) -> b (64) -> y (64); two of them at once, one of which is in place.
    text = "(float[16] x) => (float[16] y) {{ a = Exp(x)  b = {}(a)  y = Neg(b) }}"
    for middle, peak in (("Exp", 128), ("Relu", 128), ("Identity", 128)):
        _, _, (before, after) = scheduled(text.format(middle))
        assert before.peak == after.peak == peak
    _, _, (before, _) = scheduled("(float[16] x) => (float[16] y) { a = Exp(x)  y = Relu(a) }")
    assert before.peak == 64


def test_values_that_are_returned_stay():
    text = "(float[16] x) => (float[16] a, float[16] y) { a = Exp(x)  b = Exp(a)  y = Exp(b) }"
    _, _, (before, _) = scheduled(text)
    assert before.peak == 3 * 64


def test_weights_and_constants_do_not_count():
    text = """(float[16] x) => (float[16] y) <float[16] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}>
        { c = Constant<value = float[16] {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}>()
          a = Mul(x, w)  y = Mul(a, c) }"""
    assert scheduled(text)[2][0].peak == 128


def test_open_sizes_follow_from_the_inputs():
    text = "(float[N,4] x) => (float[M] y) { a = Flatten<axis = 0>(x)  b = Exp(x)  y = ReduceMax<keepdims = 0>(b) }"
    model = from_text(text)
    sizes, unknown = bytes_of_values(model, {"x": (10, 4)})
    assert unknown == 0
    assert sizes[list(model.graph)[1].outputs[0]] == 160


def brute_force(model, sizes):
    """The least peak of all orders, counted another way: by intervals."""
    nodes = list(model.graph)
    best = None
    for order in itertools.permutations(nodes):
        places = {node: place for place, node in enumerate(order)}
        sources = [(v.producer(), node) for node in nodes for v in node.inputs if v.producer()]
        if any(places[made] > places[read] for made, read in sources):
            continue
        held = [0] * len(order)
        for node in nodes:
            for value in node.outputs:
                last = max((places[user] for user, _ in value.uses()), default=places[node])
                if value.is_graph_output():
                    last = len(order) - 1
                for place in range(places[node], last + 1):
                    held[place] += sizes[value]
        best = max(held) if best is None else min(best, max(held))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_never_worse_and_seldom_far_from_the_best(seed):
    rng = np.random.default_rng(seed)
    values, nodes = ["x"], []
    for number in range(6):
        rows = int(rng.integers(1, 9))
        source = values[rng.integers(len(values))]
        nodes.append(f"r{number} = ReduceMax<keepdims = 0>({source})")
        nodes.append(f"v{number} = Expand(r{number}, s{rows})")
        values.append(f"v{number}")
    reads = "  ".join(f"m{n} = ReduceMin<keepdims = 0>(v{n})" for n in range(6))
    shapes = ", ".join(f"int64[1] s{rows} = {{{rows * 100}}}" for rows in range(1, 9))
    text = f"(float[4] x) => (float[] y) <{shapes}> {{ {'  '.join(nodes)}  {reads}  y = Sum({', '.join(f'm{n}' for n in range(6))}) }}"
    _, _, (before, after) = scheduled(text)
    assert after.peak <= before.peak
    places = {node: place for place, node in enumerate(after.order)}
    assert len(places) == len(nodes) + 7
    for node in after.order:
        for value in node.inputs:
            if value.producer() is not None:
                assert places[value.producer()] < places[node]


@pytest.mark.parametrize("seed", range(6))
def test_small_graphs_are_ordered_as_well_as_can_be(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, size=3) * 10
    shapes = ", ".join(f"int64[1] s{n} = {{{size}}}" for n, size in enumerate(sizes))
    makes = "  ".join(f"a{n} = Expand(x, s{n})" for n in range(3))
    reads = "  ".join(f"b{n} = ReduceMax(a{n})" for n in range(3))
    text = f"(float[1] x) => (float[1] y) <{shapes}> {{ {makes}  {reads}  y = Sum(b0, b1, b2) }}"
    model, sizes, (_, after) = scheduled(text)
    assert after.peak == brute_force(model, sizes)


def test_readers_of_what_is_overwritten_keep_their_order():
    text = """(float[1,2,8] x) => (float[1,2,8] y, float[2] z)
        <float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {0, 0}, float[2] v = {1, 1}>
        { z = Exp(m)  big = Concat<axis = 0>(x, x, x, x)  c = ReduceMax<keepdims = 0>(big)
          n, p, q = BatchNormalization<training_mode = 1>(x, s, b, m, v)  y = Add(n, c) }"""
    model = from_text(text)
    sizes, _ = bytes_of_values(model, {})
    _, after = schedule_graph(model.graph, sizes, Operators(model), {})
    kinds = [node.op_type for node in after.order]
    assert kinds.index("Exp") < kinds.index("BatchNormalization")


def test_a_subgraph_adds_its_peak_to_that_of_its_node():
    text = """(float[16] x, bool k) => (float[16] y) { a = Exp(x)
        y = If(k) <then_branch = one () => (float[16] c) { b = Exp(a)  c = Exp(b) },
                   else_branch = two () => (float[16] d) { d = Neg(a) }> }"""
    model = from_text(text)
    sizes, _ = bytes_of_values(model, {})
    inner = {
        attribute.as_graph(): 1000
        for attribute in list(model.graph)[1].attributes.values()
        if attribute.type == ir.AttributeType.GRAPH
    }
    before, _ = schedule_graph(model.graph, sizes, Operators(model), inner)
    assert before.peak == 64 + 64 + 1000
