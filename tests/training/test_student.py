"""Training: it learns, it repeats itself, it ends when it should, and it changes what it may."""

import numpy as np
import pytest

from graphopt.ir import from_text
from graphopt.training import Objective, Recipe, TorchModel, has_torch, train, trainable_weights
from graphopt.training.array_store import ArrayStore

pytestmark = pytest.mark.skipif(not has_torch(), reason="torch is not installed (extra `torch`)")
MODEL = """(float[N,3] x) => (float[N,2] y)
<float[3,4] w = {1,0,1,0, 0,1,0,1, 1,1,0,0}, float[4] b = {0,0,0,0}, float[4,2] v = {1,0, 0,1, 1,0, 0,1}>
{ h = MatMul(x, w)  s = Add(h, b)  r = Relu(s)  y = MatMul(r, v) }"""
FIXED = MODEL.replace("float[N,3] x", "float[1,3] x")


def lessons(folder, count=40, rows=1):
    """Return samples whose teacher is the model with other weights."""
    model = from_text(MODEL)
    teacher = TorchModel(model, trainable=["w", "v"])
    rng = np.random.default_rng(0)
    for tensor in teacher.parameters.values():
        tensor.data += 0.3 * teacher._torch.as_tensor(rng.normal(size=tuple(tensor.shape)))
    store = ArrayStore(folder)
    for _ in range(count):
        x = rng.normal(size=(rows, 3)).astype(np.float32)
        store.append({"x": x, "teacher:y": teacher({"x": x})["y"].detach().numpy()})
    return store


def taught(store, text=MODEL, objective=None, **settings):
    model = from_text(text)
    student = TorchModel(model, trainable=trainable_weights(model))
    recipe = Recipe(**{"steps": 60, "batch": 8, "rate": 0.02, "minutes": 0.0, **settings})
    return train(student, store, objective or Objective(outputs=("y",)), recipe)


@pytest.mark.parametrize("text", [MODEL, FIXED], ids=["joined", "one by one"])
def test_the_loss_falls_and_the_best_weights_are_kept(tmp_path, text):
    store = lessons(tmp_path)
    found = taught(store, text, patience=99)
    assert found.after < 0.2 * found.before
    assert found.ended == "all steps"
    assert set(found.weights) == {"w", "b", "v"}
    assert taught(store, text, steps=1, rate=0.0).after == found.before


def test_the_same_seed_gives_the_same_weights(tmp_path):
    store = lessons(tmp_path)
    one, other = taught(store), taught(store)
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert not np.array_equal(one.weights["w"], taught(store, seed=1).weights["w"])


def test_it_never_returns_weights_that_are_worse(tmp_path):
    found = taught(lessons(tmp_path), rate=100.0, steps=12, checks=4, patience=2)
    assert found.after == found.before
    assert found.ended == "no better"
    assert found.steps == 6
    np.testing.assert_array_equal(found.weights["b"], np.zeros(4, np.float32))


def test_it_ends_when_time_is_up_or_numbers_are(tmp_path):
    store = lessons(tmp_path)
    assert taught(store, minutes=1e-9).ended == "time is up"
    assert taught(store, minutes=1e-9).steps == 1
    found = taught(store, rate=float("inf"), steps=5, checks=1)
    assert found.ended == "not finite"
    assert all(np.isfinite(array).all() for array in found.weights.values())


def test_a_student_that_is_right_has_nothing_to_learn(tmp_path):
    store = ArrayStore(tmp_path)
    model = TorchModel(from_text(MODEL))
    for value in (1.0, 2.0):
        x = np.full((1, 3), value, np.float32)
        store.append({"x": x, "teacher:y": model({"x": x})["y"].numpy()})
    found = taught(store)
    assert (found.before, found.after, found.steps) == (0.0, 0.0, 0)


def test_it_says_how_far_it_has_come(tmp_path):
    said = []
    model = from_text(MODEL)
    student = TorchModel(model, trainable=["w"])
    train(student, lessons(tmp_path), Objective(outputs=("y",)), Recipe(steps=3), said.append)
    assert len(said) == 3
    assert said[0].startswith("step 1 of 3, loss ")
    assert said[-1].endswith("0.0 min of CPU left")


