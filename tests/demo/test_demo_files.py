"""The demo's files: small, complete, held out, and good enough to show something."""

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt.demo import demo_files

LIMIT_BYTES = 2_000_000


@pytest.fixture(scope="module")
def files():
    return demo_files()


def accuracy(model_path, evaluation):
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": evaluation["image"]})
    return float(np.mean(logits.argmax(axis=1) == evaluation["__labels__"]))


def test_model_and_data_stay_below_two_megabytes(files):
    paths = (files.model, files.calibration, files.evaluation)
    assert sum(path.stat().st_size for path in paths) <= LIMIT_BYTES


def test_model_takes_any_batch(files):
    graph = onnx.load(files.model).graph
    dims = graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [1, 32, 32]


def test_model_tells_nothing_about_the_machine_that_made_it(files):
    content = files.model.read_bytes()
    assert b"site-packages" not in content
    assert b"train.py" not in content


def test_float_model_reads_the_held_out_digits(files):
    evaluation = np.load(files.evaluation)
    assert len(evaluation["__labels__"]) >= 300
    assert evaluation["__labels__"].dtype == np.int64
    assert accuracy(files.model, evaluation) >= 0.97


def test_accuracy_is_not_blind(files):
    evaluation = dict(np.load(files.evaluation))
    evaluation["__labels__"] = (evaluation["__labels__"] + 1) % 10
    assert accuracy(files.model, evaluation) <= 0.05


def test_calibration_and_evaluation_share_no_image(files):
    calibration = np.load(files.calibration)["image"]
    evaluation = np.load(files.evaluation)["image"]
    assert calibration.dtype == evaluation.dtype == np.float32
    assert len(calibration) <= 64
    seen = {image.tobytes() for image in calibration}
    assert not any(image.tobytes() in seen for image in evaluation)
