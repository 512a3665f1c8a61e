"""Judging a model against the outputs of the one it came from.

The reference is run once, with the runtime's own optimizations disabled; what it returned is kept
and every later state of the model is compared with it. Where a group was allowed to change numbers,
its outputs become the reference of the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import NumericMismatch, RuntimeFailure, UnsupportedModelError
from graphopt.ir import Checkpoint, StateFolder, load, model_bytes, weight_bytes
from graphopt.pipeline.half_precision import runtime_tolerance
from graphopt.pipeline.ledger import Drift
from graphopt.rewrite import Numerics
from graphopt.runtime import Session, SessionOptions, Worker, generate_feed_sets, shared_worker
from graphopt.verification import (
    ErrorSummary,
    OutputDifference,
    compare_outputs,
    contract_fault,
    random_outputs,
)
from graphopt.verification.comparison import empty_note, form_fault, random_note
from graphopt.verification.differences import has_elements

__all__ = ["Feeds", "NumericJudge"]

Feeds = Mapping[str, np.ndarray[Any, Any]]
Outputs = Mapping[str, Any]

# A weight that is known when the session is made gets another kernel, which rounds differently,
# than one that is computed: packing is off, so that a folded constant is judged by its value alone.
_PLAIN = SessionOptions(optimization="disabled", config={"session.disable_prepacking": "1"})

SENT_WEIGHT_BYTES = 16 << 20
"""Models with more weights go to the worker as a file, so that they are not held twice here."""


@dataclass
class NumericJudge:
    """Compares states of a model with the state that it started from.

    Attributes:
        reference: File of the original, or a checkpoint of it; read when first needed.
        feeds: Inputs; generated with two values for each dynamic dimension where ``None``.
        seed: Seed of generated inputs.
        worker: Where models run; the shared worker where ``None``.
        notes: How outputs were compared where that is not as contracts say; see `remarks`.
        unstable: Outputs that differ between two runs of the reference itself; only their type and
            rank are compared.
        empty: Outputs that held no element, or no finite one, in any run of the reference.
    """

    reference: Path | Checkpoint
    feeds: Sequence[Feeds] | None = None
    seed: int = 0
    worker: Worker | None = None
    notes: dict[str, None] = field(default_factory=dict)
    unstable: set[str] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)
    _expected: list[Outputs] | None = None
    _generated: Sequence[Feeds] | None = None
    _latest: list[Outputs] | None = None
    _folder: StateFolder | None = None

    def check(self, model: ir.Model, numerics: Numerics) -> None:
        """Check a model against the reference.

        Raises:
            NumericMismatch: An output differs by more than ``numerics`` allows.
            RuntimeFailure: The runtime cannot load or run the model.
            UnsupportedModelError: It cannot load or run the reference.
        """
        summary = self._compare(model)
        faults = self._faults(summary, numerics)
        # Looked for only now: it takes two runs more, and nearly every group is as it should be.
        if faults and self._find_unstable():
            summary = self._compare(model)
            faults = self._faults(summary, numerics)
        tolerance = runtime_tolerance(model, numerics) if faults else None
        if tolerance is not None:
            note = f"compared within {tolerance.bound:g}, not bit for bit: {tolerance.source}"
            self.notes.setdefault(note)
            faults = self._faults(summary, tolerance)
        if faults:
            name, fault = next(iter(faults.items()))
            raise NumericMismatch(
                f"output `{name}` differs by more than the contract allows",
                where=f"output `{name}`",
                why=f"{fault}; the contract is {numerics}",
            )

    def drift(self, model: ir.Model) -> Drift:
        """Return per output how far ``model`` is from the reference, the worst over all inputs."""
        outputs = self._compare(model).outputs
        return {name: dict(difference.to_dict()) for name, difference in outputs.items()}

    def remarks(self) -> list[str]:
        """Return what must be said of the comparisons so far."""
        found = [*self.notes]
        found += [random_note(sorted(self.unstable))] if self.unstable else []
        return found + ([empty_note(self.empty)] if self.empty else [])

    def rebase_on_latest(self) -> None:
        """Make the outputs of the last model that was checked the reference."""
        if self._latest is not None:
            self._expected = self._latest

    def rebase(self, reference: Checkpoint) -> None:
        """Make another state of the model the reference; it runs when it is needed."""
        self.reference, self._expected, self._generated = reference, None, None

    def _compare(self, model: ir.Model) -> ErrorSummary:
        expected = self._expected_outputs()
        with self._session(model) as session:
            self._latest = [session.run(feeds) for feeds in self._feeds()]
        names = dict.fromkeys(name for outputs in expected for name in outputs)
        held = [{name for name in names if has_elements(one.get(name))} for one in expected]
        self.empty = [name for name in names if not any(name in one for one in held)]
        summary = ErrorSummary()
        for wanted, found in zip(expected, self._latest, strict=True):
            stable = {name: found.get(name) for name in found if name not in self.unstable}
            kept = {name: value for name, value in wanted.items() if name not in self.unstable}
            summary.add(compare_outputs(kept, stable) | self._unstable_faults(wanted, found))
        return summary

    def _unstable_faults(self, wanted: Outputs, found: Outputs) -> dict[str, OutputDifference]:
        """Return which outputs that vary on their own have another type or rank than before."""
        faults = {name: form_fault(wanted.get(name), found.get(name)) for name in self.unstable}
        return {name: OutputDifference.broken(fault) for name, fault in faults.items() if fault}

    def _faults(self, summary: ErrorSummary, numerics: Numerics) -> dict[str, str]:
        found = {
            name: contract_fault(difference, numerics)
            for name, difference in summary.outputs.items()
        }
        return {name: fault for name, fault in found.items() if fault}

    def _find_unstable(self) -> bool:
        """Tell whether other outputs vary on their own: by the graph, or in two runs of it.

        Two draws may be equal by chance, and nobody knows what a custom operator does.
        """
        known = len(self.unstable)
        # By the graph first: two draws may be equal by chance.
        self.unstable |= random_outputs(_model_of(self.reference)).certain
        with self._session(self.reference) as session:
            for feeds in self._feeds():
                summary = ErrorSummary()
                outputs = summary.update(session.run(feeds), session.run(feeds))
                self.unstable |= {
                    name for name, difference in outputs.items() if not difference.is_identical
                }
        return len(self.unstable) > known

    def _expected_outputs(self) -> list[Outputs]:
        if self._expected is None:
            try:
                with self._session(self.reference) as session:
                    self._generate_feeds(session)
                    self._expected = [session.run(feeds) for feeds in self._feeds()]
            except RuntimeFailure as error:
                raise UnsupportedModelError(
                    "the model cannot be run before any pass has changed it",
                    where=error.where,
                    why=error.why or error.message,
                    hint="check its structure only: `--verify structure`",
                ) from error
        return self._expected

    def _generate_feeds(self, session: Session) -> None:
        if self.feeds is None and self._generated is None:
            model = _model_of(self.reference)
            self._generated = generate_feed_sets(model, seed=self.seed, session=session)

    def _feeds(self) -> Sequence[Feeds]:
        return self.feeds if self.feeds is not None else self._generated or []

    def _session(self, source: ir.Model | Path | Checkpoint) -> Session:
        worker = self.worker or shared_worker()
        if isinstance(source, Path):
            return worker.load(source, _PLAIN)
        model = source.new_model() if isinstance(source, Checkpoint) else source
        if weight_bytes(model) <= SENT_WEIGHT_BYTES:
            return worker.load(model_bytes(model), _PLAIN)
        if self._folder is None:
            self._folder = StateFolder()
        with self._folder.written(model) as path:
            return worker.load(path, replace(_PLAIN, is_rooted=True))


def _model_of(reference: Path | Checkpoint) -> ir.Model:
    if isinstance(reference, Checkpoint):
        return reference.new_model()
    return load(reference)
