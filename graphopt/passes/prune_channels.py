"""Pruning of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.compression.unit_pruning import UnitPruning

__all__ = ["PruneChannels"]


@dataclass(frozen=True, kw_only=True)
class PruneChannels(UnitPruning):
    """Remove the channels of convolutions that are missed least.

    What it does
        A channel goes with its kernel, bias and statistics in every layer that computes it, and
        with its slice of every layer that reads it. Channels that residual sums tie together go
        together. What stays is fitted, layer by layer in the order of the graph, to what the layer
        computed before, on what enters it now.

    When it refuses
        `self-test-failed`   the cut model does not compute what the model computes with zeros in
                             place of the units: nothing is removed there.
        `fixed-length`       the dimension meets one that cannot change: an input of the model, such
                             as a cache of keys and values, or a shape that only a run tells.
        `model-input`        callers give it, or hand it on from run to run, as they do the cache of
                             keys and values; export the model without its cache, prune that.
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
        before  (float[N,1,2,2] x) => (float[N,1,2,2] y)
                <float[2,1,1,1] w1 = {1.0, 0.5}, float[1,2,1,1] w2 = {3.0, 0.125}>
                { h = Conv(x, w1)  a = Relu(h)  y = Conv(a, w2) }
        after   (float[N,1,2,2] x) => (float[N,1,2,2] y)
                <float[1,1,1,1] w1 = {1.0}, float[1,1,1,1] w2 = {3.0}>
                { h = Conv(x, w1)  a = Relu(h)  y = Conv(a, w2) }

    References
        Li et al. 2017, sections 3.1 and 3.3. He et al. 2017, section 3.2 (least squares). Sun et
        al. 2024, equation 1 (Wanda).
    """

    name: ClassVar[str] = "prune-channels"
    kind: ClassVar[str] = "channels"
    preferred_multiple: ClassVar[int] = 8  # floats in a vector of AVX2
