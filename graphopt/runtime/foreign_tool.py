"""Passes that are programs of others, run where they can do no harm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.analysis import forget_annotations
from graphopt.analysis.random_draws import random_draws
from graphopt.errors import (
    InvalidModelError,
    ModelLoadError,
    PostconditionError,
)
from graphopt.ir import (
    Checkpoint,
    forget_graphs,
    load,
    nodes,
    operators_of,
    save,
    scratch_folder,
    structure_digest,
)
from graphopt.rewrite import Edit, Editor, Facts, Pass, describe, option
from graphopt.runtime.foreign_process import Limits, run_foreign

__all__ = ["ForeignTool"]

_MEGABYTE = 10**6


@dataclass(frozen=True, kw_only=True)
class ForeignTool(Pass):
    """Base of the passes that run another optimizer.

    The model is written to a file, the tool runs on it in a process with limits, and what it wrote
    takes the model's place, as one edit. The pass manager holds the result to the contract like
    any other; a tool that fails, or whose result is wrong, is rolled back and told with its reason
    and a reproducer, and the rest of the pipeline goes on: it is no fault of graphopt's.

    Attributes:
        tool: Its name in `graphopt.runtime.foreign_worker`.
        package: What has to be installed.
    """

    tool: ClassVar[str]
    package: ClassVar[str]
    is_foreign: ClassVar[bool] = True

    timeout_s: float = option(
        600.0, help="most seconds that it may take", unit="s", minimum=0.1, maximum=1e6
    )
    memory_mb: int = option(
        0, help="most memory that it may allocate; 0: 80 % of the machine's", unit="MB", minimum=0
    )
    interpreter: str = option(
        "", help="Python that has the tool; default: the one that runs graphopt", unit="path"
    )

    def tool_options(self) -> dict[str, Any]:
        """Return what the tool is told beside the files."""
        return {}

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Run the tool as one transaction.

        Raises:
            MissingExtraError: It is not installed.
            PassError: It failed, took too long or too much memory, or wrote nothing.
            PostconditionError: What it wrote is no valid model, or draws random numbers another
                number of times.
        """
        number = edit.journal.next_number()
        if not edit.journal.admits(number):
            return
        digest, before = structure_digest(model), _node_names(model)
        draws = random_draws(model)
        with scratch_folder() as folder:
            source, out = folder / "model.onnx", folder / "optimized.onnx"
            save(model, source)
            run_foreign(
                self.tool,
                source,
                out,
                options=self.tool_options(),
                interpreter=self.interpreter,
                limits=Limits(timeout_s=self.timeout_s, memory_bytes=self.memory_mb * _MEGABYTE),
            )
            result = self._loaded(out)  # its weights stay readable when the folder is gone
        _without_remarks(result, model)
        if structure_digest(result) == digest:
            return
        if (left := random_draws(result)) != draws:  # no comparison of outputs shows it
            raise PostconditionError(
                f"{self.package} merged or dropped random nodes",
                why=f"the model drew random numbers, or trained, {draws} times, now {left} times",
            )
        Checkpoint.take(result).restore(model)
        forget_annotations(model)
        forget_graphs(model)
        after = _node_names(model)
        edit.journal.touched.everything = True
        edit.journal.edits.append(
            Edit(
                number=number,
                pass_name=self.name,
                where=describe(model.graph),
                because=f"changed by {self.package}",
                added=tuple(name for name in after if name not in before),
                removed=tuple(name for name in before if name not in after),
            )
        )

    def _loaded(self, path: Path) -> ir.Model:
        try:
            return load(path)
        except (InvalidModelError, ModelLoadError) as error:
            raise PostconditionError(
                f"{self.package} left an invalid model", where=error.where, why=error.message
            ) from error


def _without_remarks(result: ir.Model, model: ir.Model) -> None:
    """Take out what tools write about themselves, and imports of domains that nobody uses."""
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.doc_string, result.graph.doc_string = model.doc_string, model.graph.doc_string
    result.graph.name = model.graph.name
    for new, old in ((result, model), (result.graph, model.graph)):
        new.metadata_props.clear()
        new.metadata_props.update(old.metadata_props)
    used = {domain for domain, _ in operators_of(result)} | set(model.opset_imports)
    for domain in set(result.opset_imports) - used:
        del result.opset_imports[domain]


def _node_names(model: ir.Model) -> dict[str, None]:
    return dict.fromkeys(node.name or "" for node in nodes(model))
