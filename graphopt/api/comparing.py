"""Two models side by side: their numbers, their latency."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphopt.calibration import Samples, load_samples
from graphopt.errors import OptionError
from graphopt.ir import load
from graphopt.report import ComparisonReport, LatencyReport
from graphopt.runtime import (
    Session,
    SessionOptions,
    generate_feed_sets,
    measure_latency,
    shared_worker,
)
from graphopt.search import Feeds, ProgressCallback, Reporter, SampleSource
from graphopt.search.judging import VERIFICATION_SAMPLES
from graphopt.search.workbench import latency_feed, load_original
from graphopt.verification import compare_models

__all__ = ["bench", "verify"]


def verify(
    reference: str | Path,
    candidate: str | Path,
    *,
    samples: SampleSource | None = None,
    max_abs: float | None = None,
    max_rel: float | None = None,
    min_cosine: float | None = None,
    min_sqnr_db: float | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> ComparisonReport:
    """Compare the outputs of two model files.

    The reference runs without the runtime's optimizations, the candidate with them, as deployed;
    without any limit both run without, and must agree bit for bit.

    Args:
        reference: The model that is right by definition.
        candidate: The model that is judged.
        samples: Real inputs, all of which are compared; generated at two or more shapes where
            ``None``.
        max_abs: Largest absolute difference of an output.
        max_rel: Largest difference of an output, as a fraction of its largest value.
        min_cosine: Smallest cosine between the outputs, in [-1, 1].
        min_sqnr_db: Smallest signal-to-noise ratio, in dB.
        threads: Threads inside one operator; 0 lets the runtime choose.
        seed: Seed of generated inputs.
        progress: Called with each step.

    Raises:
        OptionError: The number of threads is negative.
        InputError: A model or the samples cannot be used.
        RuntimeFailure: The candidate does not load or run.
    """
    given = {
        "max_abs": max_abs,
        "max_rel": max_rel,
        "min_cosine": min_cosine,
        "min_sqnr_db": min_sqnr_db,
    }
    limits = {name: limit for name, limit in given.items() if limit is not None}
    _check_threads(threads)
    report = Reporter(progress, "verify")
    report("comparing outputs")
    # Packed kernels round differently for a constant and for the same weight computed on the way.
    exact = {} if limits else {"session.disable_prepacking": "1"}
    plain = SessionOptions(optimization="disabled", threads=threads, config=exact)
    model = load(reference)
    # The runtime knows best what it wants to be fed: symbols and defaults as it reads them.
    with load_original(Path(reference), plain) as session:
        feeds = (
            generate_feed_sets(model, seed=seed, session=session)
            if samples is None
            else _checked(samples, session)
        )
    load(candidate)  # a file that is no model is the user's error, not a failed candidate
    comparison = compare_models(
        reference,
        candidate,
        _counted(feeds, report),
        worker=shared_worker(),
        reference_options=plain,
        candidate_options=SessionOptions(threads=threads) if limits else plain,
    )
    return ComparisonReport(
        reference=Path(reference), candidate=Path(candidate), comparison=comparison, limits=limits
    )


def _check_threads(threads: int) -> None:
    if threads < 0:
        raise OptionError(f"`{threads}` threads cannot be used", why="expected 0 or more")


def _checked(samples: SampleSource, session: Session) -> Samples:
    loaded = load_samples(samples, inputs=session.inputs)
    loaded.check(session.inputs)
    return loaded


def _counted(feeds: Samples | Sequence[Feeds], report: Reporter) -> Iterator[Feeds]:
    """Yield inputs one by one, and tell how many there were."""
    for number, feed in enumerate(feeds, start=1):
        yield feed
        report("comparing outputs", number, len(feeds))


def bench(
    baseline: str | Path,
    candidate: str | Path,
    *,
    samples: SampleSource | None = None,
    budget_s: float = 10.0,
    threads: int = 1,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> LatencyReport:
    """Compare the latency of two model files, interleaved in one process.

    Args:
        baseline: What the candidate is compared with.
        candidate: The model in question.
        samples: Real inputs, of which the middle one by size is used; generated where ``None``.
        budget_s: Most seconds to measure.
        threads: Threads inside one operator; 0 lets the runtime choose.
        seed: Seed of generated inputs.
        progress: Called with each step.

    Raises:
        InputError: A model or the samples cannot be used.
        RuntimeFailure: A model does not load or run.
    """
    _check_threads(threads)
    load(candidate)  # a file that is no model is the user's error, not a failed candidate
    options = SessionOptions(threads=threads)
    model = load(baseline)
    with load_original(Path(baseline), options) as session:
        real = None
        if samples is not None:
            # The middle one by size is timed: for that the first few will do.
            real = list(itertools.islice(_checked(samples, session), VERIFICATION_SAMPLES))
        feeds = latency_feed(model, real, seed, session)
    Reporter(progress, "bench")("timing")
    latency = measure_latency(
        baseline,
        candidate,
        feeds,
        options=options,
        budget_s=budget_s,
        seed=seed,
    )
    return LatencyReport(
        baseline=Path(baseline), candidate=Path(candidate), threads=threads, latency=latency
    )
