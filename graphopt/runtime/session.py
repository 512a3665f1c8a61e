"""Session: a model loaded in a worker process."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from graphopt.errors import RunError, SessionLoadError
from graphopt.runtime.framing import Header
from graphopt.runtime.histograms import Histogram
from graphopt.runtime.options import SessionOptions, TensorSpec
from graphopt.runtime.values import Feeds, Values, decode_values, encode_values

if TYPE_CHECKING:
    from graphopt.rewrite import Channels
    from graphopt.runtime.client import Worker

__all__ = [
    "NodeTiming",
    "Observed",
    "Padding",
    "Pair",
    "Session",
    "Timing",
    "Watched",
    "time_sessions",
]


class Observed(NamedTuple):
    """What one output spanned in one run.

    Attributes:
        minimum: Of the finite elements; +inf where there is none.
        maximum: Of the finite elements; -inf where there is none.
        elements: How many elements there were.
        nonfinite: How many of them were NaN or infinite, and so ignored.
    """

    minimum: float
    maximum: float
    elements: int
    nonfinite: int


class Padding(NamedTuple):
    """Positions of a value that padding fills.

    Attributes:
        mask: Input that is nonzero at the positions that count.
        axes: Axes of the value that are the axes of the mask, in order; a single one stands for
            all of them, merged.
    """

    mask: str
    axes: tuple[int, ...]


class Watched(NamedTuple):
    """A value whose moments are gathered.

    Attributes:
        channels: The value, and how it is read as rows.
        side: 0: of the session itself; 1: of the other one.
        is_input: It is an input of the model.
        has_gram: Products of its channels are summed too.
        padding: Positions that are left out.
    """

    channels: Channels
    side: int = 0
    is_input: bool = False
    has_gram: bool = False
    padding: Padding | None = None


class Pair(NamedTuple):
    """Two watched values, by number, and whether products of their channels are wanted."""

    first: int
    second: int
    has_products: bool


class NodeTiming(NamedTuple):
    """What one node did in one run: its name, operator, provider and duration in microseconds."""

    name: str
    operator: str
    provider: str
    duration_us: float


class Timing(NamedTuple):
    """One timed sample: nanoseconds per run, and the involuntary context switches of all runs.

    `cpu_ns` counts all threads of the process.
    """

    wall_ns: float
    cpu_ns: float
    switches: int


class Session:
    """A model in a worker process. Made by `Worker.load`; a context manager.

    Attributes:
        inputs: What `run` must be fed; initializers that may be overridden are not among them.
        outputs: What `run` returns, in the order of the model.
        load_ms: Milliseconds that the runtime took to create it.
    """

    def __init__(
        self, worker: Worker, reply: Header, where: str, profiles: Path | None = None
    ) -> None:
        self._worker = worker
        self._id: int = reply["session"]
        self._where = where
        self._profiles = profiles
        self.load_ms: float = reply["load_ns"] / 1e6
        self.inputs = _specs(reply["inputs"])
        self.outputs = _specs(reply["outputs"])
        self._forget = weakref.finalize(self, worker.forget, self._id)
        # The process goes with the worker; there is nothing to tidy at the end of the program.
        self._forget.atexit = False

    @classmethod
    def load(cls, worker: Worker, model: str | Path | bytes, options: SessionOptions) -> Session:
        """Create a session in `worker`; see `Worker.load`."""
        header: Header = {"command": "load", "options": options.to_json()}
        profiles = Path(tempfile.mkdtemp(prefix="graphopt-profile-")) if options.profile else None
        header["options"]["profile_prefix"] = str(profiles / "p") if profiles else None
        where = "a model in memory" if isinstance(model, bytes) else f"`{model}`"
        if not isinstance(model, bytes):
            header["path"] = str(Path(model).absolute())
        buffers = [memoryview(model)] if isinstance(model, bytes) else []
        reply, _ = worker.request(header, buffers, error=SessionLoadError, where=where)
        session = cls(worker, reply, where, profiles)
        if profiles is not None:
            import shutil

            weakref.finalize(session, shutil.rmtree, profiles, ignore_errors=True)
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the session, with the next request to its worker. May be called twice."""
        self._forget()

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Values:
        """Run the model.

        Args:
            feeds: Input name to array; to a list of arrays for a sequence; to None for an empty
                optional.
            outputs: Which outputs to compute; all by default.

        Returns:
            Output name to `np.ndarray`, or to a list of them for a sequence.

        Raises:
            RunError: The runtime refuses the feeds, or fails.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        header, payload = self._fed("run", feeds, outputs)
        return decode_values(header["values"], payload)

    def run_scalars(
        self, feeds: Sequence[Feeds], outputs: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Run the model on several feeds at once, each in a thread of its own.

        Returns:
            Outputs of one number each, as one array of shape (feeds, outputs).

        Raises:
            RunError: As for `run`, or an output holds more than one number, or none.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        encoded = [encode_values(feed) for feed in feeds]
        request = {
            "command": "run_scalars",
            "feeds": [specs for specs, _ in encoded],
            "outputs": list(outputs),
        }
        buffers = [buffer for _, part in encoded for buffer in part]
        reply, payload = self._request(request, buffers)
        found: npt.NDArray[np.float64] = decode_values(reply["values"], payload)["scalars"]
        return found

    def observe(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Observed]:
        """Run the model and return only what its outputs span; the tensors stay in the worker.

        Args:
            feeds: As for `run`.
            outputs: Which outputs to observe; all by default.

        Raises:
            RunError: As for `run`, or an output does not hold real numbers.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        header, _ = self._fed("observe", feeds, outputs)
        return {name: Observed(*numbers) for name, numbers in header["observed"].items()}

    def collect(
        self,
        feeds: Feeds,
        outputs: Sequence[str],
        *,
        inputs: Sequence[str] = (),
        padding: Mapping[str, Padding] | None = None,
        is_counted: bool = True,
    ) -> None:
        """Run the model and count what values hold into histograms, which stay in the worker.

        Args:
            feeds: As for `run`.
            outputs: Outputs to count.
            inputs: Inputs to count.
            padding: What is left out of values by their names. Where the sizes of the run do not
                fit, nothing is.
            is_counted: Count cells; extremes alone otherwise. The first call decides.

        Raises:
            RunError: As for `run`, or a value does not hold real numbers.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        specs, buffers = encode_values(feeds)
        header = {
            "command": "collect",
            "values": specs,
            "outputs": list(outputs),
            "inputs": list(inputs),
            "padding": {name: item._asdict() for name, item in (padding or {}).items()},
            "is_counted": is_counted,
        }
        self._request(header, buffers)

    def collected(self) -> dict[str, Histogram]:
        """Return the histograms of everything that `collect` has counted so far, by name.

        Raises:
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        header, payload = self._request({"command": "collected"})
        counts = decode_values(header["values"], payload)
        return {
            name: Histogram.of_state(state, counts[name])
            for name, state in header["states"].items()
        }

    def plan_gathering(
        self, watched: Sequence[Watched], pairs: Sequence[Pair] = (), other: Session | None = None
    ) -> None:
        """Begin to gather moments of values, afresh.

        Args:
            watched: Values of this session, and of the other one.
            pairs: Pairs of them that are summed up together.
            other: A session of the same worker that runs on the same feeds, as far as it takes
                them; it must stay open.
        """
        plan = {
            "watched": [_watched_header(item) for item in watched],
            "pairs": [list(pair) for pair in pairs],
        }
        number = None if other is None else other._id  # noqa: SLF001
        self._request({"command": "plan_gathering", "plan": plan, "other": number})

    def gather(self, feeds: Feeds) -> None:
        """Run the model, and the other one, and add up what was planned; nothing crosses the pipe.

        Raises:
            RunError: As for `run`.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        specs, buffers = encode_values(feeds)
        self._request({"command": "gather", "values": specs}, buffers)

    def gathered(self) -> Values:
        """Return the sums since `plan_gathering`: ``watched/NUMBER/PART``, ``pairs/NUMBER/PART``.

        The parts are `count`, and once rows have come `total`, `squares`, `minimum`, `maximum` and
        `gram` of watched values, and `shift`, `error` and `product` of pairs; see
        `rewrite.ChannelMoments`.

        Raises:
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        header, payload = self._request({"command": "gathered"})
        return decode_values(header["values"], payload)

    def prepare(self, feeds: Feeds) -> None:
        """Send `feeds` to the worker once, for `Session.time`.

        Raises:
            RunError: A value cannot be passed.
        """
        self._fed("prepare", feeds, None)

    def profile(self) -> list[NodeTiming]:
        """Stop profiling and return what each node took, in every run since the session was loaded.

        Raises:
            RunError: The session was loaded without `SessionOptions(profile=True)`.
        """
        if self._profiles is None:
            raise RunError(
                "the session was not profiled",
                where=self._where,
                hint="load it with `SessionOptions(profile=True)`",
            )
        reply, _ = self._request({"command": "profile"})
        self._profiles = None
        return [NodeTiming(**node) for node in reply["nodes"]]

    def time(self, repeats: int = 1) -> Timing:
        """Time the prepared feeds once; see `time_sessions`."""
        return time_sessions([(self, repeats)])[0]

    def _fed(
        self, command: str, feeds: Feeds, outputs: Sequence[str] | None
    ) -> tuple[Header, list[memoryview]]:
        specs, buffers = encode_values(feeds)
        wanted = None if outputs is None else list(outputs)
        return self._request({"command": command, "values": specs, "outputs": wanted}, buffers)

    def _request(
        self, header: Header, buffers: Sequence[memoryview] = ()
    ) -> tuple[Header, list[memoryview]]:
        if not self._forget.alive:
            raise RunError("the session is closed", where=self._where)
        return self._worker.request({**header, "session": self._id}, buffers, where=self._where)


def time_sessions(plan: Sequence[tuple[Session, int]]) -> list[Timing]:
    """Time sessions of one worker on their prepared feeds, strictly in this order.

    Args:
        plan: Which session, and how many runs make one sample.

    Raises:
        RunError: The runtime fails, or a session was not prepared.
    """
    first = plan[0][0]
    steps = [(session._id, repeats) for session, repeats in plan]  # noqa: SLF001
    reply, _ = first._request({"command": "time", "plan": steps})  # noqa: SLF001
    return [Timing(*numbers) for numbers in reply["timings"]]


def _watched_header(item: Watched) -> Header:
    channels, window = item.channels, item.channels.window
    return {
        "name": channels.value,
        "axis": channels.axis,
        "window": None if window is None else window._asdict(),
        "positions": channels.positions,
        "side": item.side,
        "is_input": item.is_input,
        "has_gram": item.has_gram,
        "padding": None if item.padding is None else item.padding._asdict(),
    }


def _specs(items: Sequence[Header]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], item["dtype"], tuple(item["dims"])) for item in items)
