"""All optimizers that are installed, and graphopt, on one model, side by side."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.analysis.random_draws import random_draws
from graphopt.api.comparing import bench
from graphopt.api.running import refuse_existing
from graphopt.errors import GraphoptError, MissingExtraError, RuntimeFailure, UnknownNameError
from graphopt.ir import external_files, load, scratch_folder
from graphopt.report import RaceEntry, RaceReport
from graphopt.rewrite import Rounding
from graphopt.runtime import SessionOptions, generate_feed_sets, shared_worker
from graphopt.runtime.foreign_process import Limits, run_foreign
from graphopt.search import ProgressCallback, Reporter
from graphopt.verification import (
    Comparison,
    Interface,
    compare_models,
    contract_fault,
    structure_faults,
)

__all__ = ["CONTESTANTS", "race"]

_NUMERICS = Rounding(1e-4, "as for `@exact`")

CONTESTANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "graphopt @exact": ("graphopt", {"pipeline": "@exact"}),
    "graphopt @fused": ("graphopt", {"pipeline": "@fused"}),
    "onnxsim": ("onnxsim", {}),
    "onnxslim": ("onnxslim", {}),
    "onnxscript": ("onnxscript", {}),
    "onnxruntime basic": ("onnxruntime", {"level": "basic"}),
    "onnxruntime extended": ("onnxruntime", {"level": "extended"}),
    "ort-transformers": ("ort-transformers", {"num_heads": 0, "hidden_size": 0}),
}
"""By name: the tool of `graphopt.runtime.foreign_worker`, and what it is told."""


def race(
    source: str | Path,
    *,
    only: Sequence[str] = (),
    interpreter: str = "",
    model_type: str = "bert",
    keep: str | Path | None = None,
    latency_budget_s: float | None = 5.0,
    timeout_s: float = 600.0,
    seed: int = 0,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> RaceReport:
    """Run every optimizer on one model file, and judge what each leaves.

    Args:
        source: ONNX file.
        only: Names in `CONTESTANTS`; all where none is given.
        interpreter: Python that has the other tools; default: this one.
        model_type: Architecture for ONNX Runtime's transformer optimizer, as it names them.
        keep: Folder for what they wrote; ``None``: nothing is kept.
        latency_budget_s: Seconds to time each result beside the original; ``None``: none is timed.
        timeout_s: Most seconds for one tool.
        seed: Seed of generated inputs.
        force: Replace what is in ``keep``.
        progress: Called with each step.

    Raises:
        InputError: The model cannot be used.
        UnknownNameError: There is no such tool.
        OutputError: ``keep`` exists, and `force` is not set.
    """
    path, names = Path(source).absolute(), tuple(only) or tuple(CONTESTANTS)
    for name in names:
        if name not in CONTESTANTS:
            raise UnknownNameError("tool", name, list(CONTESTANTS))
    if keep is not None:
        refuse_existing(Path(keep), force=force, is_folder=True)
    before = load(path)
    report, entries = Reporter(progress, "race"), []
    nodes = sum(1 for _ in before.graph.all_nodes())
    with scratch_folder() as scratch:
        runner = _Runner(
            source=path,
            interface=Interface.of(before),
            interpreter=interpreter,
            model_type=model_type,
            limits=Limits(timeout_s=timeout_s),
            budget_s=latency_budget_s,
            seed=seed,
        )
        for done, name in enumerate(names):
            report(name, done, len(names))
            # A folder for each: tools write data files beside the model, under names of their own
            # choice.
            folder = scratch / name.replace(" ", "_")
            folder.mkdir()
            entries.append(runner.run(name, folder / path.name))
            if keep is not None and entries[-1].nodes is not None:
                _keep(folder, Path(keep) / folder.name)
    return RaceReport(source=path, nodes=nodes, file_bytes=_bytes(path), entries=tuple(entries))


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Runs one tool after the other on one model."""

    source: Path
    interface: Interface
    interpreter: str
    model_type: str
    limits: Limits
    budget_s: float | None
    seed: int

    def run(self, name: str, out: Path) -> RaceEntry:
        """Run one; that it fails is a result, too."""
        tool, options = CONTESTANTS[name]
        # The other Python has the other tools, and perhaps no graphopt.
        interpreter = "" if tool == "graphopt" else self.interpreter
        try:
            took = run_foreign(
                tool,
                self.source,
                out,
                options={**options, "model_type": self.model_type},
                interpreter=interpreter,
                limits=self.limits,
            )
        except MissingExtraError:
            return RaceEntry(name=name, verdict="not-installed")
        except GraphoptError as error:
            return RaceEntry(name=name, verdict="failed", reason=error.message)
        verdict, reason, nodes = self._judged(out)
        ratio = speed = None
        if verdict in ("equal", "within-budget") and self.budget_s is not None:
            try:
                latency = bench(self.source, out, budget_s=self.budget_s, seed=self.seed).latency
            except RuntimeFailure as error:
                # Right without the runtime's own rewrites, with which it is timed.
                verdict, reason = "broken", f"it does not run as deployed: {error.message}"
            else:
                ratio, speed = latency.cpu_ratio, latency.verdict
        return RaceEntry(
            name=name,
            verdict=verdict,
            reason=reason,
            nodes=nodes,
            file_bytes=_bytes(out),
            seconds=took.seconds,
            cpu_s=took.cpu_s,
            peak_rss_bytes=took.peak_rss_bytes,
            latency_ratio=ratio,
            latency_verdict=speed,
        )

    def _judged(self, out: Path) -> tuple[str, str, int | None]:
        """Return the verdict on a result, why, and how many nodes it has."""
        try:
            model = load(out)
        except GraphoptError as error:
            return "broken", error.message, None
        nodes = sum(1 for _ in model.graph.all_nodes())
        if changes := self.interface.differences(Interface.of(model)):
            return "broken", str(changes[0]), nodes
        # No comparison of numbers shows that two draws have become one.
        if random_draws(model) != random_draws(load(self.source)):
            return "broken", "it draws random numbers another number of times", nodes
        try:
            found = self._compared(out)
        except GraphoptError as error:
            return "broken", error.message, nodes
        faults = [
            f"output `{name}`: {fault}"
            for name, item in found.outputs.items()
            if (fault := contract_fault(item, _NUMERICS))
        ]
        # The runtime runs operators of its own in the domain of ONNX; nothing else does.
        faults = faults or [f"no valid ONNX: {fault}" for fault in structure_faults(model)]
        # Else what a reader of "equal" must know: that outputs were empty, or random.
        return found.verdict(_NUMERICS), "".join(faults[:1]) or "; ".join(found.notes()), nodes

    def _compared(self, out: Path) -> Comparison:
        """Compare without the runtime's own rewrites, which may be wrong where the tool was not."""
        options = SessionOptions(
            optimization="disabled", config={"session.disable_prepacking": "1"}
        )
        feeds = generate_feed_sets(load(self.source), seed=self.seed)
        return compare_models(
            self.source,
            out,
            feeds,
            worker=shared_worker(),
            reference_options=options,
            candidate_options=options,
        )


def _bytes(path: Path) -> int:
    """Return the bytes of a model and of the weights beside it."""
    try:
        beside = external_files(load(path))
    except GraphoptError:  # what a tool left is no model, and judged as that
        beside = frozenset()
    return sum(file.stat().st_size for file in {path, *beside} if file.exists())


def _keep(folder: Path, place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.json"))
