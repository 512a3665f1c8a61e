"""`KeptShapes`: after any edits it says what inference of the whole model says."""

from __future__ import annotations

import random

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_models import models

from graphopt.analysis import KeptShapes, infer_shapes
from graphopt.analysis.symbolic_expressions import Expression, Symbol
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.analysis.typed_shapes import TypedShapes
from graphopt.ir import from_text, graphs
from graphopt.pipeline import Pipeline
from graphopt.rewrite import Editor, Facts, Journal, ShapeTable, ValueShape, can_replace

RANDOM = settings(
    max_examples=30,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def values(model):
    for graph in graphs(model):
        yield from graph.inputs
        yield from (value for value in graph.initializers.values() if value.uses())
        for node in graph:
            yield from node.outputs


def difference(model, kept, anew):
    """Return where two tables differ, names of unknown sizes apart; ``None`` if nowhere."""
    there, back = {}, {}
    for value in values(model):
        first, second = kept.of(value), anew.of(value)
        if first is None or second is None or first.dims is None or second.dims is None:
            if first != second:
                return value.name, first, second
            continue
        if first.dtype != second.dtype or len(first.dims) != len(second.dims):
            return value.name, first, second
        for a, b in zip(first.dims, second.dims, strict=True):
            is_renamed = isinstance(a, str) and isinstance(b, str)
            if is_renamed and (there.setdefault(a, b), back.setdefault(b, a)) == (b, a):
                continue
            if is_renamed or a != b:
                return value.name, first, second
    return None


SEQUENCE = "s = SequenceConstruct(v0)"
"""A model with a sequence is left to inference."""


def journal_of(kept):
    return Journal(touched=kept.touched)


def assert_kept(model, kept, what):
    found = difference(model, kept.renewed(model), KeptShapes(model).renewed(model))
    assert found is None, (what, found)


@RANDOM
@given(models(max_nodes=24))
def test_the_table_follows_every_pass(model):
    kept = KeptShapes(model)
    kept.renewed(model)
    for pass_ in Pipeline.parse("@exact").passes():
        journal = journal_of(kept)
        editor = Editor(model, pass_name=pass_.name, journal=journal)
        pass_.run(model, editor, Facts(shapes=kept.renewed(model)))
        if journal.edits:
            assert_kept(model, kept, pass_.name)


@RANDOM
@given(models(max_nodes=16), st.integers(0, 2**32))
def test_the_table_follows_edits_that_make_no_sense(model, seed):
    rng, kept = random.Random(seed), KeptShapes(model)  # noqa: S311 - nothing is secret
    kept.renewed(model)
    for _ in range(6):
        editor = Editor(model, pass_name="random", journal=journal_of(kept))
        done = [random_edit(model, editor, rng) for _ in range(rng.randint(1, 3))]
        assert_kept(model, kept, done)


def random_edit(model, editor, rng):
    """Change something at random place; what is computed may change, the order stays valid."""
    nodes = list(model.graph)
    if not nodes:
        return None
    place = rng.randrange(len(nodes))
    node = nodes[place]
    earlier = [*model.graph.inputs, *model.graph.initializers.values()]
    earlier += [output for before in nodes[:place] for output in before.outputs if output.name]
    edit = rng.choice([rewire, bypass, insert, copy, fix, turn, resize, drop])
    with editor.rewrite(node, because="at random") as change:
        edit(change, node, rng.choice(earlier) if earlier else None, rng)
    return edit.__name__, node.op_type, node.name


def rewire(change, node, value, rng):
    if node.inputs and value is not None:
        change.set_input(node, rng.randrange(len(node.inputs)), value)


def bypass(change, node, value, rng):
    if value is not None and can_replace(node.outputs[0], value):
        change.replace(node.outputs[0], value)


def insert(change, node, value, rng):
    if node.inputs and value is not None:
        operator = rng.choice(["Identity", "Shape", "Neg", "Transpose", "NonZero", "Size"])
        new = change.node(operator, [value])
        change.set_input(node, rng.randrange(len(node.inputs)), new)


def copy(change, node, value, rng):
    if len(node.outputs) == 1 and not any(
        attr.type.name == "GRAPH" for attr in node.attributes.values()
    ):
        new = change.node(
            node.op_type, node.inputs, attributes=dict(node.attributes), domain=node.domain
        )
        change.replace(node.outputs[0], new)
        change.remove(node)


def fix(change, node, value, rng):
    if node.inputs:
        array = np.array([rng.randint(-1, 4) for _ in range(rng.randint(1, 3))], np.int64)
        new = change.initializer(array, name="fixed")
        change.set_input(node, rng.randrange(len(node.inputs)), new)


def turn(change, node, value, rng):
    if "axis" in node.attributes:
        change.set_attributes(node, {"axis": rng.choice([0, 1, -1])})


def resize(change, node, value, rng):
    held = [item for item in node.inputs if item is not None and item.is_initializer()]
    if held:
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 2))]
        change.set_tensor(rng.choice(held), np.zeros(shape, np.float32))


def drop(change, node, value, rng):
    if not any(output.uses() or output.is_graph_output() for output in node.outputs):
        change.remove(node)


