"""An ARM64 device, emulated, with two versions of the runtime; the bundles are made on x86."""

import functools
import json
import os
import subprocess
from dataclasses import astuple

import numpy as np
import pytest
from device_bundles import make_bundle
from mobilenet import make_mobilenet

from graphopt import api
from graphopt.demo import demo_files
from graphopt.targets import load_target

OLD, NEW = "1.20.1", "1.23.2"
KINDS = {
    "s8s8": ("cpu-arm64-int8", "static"),
    "u8s8": ("cpu-arm64-int8", "unsigned"),
    "edge": ("edge-arm64", "static"),
}


@pytest.fixture(scope="session")
def arm64(device):
    """Return a function that runs a bundle's own program on the emulated device."""
    folder = device("arm64")

    @functools.cache  # ten seconds each
    def check(bundle, runtime, cpu="max"):
        emulator = [folder / "qemu/usr/bin/qemu-aarch64-static", "-cpu", cpu, "-L", folder / "root"]
        python = [folder / "root/usr/bin/python3.11", "-s", "-B"]
        result = subprocess.run(
            [*emulator, *python, bundle / "validate.py", "--json"],
            env={**os.environ, "PYTHONPATH": str(folder / "site" / runtime)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert result.stdout, result.stderr
        report = json.loads(result.stdout)
        assert report["exit_code"] == result.returncode
        return report

    return check


def build(model, target, candidate, samples, output):
    """Build one candidate of a target; nothing is timed, which is not this machine's to do."""
    profile = load_target(target)
    stages = {item.name: item.name == candidate for item in profile.enabled_candidates()}
    made = api.optimize(
        model,
        target=profile,
        output=output,
        calibration=samples,
        stages=stages,
        latency_budget_s=None,
        repair_budget_s=None,
    )
    assert made.report.chosen == candidate, str(made)
    return output


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory):
    """MobileNetV2 for each of `KINDS`."""
    folder, built = tmp_path_factory.mktemp("mobilenet"), {}
    random = np.random.default_rng(1)
    samples = [
        {"image": random.standard_normal((2, 3, 64, 64)).astype(np.float32)} for _ in range(4)
    ]
    model = make_mobilenet(folder / "mobilenetv2.onnx")

    def make(kind):
        if kind not in built:
            built[kind] = build(model, *KINDS[kind], samples, folder / kind)
        return built[kind]

    return make


def failed(report):
    return [
        (item["name"], item["detail"]) for item in report["checks"] if item["status"] != "passed"
    ]


@pytest.mark.parametrize("runtime", [OLD, NEW])
def test_the_demo(arm64, tmp_path, runtime):
    model, calibration, _ = astuple(demo_files())
    bundle = build(model, "cpu-int8", "static", calibration, tmp_path / "digits")
    report = arm64(bundle, runtime)
    assert failed(report) == []
    assert report["status"] == "ok"


@pytest.mark.parametrize("runtime", [OLD, NEW])
@pytest.mark.parametrize("kind", KINDS)
def test_mobilenet(arm64, mobilenet, kind, runtime):
    report = arm64(mobilenet(kind), runtime)
    assert failed(report) == []
    assert report["outputs"]["scores"]["original"]["cosine"] > 0.99


def test_signed_and_unsigned_activations_are_as_near(arm64, mobilenet):
    """Kernels that saturate would show in one of the two."""
    found = {
        kind: arm64(mobilenet(kind), NEW)["outputs"]["scores"]["original"]["sqnr_db"]
        for kind in ("s8s8", "u8s8")
    }
    assert min(found.values()) > 20
    assert abs(found["s8s8"] - found["u8s8"]) < 3


def test_a_cpu_without_dot_products(arm64, mobilenet):
    refused = arm64(mobilenet("s8s8"), NEW, cpu="cortex-a53")
    assert failed(refused) == [("device", "the CPU lacks asimddp")]
    assert refused["exit_code"] == 2
    assert failed(arm64(mobilenet("edge"), OLD, cpu="cortex-a53")) == []


def test_a_bundle_that_is_too_new_is_refused_before_it_is_loaded(arm64, tmp_path):
    bundle = make_bundle(tmp_path, opset=22)
    report = arm64(bundle, OLD)
    assert failed(report) == [("device", f"onnxruntime 1.21 or newer is needed, here is {OLD}")]
    assert report["exit_code"] == 2
    assert failed(arm64(bundle, NEW)) == []
