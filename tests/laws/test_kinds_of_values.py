"""The bit-exact pipeline on random models with values of every type and kind, subgraphs among them."""

from hypothesis import HealthCheck, Phase, given, settings
from laws import check_laws
from random_control_flow import common, counted, decided
from random_models import models
from random_types import ODD_TYPES

from graphopt.pipeline import Pipeline

SEEN: set[str] = set()


@settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(models(favour=(*ODD_TYPES, decided, common, counted)))
def check_lossless(model):
    SEEN.update(node.op_type for node in model.graph)
    check_laws(Pipeline.parse("@lossless"), model)


def test_lossless_keeps_the_laws_on_values_of_every_kind():
    check_lossless()
    kinds = {"SequenceAt", "OptionalGetElement", "StringConcat", "Cast", "If", "Loop"}
    assert kinds <= SEEN
