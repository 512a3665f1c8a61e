"""Quantizing small models for samples, and how far their outputs move."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import save
from graphopt.pipeline import Ledger, PassManager, Pipeline
from graphopt.rewrite import TargetFacts
from graphopt.runtime import shared_worker


def quantize(model: ir.Model, passes: str, samples: list[dict[str, np.ndarray]]) -> Ledger:
    """Run passes on a model, calibrated with samples; nothing is rolled back for its numbers."""
    manager = PassManager(
        verify="structure",
        target=TargetFacts(),
        statistics_provider=Calibrator(samples=load_samples(samples), worker=shared_worker()),
        reproducer_dir=None,
    )
    return manager.run(model, Pipeline.parse(passes)).ledger


def outputs_of(folder, model, samples):
    """Return what a model computes of each sample, as the runtime loads it by default."""
    save(model, folder / "model.onnx")
    with shared_worker().load(folder / "model.onnx") as session:
        return [session.run(sample) for sample in samples]


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the signal-to-noise ratio in dB; infinite where both are the same."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))
