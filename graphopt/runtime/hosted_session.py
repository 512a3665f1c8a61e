"""A session as it lives in a worker process: load, run, observe, time (worker side)."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime.collecting import Collector
from graphopt.runtime.gathering import Gatherer
from graphopt.runtime.histograms import Counts
from graphopt.runtime.ort_values import array_of, dtype_name, needs_ort_value, ort_value_of
from graphopt.runtime.process_usage import involuntary_switches
from graphopt.runtime.values import Feeds, Values

__all__ = ["HostedSession", "observe_array", "renew_exact_arena"]

_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_AS_REQUESTED = 1  # kSameAsRequested, `onnxruntime_c_api.h`
_FATAL_ONLY = 4  # errors are raised; printed too, they would only repeat themselves


class HostedSession:
    """One ONNX Runtime session.

    Args:
        model: Path of a model, or its bytes.
        options: `SessionOptions.to_json()`, and `profile_prefix` (a path, or None).

    Attributes:
        has_exact_arena: Who closes it calls `renew_exact_arena` then.
    """

    def __init__(self, model: str | bytes, options: dict[str, Any]) -> None:
        self.has_exact_arena = options.get("arena") == "exact"
        if self.has_exact_arena:
            renew_exact_arena()
        start = time.perf_counter_ns()
        self._session = _create_session(model, options)
        self.load_ns = time.perf_counter_ns() - start
        self.inputs = [_spec(node) for node in self._session.get_inputs()]
        self.outputs = [_spec(node) for node in self._session.get_outputs()]
        self._prepared: Feeds = {}
        self._collector: Collector | None = None
        self._gatherer: Gatherer | None = None

    def run(self, feeds: Feeds, outputs: Sequence[str] | None) -> Values:
        """Return the outputs called `outputs`, or all of them."""
        names = [spec["name"] for spec in self.outputs] if outputs is None else list(outputs)
        wanted = set(names)
        types = [spec["dtype"] for spec in self.outputs if spec["name"] in wanted]
        types += [value.dtype.name for value in feeds.values() if isinstance(value, np.ndarray)]
        if any(map(needs_ort_value, types)):
            fed = {name: ort_value_of(value) for name, value in feeds.items()}
            results = self._session.run_with_ort_values(names, fed)
            return dict(zip(names, map(array_of, results), strict=True))
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def run_scalars(
        self, feeds: Sequence[Feeds], outputs: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Return outputs of one number each, as one array with a row for each feed.

        Feeds run at once, in threads of their own.
        """
        found = np.zeros((len(feeds), len(outputs)))
        errors: list[BaseException] = []

        def run(row: int) -> None:
            try:
                results = self.run(feeds[row], outputs)
                found[row] = [results[name].item() for name in outputs]
            except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
                errors.append(error)

        threads = [threading.Thread(target=run, args=(row,)) for row in range(1, len(feeds))]
        for thread in threads:
            thread.start()
        run(0)
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return found

    def observe(self, feeds: Feeds, outputs: Sequence[str] | None) -> dict[str, list[float]]:
        """Run once and return minimum, maximum, elements and non-finite elements per output."""
        return {name: observe_array(array) for name, array in self.run(feeds, outputs).items()}

    def collect(
        self,
        feeds: Feeds,
        outputs: Sequence[str],
        inputs: Sequence[str],
        padding: Mapping[str, Mapping[str, Any]],
        *,
        is_counted: bool,
    ) -> None:
        """Run once and count the named values into the histograms of this session."""
        if self._collector is None:
            self._collector = Collector(self._session, is_counted=is_counted)
        self._collector.add(feeds, inputs, outputs, padding)

    def collected(self) -> tuple[dict[str, dict[str, Any]], list[Counts]]:
        """Return the histograms so far: by name all but the counts, and the counts in order."""
        held = {} if self._collector is None else self._collector.histograms
        states = {name: histogram.state() for name, histogram in held.items()}
        return states, [histogram.counts for histogram in held.values()]

    def plan_gathering(self, plan: Mapping[str, Any], other: HostedSession | None) -> None:
        """Begin to gather what `plan` says, of this session and of another; see `Gatherer`."""
        sessions = [self._session, *(() if other is None else (other._session,))]  # noqa: SLF001
        self._gatherer = Gatherer(sessions, plan)

    def gather(self, feeds: Feeds) -> None:
        """Run once and gather."""
        if self._gatherer is None:
            raise RuntimeError("nothing was planned to gather")
        self._gatherer.add(feeds)

    def gathered(self) -> Values:
        """Return all that was gathered since it was planned."""
        return {} if self._gatherer is None else self._gatherer.found()

    def prepare(self, feeds: Feeds) -> None:
        """Keep `feeds` for `time`."""
        self._prepared = feeds

    def time(self, repeats: int) -> tuple[float, float, int]:
        """Run `repeats` times.

        Returns:
            Wall nanoseconds and CPU nanoseconds (all threads) per run, and the involuntary
            context switches of all of them.
        """
        switches = involuntary_switches()
        cpu = time.process_time_ns()
        wall = time.perf_counter_ns()
        for _ in range(repeats):
            self.run(self._prepared, None)
        wall = time.perf_counter_ns() - wall
        cpu = time.process_time_ns() - cpu
        return wall / repeats, cpu / repeats, involuntary_switches() - switches

    def end_profiling(self) -> list[dict[str, Any]]:
        """Stop profiling and return one record per node that ran."""
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        return [
            {
                "name": event["name"].removesuffix("_kernel_time"),
                "operator": event["args"].get("op_name", ""),
                "provider": event["args"].get("provider", ""),
                "duration_us": event["dur"],
            }
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        ]