def test_only_what_changed_is_followed_again(monkeypatch):
    chain = "".join(f" v{index + 1} = Relu(v{index})" for index in range(200))
    model = from_text(f"(float[N,4] v0) => (float[A,B] v200) {{ {chain} }}")
    kept = KeptShapes(model)
    kept.renewed(model)
    visited = []
    visit = TypedShapes._visit
    monkeypatch.setattr(
        TypedShapes, "_visit", lambda self, node: visited.append(node) or visit(self, node)
    )
    check_steps(model, kept, lambda: len(visited))


def test_only_what_changed_is_inferred_again(monkeypatch):
    chain = "".join(f" v{index + 1} = Relu(v{index})" for index in range(200))
    model = from_text(f"(float[N,4] v0) => (float[A,B] v200) {{ {chain} {SEQUENCE} }}")
    kept = KeptShapes(model)
    kept.renewed(model)
    sizes = []
    run = type(kept._inference).run
    monkeypatch.setattr(
        type(kept._inference),
        "run",
        lambda self, part: sizes.append(len(part.nodes)) or run(self, part),
    )
    check_steps(model, kept, lambda: sum(sizes))


def check_steps(model, kept, steps):
    editor = Editor(model, pass_name="test", journal=journal_of(kept))
    node = model.graph[100]
    with editor.rewrite(node, because="the same shape") as change:
        new = change.node("Neg", [node.inputs[0]])
        change.replace(node.outputs[0], new)
        change.remove(node)
    assert kept.renewed(model).of(new) == ValueShape(ir.DataType.FLOAT, ("N", 4))
    assert steps() <= 2  # the new node, and the one that reads its result
    with editor.rewrite(model.graph[150], because="another shape") as change:
        change.set_operator(model.graph[150], "Transpose")
    assert kept.renewed(model).of(model.graph.outputs[0]).dims == (4, "N")
    assert steps() <= 203


@pytest.mark.parametrize("dims", [(7,), ("M",), (None,), None])
def test_a_wrong_table_is_told(dims):
    model = from_text("(float[N] x, float[3] y) => (float[N] z) { z = Relu(x) }")
    right = infer_shapes(model)
    table = {value: right.of(value) for value in values(model)}
    assert difference(model, ShapeTable(table), right) is None
    table[model.graph.inputs[1]] = ValueShape(ir.DataType.FLOAT, dims)
    assert difference(model, ShapeTable(table), right) is not None


def test_one_name_for_two_sizes_is_told():
    model = from_text("(float[N,M] x) => (float[N,M] z) { z = Relu(x) }")
    table = dict.fromkeys(values(model), ValueShape(ir.DataType.FLOAT, ("N", "N")))
    assert difference(model, ShapeTable(table), infer_shapes(model)) is not None


def canonical(item):
    """Return an expression, or what it is made of, whatever analysis its symbols are of."""
    if isinstance(item, Expression):
        return frozenset(
            (tuple(sorted(map(repr, map(canonical, factors)))), number)
            for factors, number in item.terms.items()
        )
    if isinstance(item, Symbol):
        return ("symbol", canonical(item.key))
    if isinstance(item, (tuple, list)):
        return tuple(map(canonical, item))
    if isinstance(item, frozenset):
        return tuple(sorted(map(repr, map(canonical, item))))
    return item.name if isinstance(item, ir.Value) else item


def all_known(model, known):
    found = {}
    for value in values(model):
        elements = known.elements(value)
        items = None if elements is None else (elements.shape, canonical(elements.tolist()))
        found[value.name] = (canonical(known.dims(value)), items)
    return found


def check_symbols(model, kept):
    followed = SymbolicShapes.kept(model, kept)
    anew = SymbolicShapes(model, kept)
    assert all_known(model, followed) == all_known(model, anew)
    assert {repr(canonical(s)) for s in followed.symbols.positive} == {
        repr(canonical(s)) for s in anew.symbols.positive
    }
    return followed


@RANDOM
@given(models())
def test_symbolic_shapes_follow_every_pass(model):
    kept = KeptShapes(model)
    first = check_symbols(model, kept.renewed(model))
    for pass_ in Pipeline.parse("@lossless").passes():
        facts = Facts(shapes=kept.renewed(model))
        pass_.run(model, Editor(model, pass_name=pass_.name, journal=journal_of(kept)), facts)
        check_symbols(model, kept.renewed(model))
    del first


@pytest.mark.parametrize("beside", ["", SEQUENCE])
def test_symbolic_shapes_know_edits_that_the_table_was_not_renewed_for(beside):
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] z)'
        f" {{ v0 = Neg(x)  y = Relu(x)  z = Abs(y) {beside} }}"
    )
    kept = KeptShapes(model)
    before = SymbolicShapes.kept(model, kept.renewed(model))
    last = model.graph.node(2)
    with Editor(model, pass_name="test", journal=journal_of(kept)).rewrite(
        last, because="test"
    ) as change:
        moved = change.node("Transpose", [last.inputs[0]], attributes={"perm": [1, 0]})
        back = change.node("Transpose", [moved], attributes={"perm": [1, 0]})
        change.set_input(last, 0, back)
    after = SymbolicShapes.kept(model, kept)
    assert after is before
    assert (kept.of(moved) is None) is bool(beside)
    assert after.dims(moved) == (4, after.dims(model.graph.inputs[0])[0])
