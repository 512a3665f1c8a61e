"""Estimators of scikit-learn, through skl2onnx."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .loaded import ExportError, Opset

__all__ = ["export_sklearn"]

_ROWS = (1, 5, 16)
_SCALES = (1.0, 0.1, 10.0, 100.0)
"""Of the rows by turns: nothing says what an estimator was fitted on, and a tree that is only shown
small numbers answers from one leaf."""

_ML_DOMAIN, _ML_VERSION = "ai.onnx.ml", 3
"""The newest that every converter writes; without it some stop at version 1 and some ask for 4."""


def export_sklearn(
    path: str, out: Path, *, opset: Opset, trust: bool
) -> tuple[dict[str, Any], Any]:
    """Write ONNX of a stored estimator; return what was done, and cases to compare with.

    Args:
        path: What skops, joblib or pickle wrote.
        out: The file.
        opset: Version of the operators.
        trust: Whether types that skops does not know may be loaded.

    Raises:
        ExportError: It is no fitted estimator that takes a table of numbers, or cannot be
            converted.
    """
    import numpy as np

    estimator = _loaded(path, trust=trust)
    name = type(estimator).__name__
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise ExportError(f"`{name}` is no fitted estimator that takes a table of numbers")
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((max(_ROWS), width)) * np.resize(_SCALES, max(_ROWS))[:, None]
    rows = rows.astype(np.float32)
    model = _converted(estimator, rows[:1], opset)
    ranks = [len(value.type.tensor_type.shape.dim) for value in model.graph.output]
    cases = []
    for count in _ROWS:
        # The same numbers in double precision, which is what it was fitted in.
        results = _results(estimator, rows[:count].astype(np.float64))
        wanted = [_ranked(*pair) for pair in zip(results, ranks, strict=False)]
        cases.append(([rows[:count]], wanted))
    _state_shapes(model, cases[0][1])
    out.write_bytes(model.SerializeToString())
    return {
        "exporter": "skl2onnx",
        "file": str(out),
        "failures": {},
        "doubts": [],
        "names": {},
        "origin": {"estimator": name},
    }, cases


def _loaded(path: str, *, trust: bool) -> Any:
    if not path.endswith(".skops"):
        import joblib

        return joblib.load(path)
    from skops import io

    unknown = io.get_untrusted_types(file=path)
    if unknown and not trust:
        raise ExportError(
            f"it holds types that skops does not know: {', '.join(unknown[:5])}; loading them can "
            "run any code: add `--trust` if you know where it comes from"
        )
    return io.load(path, trusted=unknown)


def _results(estimator: Any, rows: Any) -> Iterator[Any]:
    """Yield what the converter returns, in its order: labels with scores, or numbers alone.

    Numbers have single precision there.
    """
    import numpy as np
    from sklearn.base import is_regressor

    if not hasattr(estimator, "predict"):
        yield _numbers(estimator.transform(rows))
        return
    found = np.asarray(estimator.predict(rows))
    if is_regressor(estimator):
        yield _numbers(found)
        return
    yield found.astype(np.int64) if found.dtype.kind in "bi" else found
    for method in ("predict_proba", "decision_function", "transform"):
        if hasattr(estimator, method):
            scores = getattr(estimator, method)(rows)
            # Of several labels a sequence, one table for each: they are compared by the labels.
            if not isinstance(scores, list):
                yield _numbers(scores)
            return


def _numbers(values: Any) -> Any:
    import numpy as np

    # Sparse results, as of a vectorizer, are dense in the exported model.
    if hasattr(values, "toarray"):
        values = values.toarray()
    return np.asarray(values, np.float32)


def _ranked(values: Any, rank: int) -> Any:
    """Return a row of values as a column where the converter does."""
    return values[:, None] if values.ndim == 1 and rank == 2 else values  # noqa: PLR2004


def _converted(estimator: Any, row: Any, opset: Opset) -> Any:
    try:
        model = _written(estimator, row, opset)
    except Exception as error:  # converters raise what they like
        said = " ".join(str(error).split())
        raise ExportError(f"skl2onnx: {type(error).__name__}: {said[:300]}") from error
    kept = {one.domain: one.version for one in model.opset_import}  # it may name one twice
    del model.opset_import[:]
    for domain, version in kept.items():
        model.opset_import.add(domain=domain, version=version)
    return model


def _written(estimator: Any, row: Any, opset: Opset) -> Any:
    from skl2onnx import get_latest_tested_opset_version, to_onnx
    from sklearn.base import is_classifier

    versions = {_ML_DOMAIN: _ML_VERSION, "": opset.chosen(get_latest_tested_opset_version())}
    if is_classifier(estimator):
        # Probabilities as one tensor, not as a sequence of maps; not every classifier has any.
        plain = {id(estimator): {"zipmap": False}}
        # skl2onnx says so of an option that a converter does not know.
        with contextlib.suppress(NameError):
            return to_onnx(estimator, row, target_opset=versions, options=plain)
    return to_onnx(estimator, row, target_opset=versions)


def _state_shapes(model: Any, results: list[Any]) -> None:
    """Let the file say how wide its outputs are: the converter's word is wrong for some."""
    for value, array in zip(model.graph.output, results, strict=False):
        if not value.type.HasField("tensor_type"):
            continue
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add(dim_param="rows")
        for size in array.shape[1:]:
            shape.dim.add(dim_value=size)
