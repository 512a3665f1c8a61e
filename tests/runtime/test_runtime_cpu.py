"""CPU features from what Linux and macOS print."""

from __future__ import annotations

import platform
import sys

import pytest

from graphopt.runtime import cpu_features, cpu_name
from graphopt.runtime.cpu import features_from_cpuinfo, features_from_sysctl

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R)
flags\t\t: fpu pni sse4_1 avx2 avx512f avx512_vnni avx_vnni amx_int8
bugs\t\t: spectre_v1
"""
ARM = """processor : 0
Features  : fp asimd asimddp i8mm sve
processor : 1
Features  : fp asimd asimddp
"""
APPLE = """hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
hw.optional.arm.FEAT_BF16: 1
hw.optional.AdvSIMD: 1
hw.memsize: 17179869184
"""
OLD_MAC = """machdep.cpu.features: FPU SSE4.2 AVX1.0
machdep.cpu.leaf7_features: AVX2 AVX512F AVX512VNNI
machdep.cpu.brand_string: Intel(R) Core(TM)
"""


def test_x86_of_linux():
    expected = {"fpu", "sse3", "sse4_1", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}
    assert features_from_cpuinfo(XEON) == expected


def test_arm_of_linux_counts_what_every_core_has():
    assert features_from_cpuinfo(ARM) == {"fp", "asimd", "neon", "asimddp"}


def test_apple():
    assert features_from_sysctl(APPLE) == {"asimddp", "bf16", "asimd", "neon"}


def test_intel_mac_has_the_names_of_linux():
    expected = {"fpu", "sse4_2", "avx", "avx2", "avx512f", "avx512_vnni"}
    assert features_from_sysctl(OLD_MAC) == expected


def test_nothing_known_is_empty():
    assert features_from_cpuinfo("processor : 0\n") == frozenset()


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no source of features")
def test_this_machine():
    expected = "neon" if platform.machine() in ("arm64", "aarch64") else "sse2"
    assert expected in cpu_features()
    assert cpu_name()
