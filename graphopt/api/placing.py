"""`inspect --placement`: which provider of a target runs what of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import OptionError
from graphopt.ir import load
from graphopt.runtime import Placement, measure_placement, representative_feed, shared_worker
from graphopt.search.absence import why_absent
from graphopt.search.fixed_sizes import with_fixed_sizes
from graphopt.search.placing import estimate_placement
from graphopt.targets import Target, load_target

__all__ = ["inspect_placement"]


def inspect_placement(
    source: str | Path, target: str | Path | Target, *, dims: Sequence[str] = ()
) -> Placement:
    """Return where the nodes of a model run on a target, as the model is.

    Measured on a generated input where the target is on this machine, else told from what its
    provider's documentation says.

    Args:
        source: ONNX file.
        target: Profile by name or file, or a loaded one.
        dims: Sizes to fix before, ``SYMBOL=SIZE``; only estimates need any.

    Raises:
        UsageError: The target is unknown, takes no open sizes, or nothing is known of its provider.
        InputError: The model cannot be used.
        RuntimeFailure: The runtime refuses the model.
    """
    profile = (target if isinstance(target, Target) else load_target(target)).with_dims(dims)
    model = with_fixed_sizes(load(source), profile)
    absence = why_absent(profile)
    if absence is None:
        worker = shared_worker()
        feed = representative_feed(model)
        return measure_placement(Path(source), profile.session_options(), feed, worker=worker)
    found = estimate_placement(model, profile)
    if found is None:
        provider = profile.runtime.providers[0].name
        raise OptionError(
            f"nothing is known of what {provider} runs",
            where=f"target `{profile.name}`",
            why=absence,
            hint="run it where the provider is",
        )
    return found
