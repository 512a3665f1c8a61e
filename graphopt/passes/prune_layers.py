"""Pruning of whole layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.compression.layer_pruning import prune_layers
from graphopt.compression.layer_ranking import LayerOptions, needs_layer_samples
from graphopt.compression.layer_scores import LAYER_SCORES
from graphopt.compression.stream_fit import REPLACEMENTS
from graphopt.compression.unit_budget import BUDGETS, Budget
from graphopt.errors import OptionError
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["PruneLayers"]


@dataclass(frozen=True, kw_only=True)
class PruneLayers(Pass):
    """Remove the blocks, or the sub-layers, that are missed least.

    What it does
        A layer adds to a stream what it computed from it, `y = x + f(x)`: blocks of attention and
        feed-forward networks, blocks of residual convolutional networks. The stream goes on without
        it, `y = x`, or through a small affine map that is fitted to what the stream was. `inspect
        --structure` lists the layers and their names.

    When it refuses
        `no-layers`         nothing is added to a stream in the main graph: the model has no such
                            layers, or holds them inside an If or Loop.
        `shortcut`          the stream passes layers on both ways, so that none would be left.
        `fused`             one operator adds and normalizes: prune before fusing.
        `changes-shape`     the sum has another shape than the stream.
        `unclear-shape`     the shape of the stream is not known.
        `self-test-failed`  without the layer the model does not compute what it computes with zeros
                            in place of the branch: it stays.
        `not-measured`      the stream was empty, zero or not finite on the samples, or is of a type
                            in which nothing is fitted; or no outputs could be compared in a trial.
        `last-layer`        of the layers of a model one stays, unless it is named in `layers`.
        `excluded`          its name matches `exclude`.
        `out-of-reach`      the budget cannot be met by any number of layers: none goes.

    What it keeps
        Inputs and outputs of the model: keys and values that it returns are still computed. Without
        a replacement, what the model computes is what it computes with zeros in place of the
        branches, to 1e-4: tested on two inputs.

    Cost
        One run of the samples for `cosine` and `change`; one for each layer that is there, times
        the number that goes, for `trial`; one for each place where a replacement is fitted. A
        budget costs as many trials of the whole as halve the number of layers.

    Example
        options {layers=[block-1] score=random}
        before  (float[B,2] x) => (float[B,2] y)
                <float[2,2] v = {1.0, 0.0, 2.0, 1.0}, float[2,2] w = {1.0, 3.0, 0.0, 1.0}>
                { a = MatMul(x, v)  b = Relu(a)  c = Add(x, b)
                  d = MatMul(c, w)  e = Relu(d)  f = Add(c, e)  y = Neg(f) }
        after   (float[B,2] x) => (float[B,2] y)
                <float[2,2] v = {1.0, 0.0, 2.0, 1.0}>
                { a = MatMul(x, v)  b = Relu(a)  c = Add(x, b)  y = Neg(c) }

    References
        Men et al. 2024 (ShortGPT), equation 1: block influence. Bhattacharyya et al. 2025
        (ReplaceMe), equation 6: an affine map instead.
    """

    name: ClassVar[str] = "prune-layers"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"),
        is_idempotent=False,  # of what is left, one can go again
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset(
        {"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
    )

    count: int = option(
        1, help="how many go, where `ratio` is 0 and `layers` is empty", unit="layers", minimum=1
    )
    ratio: float = option(
        0.0,
        help="share of the layers that goes, at least one; instead of `count`",
        unit="fraction",
        minimum=0.0,
        maximum=0.95,
    )
    budget: float | None = option(
        None,
        help="what the model may cost at most; as few layers go as that takes, or as many as the "
        "outputs bear",
        unit="fraction",
        minimum=1e-6,
        maximum=1.0,
    )
    budget_of: str = option(
        "parameters",
        help="what `budget` limits: a share of what there is, or the relative error of the outputs",
        choices=BUDGETS,
    )
    layers: tuple[str, ...] = option((), help="names of those that go, instead of `count`")
    exclude: tuple[str, ...] = option((), help="patterns of names that stay")
    unit: str = option("blocks", help="what goes at once", choices=("blocks", "sub-layers"))
    score: str = option(
        "cosine",
        help="how layers are ranked: by what they do to the stream (`cosine`, `change`), by what "
        "the outputs lose without them (`trial`), or by chance",
        choices=LAYER_SCORES,
    )
    replacement: str = option(
        "off", help="the map that stands in for what went", choices=REPLACEMENTS
    )
    norms: str = option(
        "keep", help="normalizations behind the sums, where there are", choices=("keep", "drop")
    )
    ridge: float = option(
        0.01, help="pull of the replacement towards the identity", minimum=0.0, maximum=1e6
    )
    seed: int = option(0, help="seed of random scores", minimum=0)

    def __post_init__(self) -> None:
        """Check the options, and that only one says how many layers go.

        Raises:
            OptionError: An option has a wrong value, or two contradict each other.
        """
        super().__post_init__()
        others = {"ratio": self.ratio, "layers": self.layers, "count": self.count > 1}
        named = next((name for name, value in others.items() if value), None)
        if self.budget is not None and named is not None:
            raise OptionError(
                f"options `budget` and `{named}` of pass `{self.name}` exclude each other",
                why="each says how many layers go",
                hint=f"see `graphopt explain {self.name}`",
            )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples where something is measured."""
        return Needs(shapes=True, samples=needs_layer_samples(self._options()))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Remove layers, or refuse them."""
        prune_layers(model, edit, facts, self._options())

    def _options(self) -> LayerOptions:
        return LayerOptions(
            unit=self.unit,
            count=self.count,
            ratio=self.ratio,
            layers=self.layers,
            exclude=self.exclude,
            score=self.score,
            replacement=self.replacement,
            is_normalized=self.norms == "keep",
            ridge=self.ridge,
            seed=self.seed,
            budget=None if self.budget is None else Budget(self.budget, self.budget_of),
        )
