"""Estimators of scikit-learn, through skl2onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .loaded import ExportError

__all__ = ["export_sklearn"]

_ROWS = (1, 5, 16)


def export_sklearn(path: str, out: Path, *, opset: int | None) -> tuple[dict[str, Any], Any]:
    """Write ONNX of a pickled estimator; return what was done, and cases to compare with.

    Raises:
        ExportError: It is no fitted estimator.
    """
    import joblib
    import numpy as np
    from skl2onnx import to_onnx

    estimator = joblib.load(path)
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise ExportError(f"`{type(estimator).__name__}` is no fitted estimator")
    rows = np.random.default_rng(0).standard_normal((max(_ROWS), width)).astype(np.float32)
    is_classifier = hasattr(estimator, "predict_proba")
    options = {id(estimator): {"zipmap": False}} if is_classifier else None
    model = to_onnx(estimator, rows[:1], target_opset=opset, options=options)
    out.write_bytes(model.SerializeToString())
    cases = []
    for count in _ROWS:
        part = rows[:count]
        wanted = [np.asarray(estimator.predict(part))]
        if is_classifier:
            wanted.append(np.asarray(estimator.predict_proba(part), np.float32))
        elif wanted[0].ndim == 1:
            wanted = [wanted[0].astype(np.float32)[:, None]]
        cases.append(([part], wanted))
    name = type(estimator).__name__
    return {
        "exporter": "skl2onnx",
        "failures": {},
        "doubts": [],
        "origin": {"estimator": name},
    }, cases
