"""What a pass promises about its numerics."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Approximate", "Contract", "Exact", "Numerics", "Rounding"]


@dataclass(frozen=True)
class Exact:
    """Every output keeps its bits, NaN, infinities and the sign of zero included."""

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Rounding:
    """Outputs may differ by rounding only.

    Attributes:
        bound: Largest allowed ``max|difference| / max|reference|`` of an output, a fraction.
        source: Why the bound holds: the reassociation, the fused constant, the paper.
    """

    bound: float
    source: str

    def __str__(self) -> str:
        return f"rounding <= {self.bound:g}"


@dataclass(frozen=True)
class Approximate:
    """Outputs change; a measured metric bounds by how much.

    Attributes:
        metric: The gate that bounds the pass, for example ``sqnr_db``.
    """

    metric: str

    def __str__(self) -> str:
        return f"approximate ({self.metric})"


Numerics = Exact | Rounding | Approximate


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The declared behaviour of a pass, enforced by the pass manager and the laws.

    Attributes:
        numerics: How far outputs may move.
        is_idempotent: A second run on its own result edits nothing.
        changes_interface: Inputs or outputs of the model may change.
    """

    numerics: Numerics
    is_idempotent: bool = True
    changes_interface: bool = False
