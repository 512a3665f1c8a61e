"""Sizes that a run fixes, and targets that take no open ones."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.errors import OptionError, TargetError
from graphopt.ir import clone
from graphopt.pipeline import PassManager, Pipeline
from graphopt.targets import Target

__all__ = ["with_fixed_sizes"]


def with_fixed_sizes(model: ir.Model, target: Target) -> ir.Model:
    """Return a model whose inputs have the sizes that a run fixes; the model itself without any.

    Raises:
        OptionError: A size names a dimension that no input has, or that has another size.
        TargetError: The target takes no open sizes, and some are left.
    """
    sized = model
    if target.dims:
        # A copy: the stages that fix the sizes for shipping run on the model itself later, and are
        # in the recipe.
        sized = clone(model)
        manager = PassManager(verify="off", target=target.to_facts())
        ledger = manager.run(sized, Pipeline.parse(target.dims_text())).ledger
        for refusal in ledger.journal.refusals:
            raise OptionError(
                "a size of `--dims` cannot be set", where=refusal.where, why=refusal.why
            )
    open_dims = _open_dims(sized)
    if target.device.static_shapes and open_dims:
        example = ",".join(f"{name}=1" for name in open_dims)
        raise TargetError(
            f"target `{target.name}` takes no open sizes, and the model has some",
            where=", ".join(f"`{name}`" for name in open_dims),
            why="its provider plans the whole graph before it has seen an input",
            hint=f"fix them, for example with `--dims {example}`",
        )
    return sized


def _open_dims(model: ir.Model) -> list[str]:
    """Return what `--dims` must name so that every size of the inputs is known."""
    found: dict[str, None] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                found[dim.value or f"{value.name}:{axis}"] = None
    return list(found)
