"""Estimators of scikit-learn, and a program of PyTorch."""

import pickle

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt import api
from graphopt.errors import InputError, NumericMismatch, UsageError


def test_labels_and_probabilities_are_compared_at_several_sizes(export, sources):
    source = f"sklearn:{sources / 'forest.joblib'}"
    with pytest.raises(UsageError, match="is pickled"):
        export(source)
    report = export(source, trust=True)
    assert report.exporter == "skl2onnx"
    assert report.origin == {"estimator": "RandomForestClassifier"}
    assert [case.shapes["X"] for case in report.cases] == [(1, 4), (5, 4), (16, 4)]
    assert all(list(case.outputs) == ["label", "probabilities"] for case in report.cases)
    assert report.largest_difference() <= 1e-5
    session = onnxruntime.InferenceSession(str(report.path))
    labels, shares = session.run(None, {"X": np.float32([[3, 3, 0, 0], [-3, -3, 0, 0]])})
    assert list(labels) == ["yes", "no"]
    assert list(shares.argmax(1)) == [1, 0]


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("plain.pkl", {"label": [None], "probabilities": [None, 2]}),
        ("margins.joblib", {"label": [None], "probabilities": [None, 1]}),
        ("numbers.joblib", {"variable": [None, 1]}),
        ("pairs.joblib", {"variable": [None, 2]}),
        ("outliers.joblib", {"label": [None, 1], "scores": [None, 1]}),
        ("scaler.joblib", {"variable": [None, 4]}),
    ],
)
def test_the_file_says_what_its_outputs_are(export, sources, name, outputs):
    report = export(f"sklearn:{sources / name}", trust=True)
    proto = onnx.load(report.path)
    onnx.checker.check_model(proto, full_check=True)
    sizes = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.output
    }
    assert sizes == outputs
    domains = [one.domain for one in proto.opset_import]
    assert len(domains) == len(set(domains))


def test_skops_needs_no_trust_for_what_it_knows(export, sources):
    assert export(f"sklearn:{sources / 'scaled.skops'}").origin["estimator"] == "Pipeline"
    with pytest.raises(InputError) as caught:
        export(f"sklearn:{sources / 'forest.skops'}", force=True)
    assert "types that skops does not know" in caught.value.why
    assert "`--trust`" in caught.value.why


def test_what_cannot_be_converted_is_told(export, sources, tmp_path):
    with pytest.raises(InputError) as caught:
        export(f"sklearn:{sources / 'unfitted.joblib'}", trust=True)
    assert "no fitted estimator" in caught.value.why
    # The converter's two columns for two classes are the other way round.
    with pytest.raises(NumericMismatch) as wrong:
        export(f"sklearn:{sources / 'swapped.joblib'}", trust=True)
    assert "shape [1, 2], expected [1, 1]" in wrong.value.why
    assert not (tmp_path / "out").exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["bomb.joblib", "bomb.pkl", "bomb.pt2", "bomb.skops"])
def test_a_bomb_does_not_go_off(export, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(str(tmp_path / "exploded"))))
    kind = "" if name.endswith(".pt2") else "sklearn:"
    with pytest.raises((UsageError, InputError)):
        export(f"{kind}{tmp_path / name}")
    assert {item.name for item in tmp_path.iterdir()} == {name}


def test_optimize_says_that_there_is_nothing_to_quantize(interpreter, sources):
    made = api.optimize(
        f"sklearn:{sources / 'forest.joblib'}",
        target="cpu-int8",
        trust=True,
        interpreter=interpreter,
        latency_budget_s=None,
    )
    assert made.report.gates_met
    assert any("found nothing to change" in note for note in made.report.notes)


def test_a_saved_program_is_exported(export, sources):
    report = export(str(sources / "program.pt2"), trust=True)
    assert (report.exporter, report.origin["program"]) == ("dynamo", "program.pt2")
    assert report.largest_difference() <= 1e-5
