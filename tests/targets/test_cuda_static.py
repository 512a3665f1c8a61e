"""What `benchmarks/cuda` tells of a file without a GPU: each kind of trouble is found."""

import runpy
from pathlib import Path

import pytest

from graphopt.analysis import infer_shapes
from graphopt.ir import from_text

SCRIPT = Path(__file__).parents[2] / "benchmarks/cuda/static.py"


@pytest.fixture(scope="module")
def look():
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not here")
    found = runpy.run_path(str(SCRIPT))["look"]

    def run(text):
        model = from_text(text)
        return found(model, infer_shapes(model))

    return run


HALF = "(float16[N,2] x) => (float16[N,2] y) <float16[2,2] w = {1, 2, 3, 4}, float[2,2] v = {1, 2, 3, 4}>"


def test_all_in_16_bits(look):
    found = look(HALF + "{ a = MatMul(x, w) y = Relu(a) }")
    assert found.broken() == []
    assert (found.islands, found.edges, found.products, found.casts) == ([], [], [], 0)


def test_an_island_and_the_product_in_it(look):
    text = "{ c = Cast<to = 1>(x) a = MatMul(c, v) b = Relu(a) d = Cast<to = 10>(b) y = Relu(d) }"
    found = look(HALF + text)
    assert (len(found.islands), len(found.islands[0]), found.edges) == (1, 2, [])
    assert (len(found.products), found.casts) == (1, 2)
    assert len(found.broken()) == 2


def test_the_border_of_a_model_is_no_island_but_its_products_count(look):
    text = "(float[N,2] x) => (float16[N,2] y) { a = Relu(x) y = Cast<to = 10>(a) }"
    assert look(text).broken() == []
    assert len(look(text).edges) == 1
    text = (
        "(float[N,2] x) => (float16[N,2] y) <float[2,2] v = {1, 2, 3, 4}> "
        "{ a = MatMul(x, v) y = Cast<to = 10>(a) }"
    )
    assert look(text).broken() == ["1 products in 32-bit floats: ['MatMul a_MatMul']"]


def test_sizes_stay_on_the_host_unless_kernels_read_them_as_data(look):
    begin = "(float16[N,M] x) => (float16[K,L] y) <int64[1] zero = {0}, int64[1] two = {2}> { s = Shape(x) "
    found = look(begin + "r = Mul(s, two) t = Div(r, two) y = Reshape(x, t) }")
    assert (found.shape_nodes, found.crossings, found.broken()) == (3, [], [])
    found = look(begin + "h = Cast<to = 10>(s) y = Mul(x, h) }")
    assert found.crossings == ["h"]
    assert len(found.broken()) == 1
