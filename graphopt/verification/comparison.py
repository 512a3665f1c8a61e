"""Two models on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from graphopt.analysis import state_pairs
from graphopt.errors import RunError, UnsupportedModelError
from graphopt.ir import load
from graphopt.rewrite import Numerics
from graphopt.runtime import Session, SessionOptions, Worker
from graphopt.verification.differences import (
    OutputDifference,
    compare_outputs,
    compare_values,
    finite_or_none,
    has_elements,
)
from graphopt.verification.randomness import RandomOutputs, random_outputs
from graphopt.verification.sequences import run_in_turn
from graphopt.verification.summary import ErrorSummary, contract_fault

__all__ = ["Comparison", "Verdict", "compare_models", "compare_sessions", "form_fault"]

Feeds: TypeAlias = Mapping[str, Any]
_NOTABLE_REL = 0.01  # of one number; less is what any change of arithmetic may do
_MOST_STEPS = 64  # of a sequence that shows how errors add up
Verdict: TypeAlias = Literal["equal", "within-budget", "broken"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far a candidate is from a reference.

    Attributes:
        errors: The worst difference per output; random outputs appear only where type or rank is
            not what it must be.
        skipped: Inputs that the reference itself could not run, each with the runtime's message.
        random_outputs: Outputs of which only type and shape were compared.
        empty_outputs: Outputs that held no element, or no finite one, in any run of the reference,
            as where nothing was detected: they are equal, whatever is wrong.
        single_outputs: Outputs that held at most one element in every run: whatever its error, the
            cosine of a number with another is 1 or -1.
        carried: Inputs that were fed from outputs of the run before, in a sequence of runs.
        steps: How many runs that sequence had; `samples` counts them too.
        noise: Per output, by how much the reference differs from itself run to run, as `max_rel`;
            only outputs where it does, random ones left out.
    """

    errors: ErrorSummary
    skipped: tuple[str, ...] = ()
    random_outputs: tuple[str, ...] = ()
    empty_outputs: tuple[str, ...] = ()
    single_outputs: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    steps: int = 0
    noise: Mapping[str, float] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of inputs on which both ran."""
        return self.errors.samples

    @property
    def outputs(self) -> dict[str, OutputDifference]:
        """The worst difference per output."""
        return self.errors.outputs

    def verdict(self, numerics: Numerics) -> Verdict:
        """Judge by a contract: `equal` bit for bit, `within-budget`, or `broken`."""
        # Random outputs are not among them: a model that has no others is `equal`, and its notes
        # say why.
        if all(item.is_identical for item in self.outputs.values()):
            return "equal"
        faults = [contract_fault(item, numerics) for item in self.outputs.values()]
        return "broken" if any(faults) else "within-budget"

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the numbers must know."""
        found = [f"not compared: {text}" for text in self.skipped]
        if self.random_outputs:
            found.append(random_note(self.random_outputs))
        if self.empty_outputs:
            found.append(empty_note(self.empty_outputs))
        off = [one for one in self.single_outputs if self.outputs[one].max_rel > _NOTABLE_REL]
        if off:
            found.append(single_note(off))
        if self.steps:
            names = ", ".join(f"`{name}`" for name in self.carried)
            found.append(f"{self.steps} runs in a row, each handing {names} on to the next")
        for name, noise in self.noise.items():
            found.append(f"`{name}` of the reference differs from itself by {noise:.2g} run to run")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "samples": self.samples,
            "error": self.errors.to_dict(),
            "skipped": list(self.skipped),
            "random_outputs": list(self.random_outputs),
            "empty_outputs": list(self.empty_outputs),
            "noise": {name: finite_or_none(noise) for name, noise in self.noise.items()},
        }


