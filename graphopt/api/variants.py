"""`optimize` for several sizes: one bundle with a variant for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.api.optimizing import Optimization, optimize
from graphopt.deploy import Bundle, check_output
from graphopt.deploy.variants import combine, variant_name
from graphopt.errors import OptionError

__all__ = ["Variants", "optimize_variants"]


@dataclass(frozen=True, kw_only=True)
class Variants:
    """What `optimize_variants` made.

    Attributes:
        results: What was made for each set of sizes, by name of the variant.
        bundle: All of them in one; ``None`` where one of them has none.
    """

    results: Mapping[str, Optimization]
    bundle: Bundle | None

    @property
    def exit_code(self) -> int:
        """0 where every gate of every variant is met, 1 where not."""
        return max(result.exit_code for result in self.results.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the result of each variant by its name."""
        return {
            "variants": {name: result.report.to_dict() for name, result in self.results.items()},
            "output": None if self.bundle is None else str(self.bundle.path),
        }

    def __str__(self) -> str:
        parts = [f"variant {name}\n\n{result}" for name, result in self.results.items()]
        if self.bundle is None:
            missing = [name for name, result in self.results.items() if not result.report.chosen]
            parts.append(f"no bundle was written: nothing is right for {', '.join(missing)}")
        return "\n\n".join(parts)


def optimize_variants(
    source: str | Path,
    *,
    variants: Sequence[Sequence[str]],
    output: str | Path,
    force: bool = False,
    **settings: Any,
) -> Variants:
    """Optimize a model for several sizes, and put what comes of them into one bundle.

    Args:
        source: ONNX file.
        variants: Sizes for each variant, ``SYMBOL=SIZE``; the first is the one by default.
        output: Directory of the bundle, or a file that ends in `.zip` or `.tar.zst`.
        force: Replace an older bundle.
        settings: As `optimize` takes them; samples must have the sizes of every variant.

    Raises:
        OptionError: Two variants have the same sizes.
        UsageError, InputError: As `optimize` raises them.
    """
    named = {variant_name(dims): tuple(dims) for dims in variants}
    if len(named) != len(variants):
        raise OptionError("two variants have the same sizes", why=", ".join(named))
    # Once for all, before the first: each may take minutes.
    check_output(output, force=force)
    results = {name: optimize(source, dims=dims, **settings) for name, dims in named.items()}
    if any(result.report.chosen is None for result in results.values()):
        return Variants(results=results, bundle=None)
    bundles = {name: result.bundle for name, result in results.items()}
    return Variants(results=results, bundle=combine(bundles, output, force=force))
