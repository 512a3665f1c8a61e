"""Does a bundle work here? The device against the contract, the numbers against the records."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.deploy.differences import LIMITS, difference
from graphopt.deploy.integrity import (
    MANIFEST,
    SCHEMA_VERSION,
    SIGNATURE,
    Broken,
    Wrong,
    check_files,
    file_sha256,
    quoted,
    read_manifest,
    version_key,
)
from graphopt.deploy.raw_agreement import RawChecks, Skipped
from graphopt.deploy.records import check_record_sizes, read_record
from graphopt.deploy.signature import PublicKey, check_signature
from graphopt.deploy.stopwatch import measure

__all__ = ["Validation", "check_device", "difference", "kernel_features", "platform_name"]

STATUS = ("ok", "wrong", "broken")  # by exit status
ROOM_OF_THE_REFERENCE = 3  # times its file: the file, the weights, and what kernels make of them
# Of the hundred features of a CPU those by which kernels are chosen.
KERNEL_FEATURES = re.compile(
    r"ssse3|sse4_[12]|f16c|fma|avx.*|amx.*|neon|asimd.*|fphp|i8mm|bf16|sve[0-9]*|sme[0-9]*"
)


def kernel_features(names: Any) -> list[str]:
    """Return, in order, the features of a CPU by which the runtime chooses its kernels."""
    return sorted(name for name in names if KERNEL_FEATURES.fullmatch(name))


def platform_name() -> str:
    """Return system and machine, for example `Linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}"


def architecture() -> str:
    """Return the processor's architecture by one name on every system: `x86_64`, `aarch64`."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(name, name)


def check_device(manifest: dict[str, Any], backend: Any) -> str:
    """Check the device contract, before anything is loaded."""
    device, session = manifest["device"], manifest["session"]
    version, minimum = backend.runtime_version(), device["minimum_onnxruntime"]
    if version_key(version) < version_key(minimum):
        raise Broken(f"onnxruntime {minimum} or newer is needed, here is {version}")
    names = [provider["name"] for provider in session["providers"]]
    if missing := set(names) - set(backend.providers()):
        known = ", ".join(backend.providers())
        raise Broken(f"{', '.join(sorted(missing))} is needed, here are only {known}")
    options = [session["config"], *(provider["options"] for provider in session["providers"])]
    for text in [text for texts in options for text in texts.values()]:
        # Some options name a library, which the runtime then executes.
        if re.search(r"[/\\]", text) or text in manifest["files"]:
            raise Broken(f"the session option {quoted(text)} names a file, which is not allowed")
    wanted, here = device.get("architectures", []), architecture()
    if wanted and here not in wanted:
        raise Broken(f"it is for {' or '.join(wanted)}, this machine is {here}")
    features = backend.cpu_features()
    if lacking := sorted(set(device["cpu_features"]) - set(features or device["cpu_features"])):
        raise Broken(f"the CPU lacks {', '.join(lacking)}")
    note = "" if features else "; this system does not tell what its CPU can do"
    return f"onnxruntime {version}, {', '.join(names)}{note}"


class Validation:
    """The checks of one bundle; `backend` is `OnnxRuntime`, or does the same elsewhere.

    Where `public_key` is given, the text of a `minisign.pub`, its signature is checked first.
    Where `reference` is given, the file of the original, it is timed beside the model.
    Where `item` is given (`text`, or `file`), the model runs on it, and the report has the result.
    """

    CHECKS = ("manifest", "files", "device", "load", "numbers", "memory", "gates", "latency")
    # Of bundles that say how texts, images or recordings become inputs; the second on demand.
    RAW_CHECKS = ("inputs", "item")

    def __init__(
        self,
        folder: Path,
        backend: Any,
        latency: bool = False,
        public_key: str | None = None,
        reference: Path | None = None,
        *,
        item: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.backend, self.wants_latency = folder, backend, latency
        self.public_key, self.reference, self.item = public_key, reference, item
        self.manifest: dict[str, Any] = {}
        self.session: Any = None
        self.bound = "bound"
        self.report: dict[str, Any] = {"checks": [], "outputs": {}, "latency": None}

    def run(self) -> dict[str, Any]:
        """Return the report; its `exit_code` and `status` sum it up."""
        code = 0
        for name in self._names():
            entry = {"name": name, "status": "passed", "detail": ""}
            self.report["checks"].append(entry)
            try:
                entry["detail"] = getattr(self, "_" + name)()
            except Skipped as error:
                entry.update(status="skipped", detail=str(error))
            except (Broken, Wrong, OSError) as error:
                entry.update(status="failed", detail=str(error))
                code = max(code, 1 if isinstance(error, Wrong) else 2)
            if STATUS[code] == "broken":
                break
        self.report["outputs"] = _json_ready(self.report["outputs"])
        return {"schema_version": 1, "status": STATUS[code], "exit_code": code, **self.report}

    def _names(self) -> Iterator[str]:
        """Yield the names of the checks in their order; the manifest is read by the first ones."""
        if self.public_key is not None:
            yield "signature"
        for name in self.CHECKS:
            yield name
            if name == "numbers" and "preprocessing" in self.manifest:
                yield self.RAW_CHECKS[0]
        if self.item is not None:
            yield self.RAW_CHECKS[1]

    def _signature(self) -> str:
        return check_signature(self.folder, PublicKey.read(self.public_key or ""))

    def _manifest(self) -> str:
        self.manifest = read_manifest(self.folder)
        self.report["manifest_sha256"] = file_sha256(self.folder / MANIFEST)
        return f"schema version {SCHEMA_VERSION}, target {self.manifest['target']}"

    def _files(self) -> str:
        found = check_files(self.folder, self.manifest)
        check_record_sizes(self.folder, self.manifest)
        if self.public_key is None and (self.folder / SIGNATURE).is_file():
            found += "; signed, which was not checked: no public key was given"
        return found

    def _device(self) -> str:
        return check_device(self.manifest, self.backend)

    def _load(self) -> str:
        name = self.manifest["model"]["file"]
        path = (self.folder / name).absolute()
        self.session = self.backend.open(path, self.manifest["session"])
        return f"`{name}` loads with the recorded session options"

    def _numbers(self) -> str:
        golden = self.manifest["golden"]
        self.bound = "same_kernels_bound" if self._has_same_kernels() else "bound"
        faults = self._disagreements(self.session, golden, "")
        others = self.manifest.get("variants", [])[1:]
        for variant in others:
            path = (self.folder / variant["file"]).absolute()
            session = self.backend.open(path, self.manifest["session"])
            found = self._disagreements(session, variant["golden"], f"variants/{variant['name']}/")
            faults += [f"variant {variant['name']}: {fault}" for fault in found]
        if faults:
            raise Wrong("; ".join(dict.fromkeys(faults)) + self._suspicion())
        note = f" ({golden['note']})" if golden["note"] else ""
        note += f"; {len(others)} more variants agree with theirs" if others else ""
        kernels = "the same" if self.bound == "same_kernels_bound" else "other"
        return f"{kernels} kernels, recorded samples that agree: {golden['samples']}{note}"

    def _disagreements(self, session: Any, golden: dict[str, Any], prefix: str) -> list[str]:
        """Return where a model gives other numbers than its records under `prefix` say."""
        faults: list[str] = []
        for index in range(golden["samples"]):
            values = self.backend.run(session, self._golden("inputs", index, prefix))
            for kind in ("model", "original") if self.manifest["verified_on"] else ("original",):
                recorded = self._golden(kind, index, prefix)
                faults += self._compare(kind, recorded, values, golden["outputs"])
        return faults

    def _inputs(self) -> str:
        return RawChecks(self.folder, self.manifest, self.report["outputs"]).golden(
            lambda feed: self.backend.run(self.session, feed), self.bound
        )

    def _item(self) -> str:
        checks = RawChecks(self.folder, self.manifest, self.report["outputs"])
        self.report["item"], text = checks.run_item(
            self.item or {}, lambda feed: self.backend.run(self.session, feed)
        )
        return text

    def _has_same_kernels(self) -> bool:
        """Tell whether the runtime computes here with the kernels that made the records."""
        verified = self.manifest["verified_on"]
        return (
            verified is not None
            and self.manifest["session"]["threads"] > 0
            and verified["onnxruntime"] == self.backend.runtime_version()
            and verified["platform"] == platform_name()
            and verified["cpu_features"] == kernel_features(self.backend.cpu_features() or ())
        )

    def _golden(self, kind: str, index: int, prefix: str = "") -> dict[str, Any]:
        return read_record(self.folder, f"{prefix}golden/{kind}/{index}.npz")

    def _compare(
        self, kind: str, recorded: Any, values: Any, rules: dict[str, Any]
    ) -> Iterator[str]:
        """Yield what is too far from what `kind` gave when the bundle was made."""
        limits = {gate["name"]: gate["limit"] for gate in self.manifest["gates"]}
        for name, rule in rules.items():
            if rule["compare"] == "nothing":
                continue
            if name not in values or name not in recorded:
                raise Broken(f"the output `{name}` is missing")
            array, expected = np.asarray(values[name]), recorded[name]
            array = array if rule["stride"] == 1 else array.reshape(-1)[:: rule["stride"]]
            if rule["compare"] == "shape" and array.shape == expected.shape:
                continue
            found = difference(expected, array)
            worst = self.report["outputs"].setdefault(name, {}).setdefault(kind, dict(found))
            worst["mismatch"] = worst["mismatch"] or found["mismatch"]
            for _, key, sign in LIMITS:
                worst[key] = sign * max(sign * worst[key], sign * found[key])
            allowed = {"max_rel_error": 0.0} if kind == "model" else limits
            if found["mismatch"]:
                yield f"`{name}` against the {kind}: {found['mismatch']}"
                continue
            for gate, key, sign in LIMITS:
                # Every comparison leaves room for the kernels of another CPU.
                room = rule[self.bound] if key == "error" else 0.0
                if gate in allowed and sign * found[key] > sign * allowed[gate] + room:
                    fault = f"{key} is {found[key]:.4g}, allowed {allowed[gate] + room:.4g}"
                    yield f"`{name}` against the {kind}: {fault}"

    def _suspicion(self) -> str:
        verified, here = self.manifest["verified_on"], self.backend.cpu_features()
        lacking = sorted(set(verified["cpu_features"]) - set(here)) if verified and here else []
        return f"; this CPU lacks {', '.join(lacking)} of the one before" if lacking else ""

    def _memory(self) -> str:
        limit, peak = self.manifest["device"]["maximum_memory_bytes"], self.backend.peak_bytes()
        if limit and peak and peak > limit:
            raise Broken(f"{peak} bytes were resident, the device contract allows {limit}")
        return f"{peak} bytes resident at most" if peak else "this system does not tell"

    def _gates(self) -> str:
        gates = self.manifest["gates"]
        missed = [f"{gate['name']} is {_shown(gate['value'])}, limit {_shown(gate['limit'])}"
                  for gate in gates if gate["passed"] is False]  # fmt: skip
        if not self.manifest["gates_met"]:
            raise Wrong("made with a missed goal: " + "; ".join(missed))
        unknown = ", ".join(gate["name"] for gate in gates if gate["passed"] is None)
        return "met where the bundle was made" + (f"; not measured: {unknown}" if unknown else "")

    def _latency(self) -> str:
        if not self.wants_latency or not self.manifest["golden"]["samples"]:
            return "not measured"
        feeds = self._golden("inputs", 0)
        original, note = self._reference_session()
        found, text = measure(
            self.backend.stopwatch(self.session, feeds),
            None if original is None else self.backend.stopwatch(original, feeds),
            self.manifest["session"]["threads"],
        )
        self.report["latency"] = found
        return text + note

    def _reference_session(self) -> tuple[Any, str]:
        """Load the original where one is given and there is room; say why where not."""
        if self.reference is None:
            return None, ""
        free = self.backend.available_bytes()
        source, size = self.manifest["source"], self.reference.stat().st_size
        needed = ROOM_OF_THE_REFERENCE * max(size, source["size_bytes"])
        if free is not None and free < needed:
            return None, f"; no room for the original: {free} bytes are free, it may need {needed}"
        note = ""
        # Where weights are outside, what was recorded is of the loaded model, not of a file.
        has_weights_outside = size < source["size_bytes"]
        if not has_weights_outside and file_sha256(self.reference) != source["sha256"]:
            note = "; the file beside it has another digest than the one recorded as the original"
        session = self.backend.open(self.reference.absolute(), self.manifest["session"])
        return session, note


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _json_ready(value: Any) -> Any:
    """Put None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
