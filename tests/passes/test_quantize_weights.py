"""What ONNX Runtime makes of weights that `quantize-weights` stored, 4-bit ones included."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.compression import LayerInputs, weight_layer, weight_nodes
from graphopt.errors import PreconditionError
from graphopt.ir import from_text, load, save
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import PassManager, Pipeline
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.verification import check_structure

TIED = """<ir_version: 10, opset_import: ["" : 21]>
g (int64[B,S] i) => (float[B,S,40] z) <float[40,64] w>
{ y = Gather(w, i)  r = Tanh(y)  t = Transpose<perm = [1, 0]>(w)  z = MatMul(r, t) }"""
LAYER = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N,72] x) => (float[N,40] y) <float[72,40] w, float[40] b> { y = Gemm(x, w, b) }"""
BRANCH = """<ir_version: 10, opset_import: ["" : 21]>
g (bool c, float[N,64] x) => (float[N,40] z) <float[64,40] w>
{
  z = If(c) <
    then_branch = then_graph () => (float[N,40] t) { t = MatMul(x, w) },
    else_branch = else_graph () => (float[N,40] e) { n = Neg(x)  e = MatMul(n, w) }
  >
}"""


def prepared(text):
    # Weights without values are no text that the parser takes: they are written as inputs.
    head, _, body = text.partition("=> ")
    outputs, _, rest = body.partition(" <")
    declared, _, nodes = rest.partition(">")
    model = from_text(f"{head[:-2]}, {declared}) => {outputs} {nodes}")
    random = np.random.default_rng(0)
    for value in [item for item in model.graph.inputs if item.name in {"w", "v", "b"}]:
        model.graph.inputs.remove(value)
        shape = tuple(value.shape.numpy())
        array = random.standard_normal(shape).astype(np.float32)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    return model


@pytest.fixture
def run(tmp_path):
    def run(model, feeds, optimization="all"):
        path, written = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
        save(model, path)
        options = SessionOptions(optimization=optimization, optimized_model_path=written)
        with shared_worker().load(path, options) as session:
            result = session.run(feeds)
        operators = [node.op_type for graph in load(written).graphs() for node in graph]
        return next(iter(result.values())), operators

    return run


def quantized(text, **options):
    model = prepared(text)
    pass_ = QuantizeWeights(minimum_elements=1, **options)
    PassManager(verify="off").run(model, Pipeline.of(pass_))
    check_structure(model)
    return model


FORMATS = [
    {"bits": 4},
    {"bits": 4, "symmetric": True, "block_size": 16},
    {"bits": 4, "block_size": 0},
    {"bits": 8, "block_size": 128},
    {"bits": 8, "block_size": 0},
]


@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize("text", [LAYER, BRANCH, TIED])
def test_the_runtime_fuses_it_and_computes_the_same(run, text, options):
    random = np.random.default_rng(1)
    feeds = {"x": random.standard_normal((3, 72 if text == LAYER else 64)).astype(np.float32)}
    if text == BRANCH:
        feeds["c"] = np.array(False)
    if text == TIED:
        feeds = {"i": np.array([[0, 39, -1, 7]])}
    exact, _ = run(prepared(text), feeds)
    model = quantized(text, table_bits=options["bits"], **options)
    plain, _ = run(model, feeds, "disabled")
    fused, operators = run(model, feeds)
    signal = float(np.square(exact).mean())
    limit = 10 ** (-1.5 if options["bits"] == 4 else -3.5)
    assert np.square(plain - exact).mean() < limit * signal
    # The runtime rounds activations to 8 bits.
    assert np.square(fused - plain).mean() < 1e-3 * signal
    assert operators.count("MatMulNBits") == (2 if text == BRANCH else 1)
    assert "MatMul" not in operators
    assert "Gemm" not in operators


@pytest.mark.parametrize("bits", [4, 8])
def test_a_tied_table_is_stored_once(bits):
    model = quantized(TIED, bits=bits, table_bits=bits)
    large = [value for value in model.graph.initializers.values() if value.const_value.size >= 2560]
    assert [value.dtype for value in large] == [
        ir.DataType.UINT4 if bits == 4 else ir.DataType.INT8
    ]


