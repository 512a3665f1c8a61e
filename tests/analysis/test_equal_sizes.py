"""Sizes that a model forces to be equal."""

from graphopt.analysis import infer_shapes
from graphopt.analysis.equal_sizes import EqualSizes, sizes_forced_equal
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import from_text


def shapes_of(text):
    model = from_text(text)
    table = SymbolicTable(model, infer_shapes(model))
    dims = {
        value.name: table.of(value).dims
        for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs))
    }
    return model, table, dims


def test_what_is_equal_is_so_within_sums_and_products():
    _, shapes, dims = shapes_of("""(float[A,4] x, float[B,4] y, float[C,4] c) => (float[R,4] z) {
        p = Concat<axis = 0>(x, c)  q = Concat<axis = 0>(y, c)  z = Relu(p) }""")
    sizes = EqualSizes(shapes)
    assert not sizes.are_equal(dims["p"][0], dims["q"][0])
    assert not sizes.are_equal(None, None)
    mine = sizes.copy()
    mine.equate("A", "B")
    mine.equate("B", "A")
    assert mine.are_equal(dims["p"][0], dims["q"][0])
    assert not sizes.are_equal("A", "B")
    mine.equate("B", 7)
    assert mine.are_equal("A", 7)


def test_a_reshape_keeps_the_number_of_elements():
    model, shapes, _ = shapes_of("""(float[A,C,6] x, float[A,B] y) => (float[P,Q,R] z) {
        n = Shape(y)  six = Constant<value_ints = [6]>()  t = Concat<axis = 0>(n, six)
        z = Reshape<allowzero = 1>(x, t) }""")
    sizes = sizes_forced_equal(model, shapes)
    assert sizes.are_equal("B", "C")
    assert not sizes.are_equal("A", "B")


def test_what_is_cut_off_fits_only_where_nothing_is():
    text = """(float[A,3] x, float[A,3] y, float[1024,3] t, int64[1] e) => (float[P,Q] z)
        <int64[1] zero = {0}> {
        n = Shape<start = 0, end = 1>(x)  s = Slice(t, zero, n, zero)  z = Add(s, x) }"""
    model, shapes, dims = shapes_of(text)
    cut = dims["s"][0]
    assert cut != "A"
    assert sizes_forced_equal(model, shapes).are_equal(cut, "A")


def test_what_is_cut_off_at_an_open_limit_may_be_one_but_the_sum_is_whole():
    text = """(float[A,3] x, float[B,3] t) => (float[P,Q] z) <int64[1] zero = {0}> {
        n = Shape<start = 0, end = 1>(x)  s = Slice(t, zero, n, zero)  z = Add(s, x) }"""
    model, shapes, dims = shapes_of(text)
    sizes = sizes_forced_equal(model, shapes)
    assert not sizes.are_equal(dims["s"][0], "A")
    assert sizes.are_equal(dims["z"][0], "A")