def renew_exact_arena() -> None:
    """Register an arena that grows by what is asked for; sessions loaded from now on may share it.

    Arenas of a kind that a session cannot have of its own belong to the whole process, which holds
    them. The new one takes the place of the one before, and that goes with its last session.
    """
    import onnxruntime as ort
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    # Versions that refuse a second one go on with the first: it is as exact, but stays.
    with suppress(Fail, InvalidArgument):
        ort.create_and_register_allocator(
            place, ort.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED})
        )


def observe_array(array: Any) -> list[float]:
    """Return minimum and maximum of the finite elements, elements, and non-finite elements.

    Without a finite element the minimum is +inf and the maximum -inf.

    Raises:
        TypeError: The elements are not numbers.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind in "OUSc":
        raise TypeError("only tensors of real numbers can be observed")
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32)
    size = array.size
    if size == 0:
        return [np.inf, -np.inf, 0, 0]
    low, high = float(array.min()), float(array.max())
    if np.isfinite(low) and np.isfinite(high):
        return [low, high, size, 0]
    # Rare, so only here the cost of a mask: NaN and infinities always show in the extremes.
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return [np.inf, -np.inf, size, size]
    return [float(finite.min()), float(finite.max()), size, size - finite.size]


def _spec(node: Any) -> dict[str, Any]:
    return {"name": node.name, "dtype": dtype_name(node.type), "dims": list(node.shape or ())}


def _create_session(model: str | bytes, options: dict[str, Any]) -> Any:
    import onnxruntime as ort

    providers = [name for name, _ in options["providers"]]
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        known = ", ".join(ort.get_available_providers())
        raise ValueError(f"provider {', '.join(missing)} is not available here (only {known})")
    native = _native_options(ort, options)
    is_state = options.get("is_rooted", False)
    if is_state and isinstance(model, str):
        native.add_session_config_entry(_WEIGHTS_FOLDER, Path(model).anchor)
        model = Path(model).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = ort.InferenceSession(
            model,
            native,
            providers=providers,
            provider_options=[settings for _, settings in options["providers"]],
            enable_fallback=0,
        )
    if is_state:
        # Kept for a fallback that is not used; the runtime has read it.
        session._model_bytes = None  # noqa: SLF001
    # Some builds drop a provider that does not start and go on without it.
    lost = [name for name in providers if name not in session.get_providers()]
    if lost:
        raise ValueError(f"provider {', '.join(lost)} did not start")
    return session


def _native_options(ort: Any, options: dict[str, Any]) -> Any:
    native = ort.SessionOptions()
    native.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, _LEVELS[options["optimization"]]
    )
    native.intra_op_num_threads = options["threads"]
    native.inter_op_num_threads = 1
    native.log_severity_level = _FATAL_ONLY
    native.enable_mem_pattern = options.get("memory_pattern", True)
    if options.get("order") == "priority":
        native.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if options.get("arena") == "exact":
        native.add_session_config_entry("session.use_env_allocators", "1")
    for key, value in options["config"].items():
        native.add_session_config_entry(key, value)
    if options["optimized_model_path"]:
        native.optimized_model_filepath = options["optimized_model_path"]
    if options["profile_prefix"]:
        native.enable_profiling = True
        native.profile_file_prefix = options["profile_prefix"]
    return native
