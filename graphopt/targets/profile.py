"""A target profile as a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from graphopt.errors import OptionError, UnknownNameError
from graphopt.targets.gates import check_gate
from graphopt.targets.releases import newest_ir_version, newest_opset

if TYPE_CHECKING:
    from graphopt.rewrite import TargetFacts
    from graphopt.runtime import SessionOptions

__all__ = [
    "ENOUGH_DB",
    "Candidate",
    "DeviceProfile",
    "Package",
    "Precision",
    "Provider",
    "RuntimeProfile",
    "Stage",
    "Target",
]

ENOUGH_DB = 40.0
"""Outputs that are more precise than that are worth no time, where a target says nothing else."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One execution provider of ONNX Runtime and its options."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RuntimeProfile:
    """How sessions run on the device.

    Attributes:
        providers: In order of preference.
        threads: Threads inside one operator; 0 lets the runtime choose.
        optimization: What the runtime rewrites at load.
        order: In which order operators run; see `graphopt.runtime.SessionOptions`. A bundle
            demands ``priority`` only where it measured less memory with it.
        config: Session configuration entries.
    """

    providers: tuple[Provider, ...]
    threads: int = 1
    optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    order: Literal["default", "priority"] = "default"
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What the device must have and where it ends; ``None`` sets no limit.

    Attributes:
        architectures: Processors that the model is for, named as by `graphopt.runtime`:
            ``x86_64``, ``aarch64``, ``wasm32``; empty: any.
        features: Instruction-set features that the processor must have.
        minimum_onnxruntime: Oldest release that may run the model.
        maximum_onnxruntime: Release that must be able to load the model: the one on the device.
        maximum_opset: Newest opset of the default domain that the device takes.
        maximum_ir_version: Newest IR version that it takes.
        maximum_memory_bytes: What the process may need at most.
        static_shapes: Every size must be known before the model runs.
    """

    architectures: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    minimum_onnxruntime: str | None = None
    maximum_onnxruntime: str | None = None
    maximum_opset: int | None = None
    maximum_ir_version: int | None = None
    maximum_memory_bytes: int | None = None
    static_shapes: bool = False

    def opset_ceiling(self) -> int | None:
        """Return the newest opset of the default domain; ``None`` where any will do.

        Raises:
            OptionError: Nothing is known of `maximum_onnxruntime`.
        """
        release = self.maximum_onnxruntime
        limits = [self.maximum_opset, newest_opset(release) if release else None]
        return min((limit for limit in limits if limit is not None), default=None)

    def ir_version_ceiling(self) -> int | None:
        """Return the newest IR version; ``None`` where any will do.

        Raises:
            OptionError: Nothing is known of `maximum_onnxruntime`.
        """
        release = self.maximum_onnxruntime
        limits = [self.maximum_ir_version, newest_ir_version(release) if release else None]
        return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How numbers become integers where nothing else is said.

    Attributes:
        activation: Integer type of values: ``u8``, ``s8``, ``u16`` or ``s16``.
        weight: Integer type of weights: ``u8`` or ``s8``.
        placement: Where quantizers stand: ``x86-cpu``, ``arm-cpu``, ``nnapi``, ``tensorrt``,
            ``openvino`` or ``qnn-htp``.
    """

    activation: str = "u8"
    weight: str = "s8"
    placement: str = "x86-cpu"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Passes that every candidate goes through.

    Attributes:
        name: Its name, for `with_stages`.
        passes: Pipeline text.
        enabled: Switched off, it is left out.
        last: It comes after the passes of the candidate, not before them.
    """

    name: str
    passes: str
    enabled: bool = True
    last: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One version of the model that is built and measured.

    Attributes:
        name: Its name in reports.
        pipeline: Pipeline text that follows the stages; empty for the stages alone.
        needs_calibration: It cannot be built without samples.
        summary: What it is good for.
        enabled: Switched off, it is not built.
    """

    name: str
    pipeline: str = ""
    needs_calibration: bool = False
    summary: str = ""
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class Package:
    """What the bundle holds.

    Attributes:
        format: ``onnx`` or ``ort``.
        golden_samples: Number of inputs kept with their outputs.
        external_data_threshold_bytes: Weight bytes above which weights get a file of their own;
            ``None`` for the limit of the format.
        include: Files copied in.
    """

    format: Literal["onnx", "ort"] = "onnx"
    golden_samples: int = 2
    external_data_threshold_bytes: int | None = None
    include: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A deployment target: how the model runs there, what is tried, what must hold.

    Attributes:
        name: Part of the bundle's name.
        summary: One line for listings.
        runtime: Providers, threads and session options.
        device: What the device must have.
        precision: Integer types for quantization.
        stages: Pipeline stages in order, those that are off included.
        candidates: In order, those that are off included.
        gates: Limits by name of gate.
        package: What the bundle holds.
        worth_of_3_db: How many times as long a candidate may take whose outputs have half the
            error of another's, to be as good; 1: the faster one is better whatever the error.
        enough_db: Signal-to-noise ratio of the outputs beyond which accuracy is worth a quarter of
            that time, and after 9 dB none.
        demanded_gates: Gates set for this run by `with_gates`; no waiver excuses them.
        dims: Sizes fixed for this run by `with_dims`.
        path: The file that it was loaded from.
    """

    name: str
    summary: str
    runtime: RuntimeProfile
    device: DeviceProfile = field(default_factory=DeviceProfile)
    precision: Precision = field(default_factory=Precision)
    stages: tuple[Stage, ...] = ()
    candidates: tuple[Candidate, ...]
    gates: Mapping[str, float] = field(default_factory=dict)
    package: Package = field(default_factory=Package)
    worth_of_3_db: float = 1.0
    enough_db: float = ENOUGH_DB
    demanded_gates: frozenset[str] = frozenset()
    dims: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def enabled_candidates(self) -> tuple[Candidate, ...]:
        """Return the candidates that are to be built, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.enabled)

    def stage_text(self) -> str:
        """Return the pipeline text of the stages that come first; empty where none is on."""
        # Sizes are fixed before anything else: what they make constant is folded by the stages.
        first = (stage.passes for stage in self.stages if stage.enabled and not stage.last)
        return _joined((self.dims_text(), *first))

    def last_text(self) -> str:
        """Return the pipeline text of the stages that come last; empty where none is on."""
        return _joined(stage.passes for stage in self.stages if stage.enabled and stage.last)

    def own_text(self, candidate: Candidate) -> str:
        """Return what follows the shared stages: a candidate's own passes, then the last stages."""
        return _joined((candidate.pipeline, self.last_text()))

    def pipeline_text(self, candidate: Candidate) -> str:
        """Return the whole recipe of a candidate: the stages, with its own passes between them."""
        return _joined((self.stage_text(), self.own_text(candidate)))

    def with_gates(self, gates: Mapping[str, float | None]) -> Self:
        """Return this target with limits set, or taken away where ``None``.

        Raises:
            UnknownNameError: A name is not a gate.
            OptionError: A limit is out of the range of its gate.
        """
        limits = dict(self.gates)
        for name, limit in gates.items():
            if limit is None:
                check_gate(name, 1.0)  # the name must be known all the same
                limits.pop(name, None)
            else:
                limits[name] = check_gate(name, limit)
        # One that is taken away is demanded no more, even if it was before.
        demanded = (self.demanded_gates | gates.keys()) & limits.keys()
        return replace(self, gates=limits, demanded_gates=demanded)

    def with_stages(self, switches: Mapping[str, bool]) -> Self:
        """Return this target with stages or candidates switched on or off.

        A name that both a stage and a candidate have is the stage's.

        Raises:
            UnknownNameError: A name is neither a stage nor a candidate.
            OptionError: A switch is not a truth value, or no candidate is left.
        """
        stage_names = {stage.name for stage in self.stages}
        known = stage_names | {candidate.name for candidate in self.candidates}
        for name, is_on in switches.items():
            if name not in known:
                raise UnknownNameError("stage", name, known)
            if not isinstance(is_on, bool):  # the text "off" would be true
                raise OptionError(f"stage `{name}` is True or False, not {is_on!r}")
        built = {name: is_on for name, is_on in switches.items() if name not in stage_names}
        stages = tuple(
            replace(stage, enabled=switches.get(stage.name, stage.enabled)) for stage in self.stages
        )
        candidates = tuple(
            replace(candidate, enabled=built.get(candidate.name, candidate.enabled))
            for candidate in self.candidates
        )
        if not any(candidate.enabled for candidate in candidates):
            raise OptionError(
                "every candidate is switched off",
                where=f"target `{self.name}`",
                hint="leave one on: " + ", ".join(f"`{item.name}`" for item in candidates),
            )
        return replace(self, stages=stages, candidates=candidates)

    def with_threads(self, threads: int) -> Self:
        """Return this target with another number of threads; 0 lets the runtime choose.

        Raises:
            OptionError: The number is negative.
        """
        if threads < 0:
            raise OptionError(f"`{threads}` threads cannot be used", why="expected 0 or more")
        return replace(self, runtime=replace(self.runtime, threads=threads))

    def with_dims(self, dims: Sequence[str]) -> Self:
        """Return this target for fixed sizes: every candidate starts with `specialize-shapes`.

        Args:
            dims: ``SYMBOL=SIZE`` or ``INPUT:AXIS=SIZE``, as that pass reads them; may be empty.

        Raises:
            OptionError: A text holds what cannot be written in pipeline text.
        """
        # Written into pipeline text below: a quote in it could end the string and begin another
        # pass.
        for text in dims:
            if '"' in text or "\\" in text or not text.isprintable():
                raise OptionError(f"size `{text}` cannot be read", why="expected `SYMBOL=SIZE`")
        return replace(self, dims=tuple(dims))

    def dims_text(self) -> str:
        """Return the pipeline text that fixes the sizes of `with_dims`; empty without any."""
        listed = ",".join(f'"{text}"' for text in self.dims)
        return f"specialize-shapes{{dims=[{listed}]}}" if listed else ""

    def with_order(self, order: Literal["default", "priority"]) -> Self:
        """Return this target with another order in which operators run."""
        return replace(self, runtime=replace(self.runtime, order=order))

    def session_options(self) -> SessionOptions:
        """Return the options of sessions as they run on the device."""
        from graphopt.runtime import SessionOptions

        return SessionOptions(
            optimization=self.runtime.optimization,
            order=self.runtime.order,
            threads=self.runtime.threads,
            providers=tuple((item.name, dict(item.options)) for item in self.runtime.providers),
            config=dict(self.runtime.config),
        )

    def to_facts(self) -> TargetFacts:
        """Return the part of this target that passes may look at."""
        from graphopt.rewrite import TargetFacts

        return TargetFacts(
            name=self.name,
            provider=self.runtime.providers[0].name,
            activation_type=self.precision.activation,
            weight_type=self.precision.weight,
            placement=self.precision.placement,
            features=frozenset(self.device.features),
            maximum_opset=self.device.opset_ceiling(),
            maximum_ir_version=self.device.ir_version_ceiling(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved profile in the form of the schema; see `targets.document`."""
        from graphopt.targets.document import document_of

        return document_of(self)

    def __str__(self) -> str:
        """Return the resolved profile as the text of a target file."""
        from graphopt.targets.document import toml_text

        return toml_text(self.to_dict())


def _joined(texts: Iterable[str]) -> str:
    return ",".join(text for text in texts if text)
