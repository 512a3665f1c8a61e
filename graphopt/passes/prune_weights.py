"""Zeros in weights, without structure or in N:M patterns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.packed_weight import WeightView
from graphopt.compression.read_weights import ReadWeight, Wanted, read_weights, store_weight
from graphopt.compression.reader_inputs import NotMeasured, ReadInputs, measured_weights
from graphopt.compression.sparse_weights import (
    NmPattern,
    Sparsity,
    removed_weights,
    sparse_compensated,
)
from graphopt.compression.stored_size import ZLIB_LEVEL, compressed_bytes
from graphopt.compression.weight_rows import rows_of, stored_form, zero_units
from graphopt.errors import OptionError
from graphopt.rewrite import Approximate, Contract, Editor, Facts, Needs, Pass, option

__all__ = ["PruneWeights"]

_PATTERNS = {"2:4": NmPattern(2, 4), "4:8": NmPattern(4, 8), "1:4": NmPattern(1, 4)}
_MEASURED = ("wanda", "sparsegpt")
_RATIO = 0.5
_MEGABYTE = 1e6
_MOST_NAMED = 8
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PruneWeights(Pass):
    """Set the weights to zero that are missed least.

    What it does
        A share of each weight (`ratio`), all below a magnitude (`threshold`), or all but `n` of
        every `m` neighbours along the inputs (`pattern`) become 0. `sparsegpt` lets the weights
        that stay make up for those that go. ONNX Runtime's CPU kernels multiply zeros as all else:
        the model gets no faster, and its file no smaller before it is compressed. The sizes that
        zlib makes of the weights are noted. Inputs and outputs of a layer that are zero throughout
        are named, for `prune-neurons` and `prune-channels` to remove.

    When it refuses
        `weight-not-constant`  the operand is computed at run time.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN, infinity, or what stands for it (1e30).
        `weight-rank`          the weight is a scalar or a vector.
        `unsupported-form`     its axes are read in another order, or looked up along another axis.
        `too-small`            it has fewer than `minimum_elements`.
        `names-an-output`      a graph returns the weight under its name.
        `annotated`            a quantization annotation describes the weight.
        `overwritten`          an operator updates the weight in place.
        `shared-with-others`   an operator that is not treated reads it, too.
        `excluded`             the name matches `exclude`, or the operator is not in `ops`.
        `no-neighbours`        a pattern wants neighbouring inputs, and there are too few, or the
                               weight is read along different axes, or looked up.
        `not-measured`         what enters a reader is in a branch, of another form, was empty or
                               not finite on the samples.
        `read-both-ways`       one layer reads it transposed, another does not.
        `already-sparse`       as many zeros are there.
        `all-zero-units`       inputs or outputs of a layer are 0 throughout: left to passes that
                               remove units.

    What it keeps
        Every operator, every name, biases; weights that are not zeroed, but with `sparsegpt`.

    Cost
        Sorts each weight; `wanda` and `sparsegpt` run the model once per sample for each of at most
        `runs` steps; `sparsegpt` takes time O(inputs^3 + inputs^2 outputs) for a layer and holds
        its Gram matrix, 8 inputs^2 bytes. Compresses each weight twice, at about 20 MB/s.

    Example
        options {score=magnitude minimum_elements=1}
        before  (float[N,2] x) => (float[N,2] y) <float[2,2] w = {4.0, -1.0, 0.5, -2.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,2] y) <float[2,2] w = {4.0, 0.0, 0.0, -2.0}>
                { y = MatMul(x, w) }

    References
        Han et al. 2015, "Learning both Weights and Connections", section 3 (magnitude). Sun et al.
        2024, "A Simple and Effective Pruning Approach for Large Language Models", equation 1
        (Wanda). Frantar and Alistarh 2023, "SparseGPT", algorithm 1. Mishra et al. 2021,
        "Accelerating Sparse Deep Neural Networks", section 3 (2:4).
    """

    name: ClassVar[str] = "prune-weights"
    contract: ClassVar[Contract] = Contract(
        numerics=Approximate(metric="sqnr_db"), is_idempotent=True
    )

    ratio: float | None = option(
        None,
        help="share of each weight that is 0; 0.5 where nothing else says how many",
        unit="fraction",
        minimum=0.0,
        maximum=0.99,
    )
    threshold: float | None = option(
        None, help="weights of a smaller magnitude go, whatever their number", minimum=0.0
    )
    pattern: str = option(
        "none",
        help="how many of neighbouring inputs stay, kept:of",
        choices=("none", *_PATTERNS),
    )
    score: str = option(
        "sparsegpt",
        help="how weights are ranked; the last two need samples",
        choices=("random", "magnitude", *_MEASURED),
    )
    compare: str = option(
        "layer", help="weights of which the lowest go", choices=("layer", "output")
    )
    damping: float = option(
        0.01, help="of the Gram matrix in sparsegpt", unit="fraction", minimum=1e-6, maximum=1.0
    )
    runs: int = option(
        64, help="steps at most, each given those before it", unit="steps", minimum=1, maximum=4096
    )
    ops: tuple[str, ...] = option(
        ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"),
        help="operators whose weights are treated",
        unit="op_type",
        choices=("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather"),
    )
    minimum_elements: int = option(
        1024, help="smaller weights stay as they are", unit="elements", minimum=1
    )
    exclude: tuple[str, ...] = option((), help="nodes to leave alone", unit="name pattern")
    seed: int = option(0, help="seed of random scores", minimum=0)

    def __post_init__(self) -> None:
        """Check the options, and that only one says how many weights go.

        Raises:
            OptionError: An option has a wrong value, or several contradict each other.
        """
        super().__post_init__()
        given = [self.ratio is not None, self.threshold is not None, self.pattern != "none"]
        if sum(given) > 1:
            raise OptionError(
                "options `ratio`, `threshold` and `pattern` of pass `prune-weights` exclude "
                "each other",
                why="each says how many weights go",
                hint="see `graphopt explain prune-weights`",
            )
        if self.threshold is not None and self.score != "magnitude":
            raise OptionError(
                f"option `threshold` of pass `prune-weights` cannot go with score `{self.score}`",
                why="it is a magnitude",
                hint="write `prune-weights{threshold=0.01 score=magnitude}`",
            )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002 - whatever the model
        """Ask for samples where scores are measured."""
        return Needs(samples=self.score in _MEASURED)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Prune every weight that allows it; refuse the others one by one."""
        wanted = Wanted(ops=self.ops, minimum_elements=self.minimum_elements, exclude=self.exclude)
        weights = [
            weight for weight in read_weights(model, edit, wanted) if self._has_groups(weight, edit)
        ]
        sizes: list[tuple[int, int]] = []  # compressed, before and after: what the pass is for
        for weight, new in self._pruned(weights, edit, facts):
            if new is None:
                edit.refuse(weight.place, "not-measured", why="what enters is 0 on the samples")
            elif _zeros(new) <= _zeros(weight.array()):
                edit.refuse(weight.place, "already-sparse", why=f"{_zeros(new):.1%} is 0")
            else:
                sizes.append(self._store(weight, new, edit))
            _name_zero_units(weight, new, edit)
        if sizes:
            before, after = (sum(side) / _MEGABYTE for side in zip(*sizes, strict=True))
            edit.note(
                f"zlib (level {ZLIB_LEVEL}) makes {before:.2f} MB of the weights, {after:.2f} MB "
                "of those with zeros; the file itself keeps its size, and ONNX Runtime's CPU "
                "kernels gain nothing from zeros"
            )

    def _has_groups(self, weight: ReadWeight, edit: Editor) -> bool:
        """Tell whether a pattern, where one is wanted, has a meaning for the weight."""
        if self.pattern == "none":
            return True
        layers = [reading for reading in weight.readings if not reading.is_lookup]
        views = {reading.view for reading in layers}
        kept = _PATTERNS[self.pattern].kept
        if len(views) != 1:
            why = "its readers sum along different axes" if views else "rows are looked up in it"
        elif any(r.node.op_type == "ConvTranspose" and _is_in_groups(r.node) for r in layers):
            why = "a transposed convolution in groups sums over no axis of it"
        elif (inputs := layers[0].view.length // layers[0].view.kernel) <= kept:
            why = f"{inputs} inputs, of which {kept} may stay"
        else:
            return True
        edit.refuse(weight.place, "no-neighbours", why=why)
        return False

    def _pruned(
        self, weights: list[ReadWeight], edit: Editor, facts: Facts
    ) -> Iterator[tuple[ReadWeight, FloatArray | None]]:
        """Yield each weight with zeros in it, in the form in which it is stored."""
        layers = [weight for weight in weights if _is_layer(weight)]
        if self.score not in _MEASURED:
            # Each weight has random numbers of its own: those of one change nothing for another.
            for number, weight in enumerate(weights):
                yield weight, self._ranked(weight, _view(weight), self._plain(weight, number))
            return
        # Nothing is multiplied by a table, so that magnitudes are all there is to rank it by.
        for table in weights:
            if not _is_layer(table):
                scores = np.abs(rows_of(table.array(), _view(table)))
                yield table, self._ranked(table, _view(table), scores)
        assert facts.measure is not None
        grams = self.score == "sparsegpt"
        for weight, inputs in measured_weights(
            edit.model, facts.measure, layers, grams=grams, runs=self.runs
        ):
            if isinstance(inputs, NotMeasured):
                edit.refuse(weight.place, inputs.slug, why=inputs.why)
            else:
                found = self._compensated if grams else self._by_inputs
                yield weight, found(weight, inputs)

    def _ranking(self, weight: ReadWeight) -> str:
        """Say by what the weights of one are ranked: nothing is multiplied by a table."""
        return self.score if _is_layer(weight) or self.score not in _MEASURED else "magnitude"

    def _wanted(self) -> Sparsity:
        return Sparsity(
            _RATIO if self.ratio is None else self.ratio,
            _PATTERNS.get(self.pattern),
            self.compare == "output",
            self.threshold,
        )

    def _plain(self, weight: ReadWeight, number: int) -> npt.NDArray[np.float64]:
        rows = rows_of(weight.array(), _view(weight))
        if self.score == "magnitude":
            return np.abs(rows).astype(np.float64)
        scores = np.random.default_rng((self.seed, number)).random(rows.shape)
        scores[rows == 0] = -1.0  # what is there counts
        return scores

    def _ranked(self, weight: ReadWeight, view: WeightView, scores: npt.NDArray[Any]) -> FloatArray:
        rows = rows_of(weight.array(), view)
        removed = removed_weights(scores.astype(np.float64), self._wanted(), view.kernel)
        return stored_form(np.where(removed, np.float32(0), rows), view, weight.array().shape)

    def _by_inputs(self, weight: ReadWeight, inputs: ReadInputs) -> FloatArray:
        """Rank by what each weight adds to an output: ``|w| * sqrt(E[x^2])``."""
        rows = rows_of(weight.array(), inputs.view)
        norms = np.sqrt(inputs.second).repeat(len(rows) // len(inputs.second), axis=0)
        return self._ranked(weight, inputs.view, np.abs(rows) * norms)

    def _compensated(self, weight: ReadWeight, inputs: ReadInputs) -> FloatArray | None:
        assert inputs.grams is not None
        rows = rows_of(weight.array(), inputs.view)
        parts = []
        for part, gram in zip(np.split(rows, len(inputs.grams)), inputs.grams, strict=True):
            found = sparse_compensated(
                part, gram, self._wanted(), kernel=inputs.view.kernel, damping=self.damping
            )
            if found is None:
                return None
            parts.append(found)
        return stored_form(np.concatenate(parts), inputs.view, weight.array().shape)

    def _store(self, weight: ReadWeight, new: FloatArray, edit: Editor) -> tuple[int, int]:
        """Put zeros into a weight, and return its compressed sizes before and after."""
        before, after = compressed_bytes(weight.array()), compressed_bytes(new)
        because = (
            f"{_zeros(new):.1%} of `{weight.name}` is 0 by {self._ranking(weight)}; "
            f"zlib {before / _MEGABYTE:.3f} -> {after / _MEGABYTE:.3f} MB"
        )
        with edit.rewrite(weight.place, because=because) as change:
            store_weight(change, weight, new)
        return before, after


def _is_layer(weight: ReadWeight) -> bool:
    return not all(reading.is_lookup for reading in weight.readings)


def _view(weight: ReadWeight) -> WeightView:
    """Return how the first layer that reads a weight sees it, or the first table."""
    layers = [reading for reading in weight.readings if not reading.is_lookup]
    return (layers or weight.readings)[0].view


def _is_in_groups(node: ir.Node) -> bool:
    return node.op_type in ("Conv", "ConvTranspose") and node.attributes.get_int("group", 1) != 1


def _zeros(array: FloatArray) -> float:
    return 1.0 - np.count_nonzero(array) / max(array.size, 1)


def _name_zero_units(weight: ReadWeight, new: FloatArray | None, edit: Editor) -> None:
    """Hand what a layer does not use over to passes that remove units."""
    view = _view(weight)
    if new is None or not _is_layer(weight) or _is_in_groups(weight.place):
        return
    found = zero_units(new, view)
    told = [
        f"{len(units)} {kind} ({', '.join(map(str, units[:_MOST_NAMED]))}"
        + (", ...)" if len(units) > _MOST_NAMED else ")")
        for kind, units in (("inputs", found.inputs), ("outputs", found.outputs))
        if units
    ]
    if told:
        why = f"{' and '.join(told)} of `{weight.name}`: `prune-neurons` or `prune-channels`"
        edit.refuse(weight.place, "all-zero-units", why=f"{why} with score=l2 removes such inputs")
