"""Each metric: the value calculated by hand, and a wrong pair that it must tell from a right one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.errors import MetricError, RunError, UnknownNameError
from graphopt.verification import evaluate, load_metric, metric_names


class Model:
    """Returns canned outputs, one after the other, and records what it was fed."""

    def __init__(self, *outputs):
        self.outputs = outputs
        self.fed = []

    def run(self, feeds):
        outputs = self.outputs[len(self.fed)]
        self.fed.append(feeds)
        return outputs if isinstance(outputs, dict) else {"y": np.asarray(outputs)}


class Samples:
    def __init__(self, count, labels):
        self.count = count
        self.labels = None if labels is None else np.asarray(labels)

    def __iter__(self):
        return iter([{"x": np.float32(index)} for index in range(self.count)])


def value(name, outputs, labels):
    return evaluate(load_metric(name), Model(*outputs), Samples(len(outputs), labels))


SCORES = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], np.float32)


def test_names():
    assert metric_names() == ("top1", "f1", "spearman", "mse", "perplexity")


def test_top1():
    assert value("top1", [SCORES], [0, 1, 2, 0]) == 1.0
    assert value("top1", [SCORES], [0, 1, 2, 1]) == 0.75
    assert value("top1", [SCORES], [1, 2, 0, 1]) == 0.0


def test_top1_row_by_row_is_the_same_as_in_one_batch():
    rows = [SCORES[index : index + 1] for index in range(4)]
    assert value("top1", rows, [0, 1, 2, 1]) == 0.75


def test_top1_of_class_outputs_and_of_tokens():
    assert value("top1", [np.array([0, 1, 2])], [0, 1, 1]) == pytest.approx(2 / 3)
    tokens = np.stack([SCORES, SCORES])
    assert value("top1", [tokens], [[0, 1, -100, -100], [1, 1, 2, -100]]) == 0.8


def test_f1_of_two_classes_is_that_of_class_one():
    scores = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)  # 1 1 0 0 1
    # true 1 0 1 0 1: two hits, three predicted, three true
    assert value("f1", [scores], [1, 0, 1, 0, 1]) == pytest.approx(2 / 3)
    assert value("f1", [scores], [1, 1, 0, 0, 1]) == 1.0
    assert value("f1", [scores], [0, 0, 1, 1, 0]) == 0.0


def test_f1_of_more_classes_is_the_mean_over_classes():
    # predicted 0 1 2 0, true 0 1 2 1: F1 is 2/3, 2/3 and 1
    assert value("f1", [SCORES], [0, 1, 2, 1]) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_spearman_with_ties():
    predicted = np.array([[1.0], [2.0], [2.0], [9.0]], np.float32)
    assert value("spearman", [predicted], [0.1, 0.2, 0.2, 0.3]) == pytest.approx(1.0)
    assert value("spearman", [predicted], [0.3, 0.2, 0.2, 0.1]) == pytest.approx(-1.0)
    # ranks 1 2.5 2.5 4 against 2 1 3 4: deviations multiply to 3, squares sum to 4.5 and 5
    assert value("spearman", [predicted], [2, 1, 3, 4]) == pytest.approx(3 / math.sqrt(4.5 * 5))


def test_spearman_of_constant_predictions_is_an_error():
    with pytest.raises(MetricError, match="not defined"):
        value("spearman", [np.ones((3, 1), np.float32)], [1, 2, 3])


def test_mse():
    assert value("mse", [np.array([[1.0], [2.0]])], [1.0, 4.0]) == 2.0
    assert value("mse", [np.array([[1.0], [2.0]])], [1.0, 2.0]) == 0.0


def test_perplexity():
    uniform = np.zeros((1, 3, 4), np.float32)
    assert value("perplexity", [uniform], [[0, 3, 1]]) == pytest.approx(4.0)
    sure = uniform.copy()
    sure[0, :, 1] = 1000.0
    assert value("perplexity", [sure], [[1, 1, -100]]) == pytest.approx(1.0)
    assert value("perplexity", [sure], [[1, 0, 1]]) > 1e100


def test_perplexity_joins_samples_by_token():
    sharp = np.log(np.array([[[0.5, 0.5]]], np.float32))
    outputs = [sharp, np.zeros((1, 1, 2), np.float32) + np.log([0.125, 0.875])]
    expected = math.exp(-(math.log(0.5) + math.log(0.125)) / 2)
    assert value("perplexity", outputs, [[0], [0]]) == pytest.approx(expected)


def test_label_outside_the_vocabulary():
    with pytest.raises(MetricError, match="not in the vocabulary"):
        value("perplexity", [np.zeros((1, 2, 4), np.float32)], [[0, 4]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "fewer labels than rows"),
        ([0, 1, 2, 0, 1], "more labels than rows"),
        ([[0, 1], [1, 1], [0, 0], [1, 0]], "labels do not fit the output"),
        (None, "needs labelled samples"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(MetricError, match=message):
        value("top1", [SCORES], labels)


def test_scores_that_hold_no_classes():
    with pytest.raises(MetricError, match="classes cannot be read"):
        value("top1", [np.zeros((4, 1), np.float32)], [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("top1", [0.0, 1.0, np.nan, 0.0], "labels are no classes"),
        ("top1", [0.0, 1.0, 0.5, 0.0], "labels are no classes"),
        ("f1", [1, 2, 3, 1], "none of the classes"),  # counted from 1
        ("top1", [0, 1, 2, -1], "none of the classes"),
        ("top1", ["cat", "dog", "cow", "cat"], "labels do not fit the output"),
    ],
)
def test_labels_that_no_prediction_could_meet(name, labels, message):
    """Of a metric that is 0 whatever the model says, any model is as good as the original."""
    with pytest.raises(MetricError, match=message):
        value(name, [SCORES], labels)


def test_a_rank_correlation_with_what_is_no_number_is_refused():
    with pytest.raises(MetricError, match="a label is NaN or infinite"):
        value("spearman", [np.arange(4.0)], [0.0, 1.0, np.nan, 2.0])


def test_classes_may_be_text_or_any_whole_numbers_where_the_output_has_no_scores():
    text = np.array(["cat", "dog"], dtype=object)
    assert value("top1", [text], ["cat", "cow"]) == 0.5
    assert value("top1", [np.array([-1, 1])], [-1, -1]) == 0.5
    assert value("top1", [SCORES], [0.0, 1.0, 2.0, -100.0]) == 1.0
    assert value("top1", [SCORES[:2, :2]], [False, True]) == 1.0


def test_only_ignored_labels_measure_nothing():
    with pytest.raises(MetricError, match="nothing to measure"):
        value("top1", [SCORES], [-100] * 4)


def test_which_output_is_measured():
    wrong = np.roll(SCORES, 1, axis=1)
    labels = [0, 1, 2, 0]
    assert value("top1", [{"label": np.array([9, 9, 9, 9]), "scores": SCORES}], labels) == 1.0
    assert value("top1", [{"hidden": wrong, "logits": SCORES}], labels) == 1.0
    assert value("top1", [{"hidden": wrong, "scores": SCORES}], labels) == 0.0


def test_built_in_metric_without_samples():
    with pytest.raises(MetricError, match="there are no samples"):
        evaluate(load_metric("top1"), Model())


def test_function_is_given_predict():
    def accuracy(predict):
        return float(predict({"x": np.float32(7)})["y"])

    metric = load_metric(accuracy)
    model = Model(0.25)
    assert evaluate(metric, model) == 0.25
    assert model.fed == [{"x": np.float32(7)}]
    assert (metric.name, metric.higher_is_better, metric.needs_samples) == ("accuracy", True, False)


def test_function_may_say_that_lower_is_better():
    def loss(predict):
        return 1.0

    loss.higher_is_better = False
    assert load_metric(loss).drop(1.0, 1.5) == 0.5


@pytest.mark.parametrize("returned", [None, "high", [1, 2], math.nan, math.inf])
def test_function_must_return_a_finite_number(returned):
    with pytest.raises(MetricError):
        evaluate(load_metric(lambda predict: returned), Model())


def test_function_from_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_metrics_module.py").write_text(
        "def half(predict):\n    return 0.5\nother = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    metric = load_metric("my_metrics_module:half")
    assert metric.name == "my_metrics_module:half"
    assert evaluate(metric, Model()) == 0.5
    with pytest.raises(MetricError, match="cannot be found") as caught:
        load_metric("my_metrics_module:other")
    assert "only a int" in caught.value.why
    with pytest.raises(MetricError, match="cannot be found"):
        load_metric("my_metrics_module:none")
    with pytest.raises(MetricError, match="cannot be found"):
        load_metric("no_such_module_here:half")


def test_function_that_raises_is_the_users_to_mend(tmp_path, monkeypatch):
    def broken(predict):
        return predict({"x": np.float32(7)})["no such output"]

    with pytest.raises(MetricError, match="`broken`") as caught:
        evaluate(load_metric(broken), Model(0.25))
    assert "KeyError" in caught.value.why

    def unlucky(predict):
        raise RunError("the model failed")

    with pytest.raises(RunError):
        evaluate(load_metric(unlucky), Model(0.25))
    (tmp_path / "metric_with_a_slip.py").write_text("def half(predict)\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetricError, match="`metric_with_a_slip`") as caught:
        load_metric("metric_with_a_slip:half")
    assert "SyntaxError" in caught.value.why


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        load_metric("top_1")
    assert "`top1`" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "before", "after", "drop"),
    [
        ("top1", 0.9, 0.88, 0.02),
        ("top1", 0.9, 0.95, -0.05),
        ("spearman", 0.8, 0.5, 0.3),
        ("perplexity", 20.0, 21.0, 0.05),
        ("mse", 2.0, 1.0, -0.5),
        ("mse", 0.0, 0.0, 0.0),
        ("mse", 0.0, 1.0, math.inf),
    ],
)
def test_drop(name, before, after, drop):
    assert load_metric(name).drop(before, after) == pytest.approx(drop)
