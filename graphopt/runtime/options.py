"""How a session is created, and what its inputs and outputs look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from graphopt.runtime.values import dtype_of

__all__ = ["Optimization", "SessionOptions", "TensorSpec"]

Optimization: TypeAlias = Literal["disabled", "basic", "extended", "all"]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options of one ONNX Runtime session.

    Attributes:
        optimization: What the runtime rewrites at load; `disabled` is the reference for numerics.
        threads: Threads inside one operator; 0 lets the runtime choose. Operators run one by one.
        providers: Execution providers in order of preference, each with its options. A provider
            that is missing or does not start is an error, never replaced by another one.
        config: Session configuration entries, for example `session.disable_prepacking`.
        optimized_model_path: Where the runtime writes the model as it runs it, or None.
        memory_pattern: Runs of known sizes take one block of memory, beside what the first run took
            piece by piece; without, they go on with those pieces: less memory, and hardly slower.
        arena: How the memory for values grows: in the runtime's ``default`` way, by twice as much
            each time, or by ``exact`` needs: up to a sixth less, and no slower.
        order: In which order operators run: the runtime's ``default`` keeps values for readers that
            could have run at once, ``priority`` runs what is ready in the order of the file.
        profile: Record which provider runs each node and for how long; see `Session.profile`.
        is_rooted: Weights of the file are located from the root of the file system, and not from
            its folder: a state of `ir.StateFolder`. Never of a file that a user gives, whose
            weights could then be any file.
    """

    optimization: Optimization = "all"
    threads: int = 1
    providers: tuple[tuple[str, Mapping[str, str]], ...] = (("CPUExecutionProvider", {}),)
    config: Mapping[str, str] = field(default_factory=dict)
    optimized_model_path: Path | None = None
    memory_pattern: bool = True
    arena: Literal["default", "exact"] = "default"
    order: Literal["default", "priority"] = "default"
    profile: bool = False
    is_rooted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the form in which a worker receives them."""
        path = self.optimized_model_path
        return {
            "optimization": self.optimization,
            "threads": self.threads,
            "providers": [[name, dict(options)] for name, options in self.providers],
            "config": dict(self.config),
            "memory_pattern": self.memory_pattern,
            "arena": self.arena,
            "order": self.order,
            "is_rooted": self.is_rooted,
            "optimized_model_path": None if path is None else str(Path(path).absolute()),
        }


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: Name in the model.
        dtype: Numpy name of the element type (`float32`, `int64`, `bool`, `bfloat16`), `string`
            for text, `sequence(float32)` and the like for what is not a tensor.
        dims: Each dimension as a number, a symbol, or None where unknown.
    """

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] = ()

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy type of an array for it; `object` for text.

        Raises:
            TypeError: It is not a tensor.
        """
        return np.dtype(object) if self.dtype == "string" else dtype_of(self.dtype)
