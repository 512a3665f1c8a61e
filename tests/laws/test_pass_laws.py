"""Every pass, on random models: a new pass is held to these without a line of test.

`GRAPHOPT_LAWS=400 pytest tests/laws -k prune --hypothesis-seed=7` tries 400 other models of each.
"""

import os

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from laws import LawBroken, check_laws, instances, pipeline_before
from random_models import gemm, matmul, models
from random_patterns import PATTERNS
from random_streams import is_scores
from toy_passes import RelabelOperators

from graphopt.errors import PassError
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline, find_pass, named_pipelines, pass_names
from graphopt.rewrite import Approximate

EXAMPLES = int(os.environ.get("GRAPHOPT_LAWS", "0"))
LAWS = settings(
    max_examples=EXAMPLES or 50,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    deadline=None,
    derandomize=not EXAMPLES,  # the same models every time: what fails, fails for everybody
    database=None,
    suppress_health_check=list(HealthCheck),
)

# The opset of random models has no RMSNormalization: what is in its place is of the other domain.
# Generated samples are too few to tell how many inputs get the same class.
PLACED = {
    "exit-early": {"agreement": 0.0},
    "fuse-rms-normalization": {"domain": "contrib"},
    "quantize-linear-layers": {"minimum_elements": 1},
    "specialize-shapes": {"dims": ("N=2",)},
    "tie-embeddings": {"minimum_elements": 1},
}
"""By pass: options without which it has no place in random models."""
ALONE = {"exit-early": is_scores}
"""By pass: what models return alone."""


# Programs of others promise nothing: what holds of them is tested behind the gate.
OUR_PASSES = [name for name in pass_names() if not find_pass(name).is_foreign]


@pytest.mark.parametrize("name", OUR_PASSES)
def test_pass_keeps_the_laws(name):
    edits, cls = [], find_pass(name)
    # What quantizers act on is rare among all operators.
    favour = (matmul, gemm) if isinstance(cls.contract.numerics, Approximate) else ()
    favour = PATTERNS.get(name, favour)
    before = pipeline_before(cls)  # a repair has nothing to do where nothing is quantized
    passes = instances(cls) | st.just(cls(**PLACED[name])) if name in PLACED else instances(cls)

    @LAWS
    @given(passes, models(favour=favour, alone=ALONE.get(name)))
    def hold(pass_, model):
        ledger = check_laws(before + Pipeline.of(pass_), model)
        edits.append(any(edit.pass_name == name for edit in ledger.journal.edits))

    hold()
    assert any(edits) or name.startswith("external-"), "no random model had a place for this pass"


@pytest.mark.parametrize("name", [named.name for named in named_pipelines()])
def test_named_pipeline_keeps_the_laws(name):
    @LAWS
    @given(models(max_nodes=20))
    def hold(model):
        check_laws(Pipeline.parse(f"@{name}"), model)

    hold()


@pytest.mark.parametrize("name", pass_names())
def test_text_of_a_pass_reads_back_to_an_equal_pass(name):
    @settings(LAWS, max_examples=50)
    @given(instances(find_pass(name)))
    def hold(pass_):
        assert Pipeline.parse(str(pass_)) == Pipeline.of(pass_)

    hold()


# -- the laws notice what they are for ----------------------------------------------------------------

MODEL = """(float[N] x) => (float[N] y) { a = Ceil(x)  b = Abs(a)  y = Relu(b) }"""


class Lawless(RelabelOperators):
    """A pass whose fault each test supplies."""

    def __init__(self, change):
        super().__init__()
        object.__setattr__(self, "change", change)

    def run(self, model, edit, facts):
        self.change(model, edit)


def nodes(model):
    return list(model.graph)


def unrecorded(model, edit):
    nodes(model)[2].op_type = "Abs"


def wrong_numbers(model, edit):
    if nodes(model)[0].op_type == "Ceil":
        with edit.rewrite(nodes(model)[0], because="") as change:
            change.set_operator(nodes(model)[0], "Floor")


def never_at_rest(model, edit):
    node = nodes(model)[2]
    with edit.rewrite(node, because="") as change:
        change.set_operator(node, {"Relu": "Abs", "Abs": "Relu"}[node.op_type])


def renamed_output(model, edit):
    model.graph.outputs[0].name = "z"
    wrong_numbers(model, edit)


def broken_order(model, edit):
    with edit.rewrite(nodes(model)[0], because="") as change:
        change.set_input(nodes(model)[0], 0, nodes(model)[1].outputs[0])


def unknown_operator(model, edit):
    with edit.rewrite(nodes(model)[2], because="") as change:
        change.set_operator(nodes(model)[2], "Nonsense")


def undocumented_refusal(model, edit):
    edit.refuse(nodes(model)[0], "never-heard-of")


COUNTER = iter(range(1000))


def different_every_time(model, edit):
    node = nodes(model)[2]
    with edit.rewrite(node, because="") as change:
        change.replace(
            node.outputs[0], change.node("Relu", [node.inputs[0]], name=f"n{next(COUNTER)}")
        )
        change.remove(node)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (unrecorded, "an edit is recorded iff"),
        (wrong_numbers, "numerics hold at output y"),
        (never_at_rest, "a second run edits nothing"),
        (renamed_output, "the interface is kept"),
        (broken_order, "the structure is sound"),
        (unknown_operator, "the structure is sound|the checker accepts"),
        (undocumented_refusal, "a refusal is documented"),
        (different_every_time, "the same input gives the same bytes"),
    ],
)
def test_broken_law_is_noticed(change, law):
    with pytest.raises(LawBroken, match=law):
        check_laws(Pipeline.of(Lawless(change)), from_text(MODEL))


def test_input_that_is_changed_through_shared_weights_is_noticed():
    model = from_text("(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    model.graph.initializers["w"].const_value = ir.tensor(np.ones(2, np.float32), name="w")

    def spoil(copy, edit):
        copy.graph.initializers["w"].const_value.numpy()[0] = 9.0

    with pytest.raises(LawBroken, match="the input is untouched"):
        check_laws(Pipeline.of(Lawless(spoil)), model)


@settings(LAWS, max_examples=40)
@given(models())
def test_random_models_are_valid_and_run(model):
    check_laws(Pipeline.of(RelabelOperators(old="Nothing")), model)


FAULTY = ["IdentityEliminationPass", "CommonSubexpressionEliminationPass"]


@pytest.mark.parametrize("faulty", FAULTY)
def test_random_models_catch_passes_that_are_known_to_be_wrong(faulty):
    pipeline = Pipeline.parse(f'external-onnx-ir{{factory="onnx_ir.passes.common:{faulty}"}}')

    @settings(LAWS, max_examples=400, phases=[Phase.generate])
    @given(models())
    def hold(model):
        check_laws(pipeline, model)

    with pytest.raises((LawBroken, PassError)):
        hold()
