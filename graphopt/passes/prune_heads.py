"""Pruning of attention heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.compression.pruning_options import PruningOptions
from graphopt.compression.unit_pruning import UnitPruning
from graphopt.errors import OptionError
from graphopt.rewrite import Contract, TargetFacts, option

__all__ = ["PruneHeads"]


@dataclass(frozen=True, kw_only=True)
class PruneHeads(UnitPruning):
    """Remove the heads of attention that are missed least.

    What it does
        A head goes with its columns of the projections to queries, keys and values, its rows of the
        projection of the result, and whatever else is made for each head; heads that share keys and
        values (grouped-query attention) go together with them. What stays is fitted, layer by layer
        in the order of the graph, to what the layer computed before, on what enters it now.

    When it refuses
        `self-test-failed`   the cut model does not compute what the model computes with zeros in
                             place of the units: nothing is removed there.
        `fixed-length`       the dimension meets one that cannot change: an input of the model, such
                             as a cache of keys and values, or a shape that only a run tells.
        `model-input`        callers give it, or hand it on from run to run, as they do the cache of
                             keys and values; `caches=true` takes heads from these as well.
        `model-output`       the model returns it.
        `overridable`        a weight is also an input of the model.
        `unknown-operator`   an operator of which nothing is known reads it.
        `annotated`          a quantization annotation describes a weight.
        `integer-layer`      it is computed in integers: prune before you quantize.
        `recurrent`          an LSTM, GRU or RNN carries it from step to step.
        `read-by-subgraph`   the body of an If, Loop or Scan reads it.
        `in-subgraph`        the layer lies in such a body, or in a function: prune the models that
                             were merged one by one, or inline functions.
        `normalized-over`    a mean or another statistic is taken over it.
        `softmax`            a Softmax runs over it.
        `blocks`             neighbours along it share a scale.
        `head-size`          it is the length of heads, by which scores are scaled.
        `sequence`           it lies along time, or within a head.
        `rotated`            positions turn it by pairs.
        `single-head`        the attention has one head.
        `no-projection`      no weight of the model makes the heads.
        `looked-up`          its indices are looked up by number.
        `picked`             one of its indices is read by number.
        `cut`                it is cut in strides, or where only a run tells.
        `joined`             it is joined with what has no fixed length.
        `repeated`           it is repeated along its axis.
        `unclear-shape`      a reshape makes something of it that is not followed.
        `inner-index`        its index is the place within another unit.
        `inseparable`        it is a product none of whose factors can change.
        `nothing-to-remove`  after rounding to `multiple`, all units stay.
        `no-weights`         no constant weight sums over it, so that there is nothing to rank by.
        `shared-weight`      others read the weight of a layer, too: it is cut, not fitted.
        `not-measured`       what enters a layer was empty or not finite on the samples: it cannot
                             be scored, or is cut and not fitted.
        `excluded`           the name of the group matches `exclude`, or none of `groups`, or
                             `units` names none of its units.
        `out-of-reach`       the budget cannot be met with any ratio: nothing is removed anywhere.

    What it keeps
        Inputs and outputs of the model. What the cut model computes is, before anything is fitted,
        what the model computes with zeros in place of the units, to 1e-4: tested on two inputs.

    Cost
        One run per sample and layer for fitting; time O(weights + inputs^3) for a layer.

    Example
        options {ratio=0.5 score=l2 compensation=off}
        before  (float[B,S,2] x) => (float[B,S,2] y)
                <float[2,2] q = {1.0, 0.0, 0.0, 1.0}, float[2,2] k = {1.0, 0.0, 0.0, 1.0},
                 float[2,2] v = {1.0, 0.0, 0.0, 1.0}, float[2,2] o = {2.0, 1.0, 0.0, 0.5},
                 int64[4] split = {0, 0, 2, 1}, int64[3] merge = {0, 0, 2}>
                { a = MatMul(x, q)  b = MatMul(x, k)  c = MatMul(x, v)
                  d = Reshape(a, split)  e = Reshape(b, split)  f = Reshape(c, split)
                  g = Transpose<perm = [0, 2, 1, 3]>(d)  h = Transpose<perm = [0, 2, 3, 1]>(e)
                  i = Transpose<perm = [0, 2, 1, 3]>(f)  s = MatMul(g, h)
                  p = Softmax<axis = -1>(s)  r = MatMul(p, i)
                  t = Transpose<perm = [0, 2, 1, 3]>(r)  u = Reshape(t, merge)
                  y = MatMul(u, o) }
        after   (float[B,S,2] x) => (float[B,S,2] y)
                <float[2,1] q = {1.0, 0.0}, float[2,1] k = {1.0, 0.0},
                 float[2,1] v = {1.0, 0.0}, float[1,2] o = {2.0, 1.0},
                 int64[4] one = {0, 0, 1, 1}, int64[4] two = {0, 0, 1, 1},
                 int64[4] three = {0, 0, 1, 1}, int64[3] merge = {0, 0, 1}>
                { a = MatMul(x, q)  b = MatMul(x, k)  c = MatMul(x, v)
                  d = Reshape(a, one)  e = Reshape(b, two)  f = Reshape(c, three)
                  g = Transpose<perm = [0, 2, 1, 3]>(d)  h = Transpose<perm = [0, 2, 3, 1]>(e)
                  i = Transpose<perm = [0, 2, 1, 3]>(f)  s = MatMul(g, h)
                  p = Softmax<axis = -1>(s)  r = MatMul(p, i)
                  t = Transpose<perm = [0, 2, 1, 3]>(r)  u = Reshape(t, merge)
                  y = MatMul(u, o) }

    References
        Michel et al. 2019, section 3 (heads can go). Kwon et al. 2022, section 3.4 (least squares).
    """

    name: ClassVar[str] = "prune-heads"
    kind: ClassVar[str] = "heads"

    caches: bool = option(
        False,
        help="cut heads from caches too: inputs and outputs that hold keys and values get fewer",
    )

    def __post_init__(self) -> None:
        """Check the options; with `caches` the interface changes.

        Raises:
            OptionError: `caches` is given with what runs the cut model on samples.
        """
        super().__post_init__()
        if not self.caches:
            return
        if self.compensation != "off" or self.budget is not None or self.curves:
            raise OptionError(
                f"option `caches` of pass `{self.name}` needs `compensation=off`, and no budget",
                why="samples hold the heads of the original in their caches",
            )
        contract = Contract(
            numerics=type(self).contract.numerics, is_idempotent=False, changes_interface=True
        )
        object.__setattr__(self, "contract", contract)

    def _options(self, target: TargetFacts | None = None) -> PruningOptions:
        return replace(super()._options(target), caches=self.caches)
