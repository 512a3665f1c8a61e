"""Dynamic depth: easy inputs leave early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.compression.early_exit import ExitOptions, exit_early
from graphopt.compression.exit_features import POOLS
from graphopt.compression.exit_head import CERTAINTIES
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["ExitEarly"]


@dataclass(frozen=True, kw_only=True)
class ExitEarly(Pass):
    """Let a classification model return early what an early layer is sure of.

    What it does
        A head is fitted in closed form to the scores of the whole model on half of the samples,
        without labels: linear in the pooled stream behind a block. The layers behind it move into
        the branch of an `If` that is taken unless the head is sure of every row of the batch. How
        sure it must be is chosen on a quarter of the samples, and tested on the last quarter.

    When it refuses
        `no-layers`         nothing is added to a stream in the main graph.
        `several-outputs`   the model returns more than scores.
        `no-scores`         what it returns is no float[batch, classes].
        `already-exits`     what it returns is the result of an If.
        `not-by-row`        the stream behind a block does not begin with the batch, or its channels
                            are not known.
        `annotated`         a quantization annotation describes what would move.
        `not-worthwhile`    hardly any arithmetic is behind the block, or hardly any input leaves.
        `too-few-samples`   fewer rows than the agreement can be told by.
        `not-measured`      the stream or the scores were not finite on the samples.
        `agreement-missed`  on the samples held out, too few inputs get the same class.
        `self-test-failed`  where nobody leaves, the output is not the same bit for bit; or where
                            all leave, it is not what the head says.

    What it keeps
        Inputs and outputs of the model; the output itself where an input stays: bit for bit in
        single precision, but for the runtime's rounding in half precision.

    Cost
        One run of the samples, and one more through the layers before the exit; least squares of
        as many unknowns as the stream has channels, for each block.

    Example
        options {after=block-0 agreement=0.0}
        samples x: [[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 2.0], [1.0, 3.0], [3.0, 0.5]]
        before  (float[B,2] x) => (float[B,2] y)
                <float[2,2] v = {1.0, 0.0, 0.0, 1.0}, float[2,2] w = {1.0, 0.0, 0.0, 1.0}>
                { a = MatMul(x, v)  b = Add(x, a)  c = MatMul(b, w)  d = Relu(c)  y = Add(b, d) }
        after   (float[B,2] x) => (float[B,2] y)
                <float[2,2] v = {1.0, 0.0, 0.0, 1.0}, float[2,2] w = {1.0, 0.0, 0.0, 1.0},
                 float[2,2] weight = {0.78307927, -0.39153963, -1.5661585, 0.78307927},
                 float[2] bias = {8.874899, 4.959502},
                 int64[1] axes = {1}, float threshold = {0.9986032}>
                { a = MatMul(x, v)  b = Add(x, a)  head = Gemm(b, weight, bias)
                  p = Softmax<axis = 1>(head)  q = ReduceMax<keepdims = 0>(p, axes)
                  r = ReduceMin<keepdims = 0>(q)  sure = Greater(r, threshold)
                  y = If(sure) <
                    then_branch = leave () => (float[B,2] early) { early = Identity(head) },
                    else_branch = stay () => (float[B,2] late)
                      { c = MatMul(b, w)  d = Relu(c)  late = Add(b, d) }> }

    References
        Teerapittayanon et al. 2016 (BranchyNet), section III. Xin et al. 2020 (DeeBERT), section 3.
    """

    name: ClassVar[str] = "exit-early"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="max_metric_drop"), is_idempotent=True
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Add"})

    after: str = option("", help="block behind which inputs may leave; empty: where most is spared")
    agreement: float = option(
        0.99,
        help="share of all inputs that must get the same class as from the whole model",
        unit="fraction",
        minimum=0.0,
        maximum=1.0,
    )
    certainty: str = option(
        "probability",
        help="how sure a head is: the largest probability, or the entropy of all",
        choices=CERTAINTIES,
    )
    pool: str = option(
        "both", help="what the head sees of a sequence: mean, first position", choices=POOLS
    )
    seed: int = option(0, help="seed of the split of the samples", minimum=0)
    timed: bool = option(
        False, help="measure what a row takes on average: twelve seconds, and by a clock"
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples."""
        return Needs(shapes=True, samples=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Add one exit, or say why not."""
        options = ExitOptions(
            after=self.after,
            agreement=self.agreement,
            certainty=self.certainty,
            pool=self.pool,
            seed=self.seed,
            timed=self.timed,
        )
        exit_early(model, edit, facts, options)