def compare_models(
    reference: str | Path,
    candidate: str | Path,
    feed_sets: Iterable[Feeds],
    *,
    worker: Worker,
    reference_options: SessionOptions | None = None,
    candidate_options: SessionOptions | None = None,
    states: Mapping[str, str] | None = None,
) -> Comparison:
    """Run two model files on the same inputs and compare their outputs.

    A model that carries state is run over a sequence too: the inputs in order, each side fed what
    it computed itself, so that errors add up as they will in use.

    Args:
        reference: The model that is right by definition.
        candidate: The model that is judged.
        feed_sets: Inputs; read once.
        worker: Where both run.
        reference_options: Defaults to the runtime's optimizations disabled.
        candidate_options: Defaults to the same; pass the options of the deployment to judge the
            candidate as it will run.
        states: Inputs that are state, with the outputs that are handed on to them; by default
            those that names tell (`state_pairs`). An empty mapping: none.

    Raises:
        UnsupportedModelError: The reference runs with none of the inputs.
        SessionLoadError: The runtime refuses one of the models.
        RunError: The candidate fails on inputs with which the reference runs.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    # The runtime's own rewrites are not always right: in a default session they merge draws of
    # random numbers and drop Dropout in training mode. Without them the reference is what its file
    # says.
    plain = SessionOptions(optimization="disabled")
    original = load(reference)
    unstable = random_outputs(original)
    carried = state_pairs(original) if states is None else states
    with (
        worker.load(reference, reference_options or plain) as expected,
        worker.load(candidate, candidate_options or plain) as found,
    ):
        return compare_sessions(expected, found, feed_sets, unstable=unstable, states=carried)


def compare_sessions(
    reference: Session,
    candidate: Session,
    feed_sets: Iterable[Feeds],
    *,
    unstable: RandomOutputs | None = None,
    states: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare two loaded models; see `compare_models`.

    Args:
        reference: The model that is right by definition.
        candidate: The model that is judged.
        feed_sets: Inputs; read once.
        unstable: `random_outputs` of the reference; by default none is random.
        states: Inputs that are state, with the outputs that are handed on to them.

    Raises:
        UnsupportedModelError: The reference runs with none of the inputs.
        RunError: The candidate fails on inputs with which the reference runs.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: A worker ended.
    """
    errors = ErrorSummary()
    skipped: list[str] = []
    noise: dict[str, float] = {}
    random: frozenset[str] = frozenset()
    sequence: list[Feeds] = []
    empty = single = dict[str, None]()
    for feeds in feed_sets:
        try:
            expected = reference.run(feeds)
        except RunError as error:
            why = error.why or error.message
            skipped.append(f"{describe_feeds(feeds)}: the reference fails: {why}")
            continue
        # A second run, on the first inputs that the reference takes, tells what varies on its own
        # before anything is held against the candidate.
        if not errors.samples:
            noise, random = _repeat(reference, feeds, expected, unstable or RandomOutputs())
            empty, single = dict.fromkeys(expected), dict.fromkeys(expected)
        empty, single = _still_empty(empty, expected), _still_single(single, expected)
        errors.add(_differences(expected, candidate.run(feeds), random))
        if states and len(sequence) < _MOST_STEPS:
            sequence.append(feeds)
    if not errors.samples:
        raise UnsupportedModelError(
            "the reference model runs with none of the inputs",
            why=skipped[-1] if skipped else "there were no inputs",
            hint="give inputs of your own with `--calibration`",
        )
    steps = list(run_in_turn(reference, candidate, sequence, states or {}))
    for expected, found in steps:
        empty = _still_empty(empty, expected)
        errors.add(_differences(expected, found, random))
    return Comparison(
        errors=errors,
        skipped=tuple(skipped),
        random_outputs=tuple(sorted(random)),
        empty_outputs=tuple(name for name in empty if name not in random),
        single_outputs=tuple(name for name in single if name in errors.outputs),
        carried=tuple(states or ()) if steps else (),
        steps=len(steps),
        noise=noise,
    )


def _still_empty(names: Iterable[str], outputs: Mapping[str, Any]) -> dict[str, None]:
    return {name: None for name in names if not has_elements(outputs.get(name))}


def _still_single(names: Iterable[str], outputs: Mapping[str, Any]) -> dict[str, None]:
    arrays = {name: outputs.get(name) for name in names}
    return {
        name: None
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size <= 1
    }


def single_note(names: Iterable[str]) -> str:
    """Return what a reader must know of outputs that are one number."""
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{listed}: one number, whose cosine is 1 or -1 however far off; the largest error tells"


def empty_note(names: Iterable[str]) -> str:
    """Return what a reader must know of outputs of which nothing is compared."""
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{listed} held no element, or no finite one, in any sample: no number was compared"


def random_note(names: Iterable[str]) -> str:
    """Return what a reader must know of outputs of which only the form is compared."""
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{listed} depend on random numbers: compared by type and shape only"


def describe_feeds(feeds: Feeds) -> str:
    """Return names and shapes of inputs, for messages."""
    return ", ".join(
        f"`{name}` {list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__}"
        for name, array in feeds.items()
    )


def _repeat(
    reference: Session, feeds: Feeds, expected: Mapping[str, Any], unstable: RandomOutputs
) -> tuple[dict[str, float], frozenset[str]]:
    """Run the reference once more: return its noise, and the names of its random outputs."""
    again = compare_outputs(expected, reference.run(feeds))
    noise = {name: item.max_rel for name, item in again.items() if not item.is_identical}
    random = unstable.certain | (unstable.possible & noise.keys())
    return {name: value for name, value in noise.items() if name not in random}, random


def _differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], random: frozenset[str]
) -> dict[str, OutputDifference]:
    stable = compare_outputs(
        {name: value for name, value in expected.items() if name not in random},
        {name: value for name, value in found.items() if name not in random},
    )
    # A random output has no entry where its form is right: its numbers would count as an error.
    for name in random:
        fault = form_fault(expected.get(name), found.get(name))
        if fault:
            stable[name] = OutputDifference.broken(fault)
    return stable


def form_fault(expected: Any, found: Any) -> str | None:
    """Return how two values of a random output differ in type or rank; ``None`` where they do not.

    What a shape that is itself random has in common from draw to draw is its rank.
    """
    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray):
        return None if type(expected) is type(found) else "one of the two is not a tensor"
    if expected.dtype == found.dtype and expected.ndim == found.ndim:
        return None
    return compare_values(expected, found).mismatch