def test_a_table_of_its_own_in_four_bits(run):
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (int64[B,S] i) => (float[B,S,50] y) <float[40,50] w> { y = Gather(w, i) }"""
    feeds = {"i": np.array([[0, 39, -1, 7]])}
    exact, _ = run(prepared(text), feeds)
    for symmetric in (False, True):
        model = quantized(text, table_bits=4, symmetric=symmetric)
        found, _ = run(model, feeds)
        assert np.square(found - exact).mean() < 0.02 * np.square(exact).mean()


@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_makes_up_for_errors_on_samples(act_order):
    random = np.random.default_rng(3)
    mixing = random.standard_normal((4, 72)).astype(np.float32)
    samples = [
        {
            "x": random.standard_normal((64, 4)).astype(np.float32) @ mixing
            + 0.1 * random.standard_normal((64, 72)).astype(np.float32)
        }
        for _ in range(8)
    ]
    exact = [np.concatenate([sample["x"] for sample in samples]) @ weight_of(prepared(LAYER))]
    errors = {}
    for method in ("rtn", "gptq"):
        model = prepared(LAYER)
        pass_ = QuantizeWeights(minimum_elements=1, method=method, act_order=act_order)
        provider = Calibrator(samples=load_samples(samples))
        manager = PassManager(verify="off", statistics_provider=provider)
        manager.run(model, Pipeline.of(pass_))
        found = np.concatenate([sample["x"] for sample in samples]) @ weight_of(model)
        errors[method] = np.square(found - exact[0]).mean()
    assert errors["gptq"] < 0.3 * errors["rtn"]


def test_the_layer_that_matters_at_the_outputs_gets_eight_bits():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,72] x) => (float[N,40] y) <float[72,40] w, float[72,40] v>
    { p = MatMul(x, w)  q = MatMul(x, v)  t = Constant<value_float = 0.001>()
      r = Mul(q, t)  y = Add(p, r) }"""
    random = np.random.default_rng(6)
    samples = [{"x": random.standard_normal((4, 72)).astype(np.float32)} for _ in range(4)]
    kinds = {}
    for share in (0.5, 0.4):
        model = prepared(text)
        pass_ = QuantizeWeights(minimum_elements=1, eight_bits_share=share)
        provider = Calibrator(samples=load_samples(samples))
        manager = PassManager(verify="off", statistics_provider=provider)
        result = manager.run(model, Pipeline.of(pass_))
        stored = model.graph.initializers
        kinds[share] = [stored[f"{name}_quantized"].const_value.dtype for name in "wv"]
        assert any(", alone " in entry.because for entry in result.ledger.journal.edits)
    assert kinds[0.5] == [ir.DataType.INT8, ir.DataType.UINT4]
    assert kinds[0.4] == [ir.DataType.UINT4, ir.DataType.UINT4]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"eight_bits": ("first",)}, [3, 3]),
        ({"eight_bits": ("first",), "eight_bits_block_size": 64}, [2, 3]),
        ({"eight_bits": ("first",), "eight_bits_block_size": 0}, [None, 3]),
        ({"eight_bits_share": 0.5, "eight_bits_block_size": 64}, [2, 3]),
    ],
)
def test_layers_that_keep_eight_bits_may_have_blocks_of_their_own(options, rows):
    model = prepared(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,72] x) => (float[N,40] y) <float[72,40] w, float[72,40] v>
        { [first] p = MatMul(x, w)  q = MatMul(x, v)  t = Constant<value_float = 0.001>()
          r = Mul(q, t)  y = Add(p, r) }"""
    )
    random = np.random.default_rng(6)
    samples = [{"x": random.standard_normal((4, 72)).astype(np.float32)} for _ in range(4)]
    manager = PassManager(
        verify="off", statistics_provider=Calibrator(samples=load_samples(samples))
    )
    manager.run(model, Pipeline.of(QuantizeWeights(minimum_elements=1, **options)))

    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert [stored[f"{name}_quantized"].dtype for name in "wv"] == [
        ir.DataType.INT8,
        ir.DataType.UINT4,
    ]
    shapes = [stored[f"{name}_scale"].numpy().shape for name in "wv"]
    assert shapes == [(40,) if count is None else (count, 40) for count in rows]  # of 72 inputs


def weight_of(model):
    """Return the weight that the layer of a model computes with."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    if "w" in tensors:
        return tensors["w"].numpy()
    rows = np.arange(72) // 32
    zero_point = tensors["w_zero_point"].numpy().astype(np.float32)[rows]
    integers = tensors["w_quantized"].numpy().astype(np.float32)
    return (integers - zero_point) * tensors["w_scale"].numpy()[rows]


def test_a_layer_behind_a_replaced_one_is_measured_where_it_now_reads():
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N,72] x) => (float[N,40] z) <float[72,72] w, float[72,40] b>
    { y = Gemm<alpha = 0.5>(x, w)  c = Constant<value = float[1,72] {C}>()
      a = Gemm<beta = 2.0>(y, w2, c)  z = MatMul(a, b) }"""
    text = text.replace("{C}", "{" + ", ".join(["1.0"] * 72) + "}").replace("w2", "v")
    text = text.replace("float[72,72] w,", "float[72,72] w, float[72,72] v,")
    model = prepared(text)
    random = np.random.default_rng(5)
    samples = [{"x": random.standard_normal((32, 72)).astype(np.float32)} for _ in range(4)]
    layers = [weight_layer(node) for node in weight_nodes(model)]
    measure = Calibrator(samples=load_samples(samples)).measure
    inputs = LayerInputs(model, measure, layers, memory_bytes=1)
    for index, layer in enumerate(layers):
        assert inputs.gram(layer).shape == (72, 72)
        if index < 2:
            _replace_output(layer.node)


def _replace_output(node):
    """Give the result of a node another name, as a rewrite that replaces the node does."""
    node.outputs[0].name = f"{node.outputs[0].name}_replaced"


def test_gptq_wants_samples():
    with pytest.raises(PreconditionError, match="calibration samples"):
        PassManager(verify="off").run(
            prepared(LAYER), Pipeline.of(QuantizeWeights(method="gptq", minimum_elements=1))
        )
