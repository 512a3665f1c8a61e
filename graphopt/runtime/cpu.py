"""Instruction set features of the CPU, by one set of names on every system."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

__all__ = [
    "architecture",
    "cpu_features",
    "cpu_name",
    "features_from_cpuinfo",
    "features_from_sysctl",
    "usable_cores",
]

# Windows and macOS have names of their own for the two.
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "x64": "x86_64"}

_CPUINFO = Path("/proc/cpuinfo")
_FEATURE_KEYS = frozenset({"flags", "features"})  # x86 and Arm

# Names that differ from Linux's own, which are the ones used here.
_ALIASES = {
    "pni": "sse3",
    "avx512vnni": "avx512_vnni",
    "avx512_vnni": "avx512_vnni",
    "avxvnni": "avx_vnni",
    "avx512bf16": "avx512_bf16",
    "avx1.0": "avx",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
# Apple's `hw.optional.arm.FEAT_*` and older names.
_APPLE_ARM = {
    "FEAT_DotProd": "asimddp",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
    "FEAT_FP16": "asimdhp",
    "FEAT_SME": "sme",
    "FEAT_SME2": "sme2",
    "AdvSIMD": "asimd",
}


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return the features of this machine's CPU, as Linux names them.

    Among them `avx2`, `avx512f`, `avx512_vnni`, `avx_vnni`, `amx_int8` on x86; `neon`, `asimddp`,
    `i8mm`, `bf16`, `sve` on Arm. Empty where the system does not tell.
    """
    if _CPUINFO.exists():
        return features_from_cpuinfo(_CPUINFO.read_text())
    if sys.platform == "darwin":
        return features_from_sysctl(_sysctl())
    return frozenset()


def architecture() -> str:
    """Return the processor's architecture by one name on every system: `x86_64`, `aarch64`."""
    name = platform.machine().lower()
    return _ARCHITECTURES.get(name, name)


def usable_cores() -> int:
    """Return how many cores this process may run on: fewer than there are where it is pinned."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def cpu_name() -> str:
    """Return the model of the CPU as the system calls it, or its architecture."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            key, _, text = line.partition(":")
            if key.strip().lower() == "model name":
                return text.strip()
    if sys.platform == "darwin":
        for line in _sysctl().splitlines():
            key, _, text = line.partition(":")
            if key == "machdep.cpu.brand_string":
                return text.strip()
    return platform.machine()


def features_from_cpuinfo(text: str) -> frozenset[str]:
    """Return the features that every CPU in a Linux `/proc/cpuinfo` has.

    >>> sorted(features_from_cpuinfo("flags : fpu pni avx512_vnni"))
    ['avx512_vnni', 'fpu', 'sse3']
    """
    found = [
        _normalised(line.partition(":")[2].split())
        for line in text.splitlines()
        if line.partition(":")[0].strip().lower() in _FEATURE_KEYS
    ]
    # Big and little cores differ, and a thread may land on either.
    return frozenset.intersection(*found) if found else frozenset()


def features_from_sysctl(text: str) -> frozenset[str]:
    """Return the features in the output of macOS `sysctl hw machdep`.

    >>> sorted(features_from_sysctl("hw.optional.arm.FEAT_DotProd: 1"))
    ['asimddp']
    """
    words: list[str] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        name = key.rpartition(".")[2]
        if key.startswith("machdep.cpu.") and name in ("features", "leaf7_features"):
            words += value.split()
        elif key.startswith("hw.optional.") and value.strip() == "1":
            words.append(_APPLE_ARM.get(name, name))
    return _normalised(words)


def _normalised(words: list[str]) -> frozenset[str]:
    names = {_ALIASES.get(word.lower(), word.lower()) for word in words}
    # 64-bit Arm always has it, under a new name.
    return frozenset(names | {"neon"} if "asimd" in names else names)


def _sysctl() -> str:
    command = ["/usr/sbin/sysctl", "hw", "machdep"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