# -- what is compared --------------------------------------------------------------------------


def loss_of(objective, student, teacher, **feeds):
    import torch

    pair = ({"y": torch.tensor(value, dtype=torch.float32)} for value in (student, teacher))
    return float(objective(*pair, {name: np.array(value) for name, value in feeds.items()}))


def test_squared_errors_are_over_the_energy_and_positions_of_padding_do_not_count():
    plain = Objective(outputs=("y",))
    assert loss_of(plain, [[2.0, 0.0]], [[1.0, 0.0]]) == pytest.approx(1.0)
    assert loss_of(plain, [[20.0, 0.0]], [[10.0, 0.0]]) == pytest.approx(1.0)
    masked = Objective(outputs=("y",), mask="m")
    rows = [[[1.0, 1.0], [9.0, 9.0]]]
    goal = [[[1.0, 1.0], [1.0, 1.0]]]
    assert loss_of(masked, rows, goal, m=[[1, 0]]) == 0.0
    assert loss_of(masked, rows, goal, m=[[1, 1]]) > 1.0


def test_pooled_cosines_look_at_the_mean_of_what_counts():
    pooled = Objective(outputs=("y",), mask="m", loss="cosine", pool="mean")
    goal = [[[1.0, 1.0], [3.0, 1.0], [7.0, -9.0]]]
    other = [[[8.0, 4.0], [0.0, 0.0], [1.0, 5.0]]]
    assert loss_of(pooled, other, goal, m=[[1, 1, 0]]) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(pooled, other, goal, m=[[1, 1, 1]]) > 0.1
    first = Objective(outputs=("y",), loss="cosine", pool="first")
    assert loss_of(first, [[[2.0, 2.0], [5.0, 0.0]]], goal[:1]) == pytest.approx(0.0, abs=1e-6)


def test_logits_are_compared_as_distributions():
    divergence = Objective(outputs=("y",), loss="kl")
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = float((p * np.log(p / q)).sum())
    found = loss_of(divergence, [(np.log(q) + 5.0).tolist()], [np.log(p).tolist()])
    assert found == pytest.approx(expected, rel=1e-5)


def test_similarities_of_samples_count():
    alike = Objective(outputs=("y",), loss="cosine", similarity=1.0)
    turned = loss_of(alike, [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert turned == pytest.approx(1.0)  # the cosine of each row is 0, those of pairs are right
    assert loss_of(alike, [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]) > turned


# -- what is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (MODEL, ["w", "b", "v"]),
        (MODEL.replace("float[N,3] x", "float[N,3] x, float[3,4] w"), ["v"]),
        (
            (
                "(int64[N] i) => (float[N,2] y) <float[3,2] t = {1,1,1,1,1,1}, float[2,2] w = {1,1,1,1}> "
                "{ e = Gather(t, i)  y = MatMul(e, w) }"
            ),
            ["w"],
        ),
        (
            (
                "(float[N,1] p, float[N,2] x) => (float[N,2] y) <float[1,2] f = {1, 2}, float[2,2] w = {1,1,1,1}, "
                "float[2] m = {0, -inf}> { a = Mul(p, f)  s = Sin(a)  h = MatMul(x, w)  k = Add(h, m)  y = Add(k, s) }"
            ),
            ["w"],
        ),
    ],
    ids=["weights", "overridable", "table", "positions and masks"],
)
def test_weights_of_layers_are_trained_and_nothing_else(text, names):
    assert trainable_weights(from_text(text)) == names


def test_tables_can_be_trained_and_names_left_out():
    text = (
        "(int64[N] i) => (float[N,2] y) <float[3,2] t = {1,1,1,1,1,1}, float[2,2] w = {1,1,1,1}> "
        "{ e = Gather(t, i)  y = MatMul(e, w) }"
    )
    assert trainable_weights(from_text(text), embeddings=True) == ["t", "w"]
    assert trainable_weights(from_text(text), embeddings=True, exclude=("w*",)) == ["t"]
