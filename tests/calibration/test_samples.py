"""Samples from files, folders, functions and feeds."""

import io
import sys
import weakref
import zipfile

import numpy as np
import pytest

from graphopt.calibration import LABELS, Samples, load_samples
from graphopt.calibration.survey import Survey
from graphopt.errors import CalibrationDataError, UnsupportedModelError
from graphopt.runtime import TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
IMAGE = TensorSpec("image", "float32", ("batch", 1, 2))


def image(*values):
    return np.array(values, np.float32).reshape(-1, 1, 2)


def values(samples):
    return [{name: array.tolist() for name, array in feed.items()} for feed in samples]


def failure(call, *arguments, **keywords):
    with pytest.raises(CalibrationDataError) as caught:
        call(*arguments, **keywords)
    return caught.value


@pytest.mark.parametrize("read", [Samples.check, Survey.of], ids=["checked", "surveyed"])
def test_no_sample_is_held_while_the_next_one_is_read(read):
    seen = []

    def images():
        for number in range(3):
            assert not [True for known in seen if known() is not None]
            array = image(number, 1)
            seen.append(weakref.ref(array))
            feed = {"image": array}
            del array
            yield feed
            del feed

    read(load_samples(images), [IMAGE])
    assert len(seen) == 3


def test_npz_is_one_feed(tmp_path):
    np.savez(tmp_path / "a.npz", image=image(1, 2, 3, 4), scale=np.float32(2))
    samples = load_samples(tmp_path / "a.npz")
    assert values(samples) == [{"image": [[[1.0, 2.0]], [[3.0, 4.0]]], "scale": 2.0}]
    assert values(samples) == values(samples)
    assert len(samples) == 1
    assert samples.labels is None


def test_npy_is_for_the_only_input(tmp_path):
    np.save(tmp_path / "a.npy", image(1, 2))
    assert values(load_samples(tmp_path / "a.npy", inputs=[IMAGE])) == [{"image": [[[1.0, 2.0]]]}]
    error = failure(list, load_samples(tmp_path / "a.npy", inputs=[IMAGE, IDS]))
    assert "several inputs" in error.why


def test_folder_is_read_in_order_of_names(tmp_path):
    for name, value in (("b", 2), ("a", 1), ("c", 3)):
        np.savez(tmp_path / f"{name}.npz", ids=np.array([[value]]))
    (tmp_path / "README.txt").write_text("about these samples")
    assert [feed["ids"].item() for feed in load_samples(str(tmp_path))] == [1, 2, 3]


def test_labelled_samples_are_cut_into_rows(tmp_path):
    np.savez(tmp_path / "a.npz", image=image(1, 2, 3, 4), **{LABELS: np.array([7, 8])})
    samples = load_samples(tmp_path / "a.npz")
    assert values(samples) == [{"image": [[[1.0, 2.0]]]}, {"image": [[[3.0, 4.0]]]}]
    assert samples.labels.tolist() == [7, 8]


def test_labels_of_another_length_belong_to_the_whole_sample(tmp_path):
    np.savez(tmp_path / "a.npz", image=image(1, 2, 3, 4), **{LABELS: np.array([7, 8, 9])})
    samples = load_samples(tmp_path / "a.npz")
    assert len(samples) == 1
    assert samples.labels.tolist() == [[7, 8, 9]]


def test_labels_of_different_shapes_are_kept_apart():
    feeds = [{"ids": np.zeros((1, n), int), LABELS: np.arange(n)} for n in (2, 3)]
    assert [label.tolist() for label in load_samples(feeds).labels] == [[0, 1], [0, 1, 2]]


def test_labels_on_some_samples_only_are_an_error():
    feeds = [{"ids": np.zeros((1, 1), int), LABELS: np.array([1])}, {"ids": np.zeros((1, 1), int)}]
    with pytest.raises(CalibrationDataError, match="1 of 2 samples have no labels"):
        _ = load_samples(feeds).labels


def test_function_is_called_for_every_pass(tmp_path, monkeypatch):
    (tmp_path / "sampling_for_a_test.py").write_text(
        "calls = []\ndef feeds():\n    calls.append(1)\n"
        "    return ({'ids': [[n]]} for n in range(2))\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    samples = load_samples("sampling_for_a_test:feeds")
    assert sys.path == path
    assert values(samples) == values(samples) == [{"ids": [[0]]}, {"ids": [[1]]}]
    assert len(sys.modules["sampling_for_a_test"].calls) == 2


def test_function_that_raises_is_the_users_to_mend(tmp_path, monkeypatch):
    (tmp_path / "sampling_that_fails.py").write_text(
        "def feeds():\n    yield {'ids': [[0]]}\n    raise KeyError('lost')\n"
        "def wants(count):\n    return []\n"
    )
    (tmp_path / "sampling_with_a_slip.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert "KeyError: 'lost'" in failure(list, load_samples("sampling_that_fails:feeds")).why
    assert "TypeError" in failure(list, load_samples("sampling_that_fails:wants")).why
    assert "ZeroDivisionError" in failure(load_samples, "sampling_with_a_slip:feeds").why
    assert sys.path == path


def test_iterator_is_kept_and_function_is_not():
    samples = load_samples({"ids": np.array([[n]])} for n in range(2))
    assert values(samples) == values(samples) == [{"ids": [[0]]}, {"ids": [[1]]}]
    assert values(load_samples(lambda: iter([{"ids": [[5]]}]))) == [{"ids": [[5]]}]


def test_digest_follows_content_only(tmp_path):
    np.savez(tmp_path / "a.npz", ids=np.array([[1]]), image=image(1, 2))
    np.savez_compressed(tmp_path / "b.npz", image=image(1, 2), ids=np.array([[1]]))
    first, second = load_samples(tmp_path / "a.npz"), load_samples(tmp_path / "b.npz")
    assert first.digest() == second.digest()
    base = {"ids": np.array([[1]])}
    others = [
        [{"ids": np.array([[2]])}],
        [{"ids": np.array([[1]], np.int32)}],
        [{"ids": np.array([1])}],
        [{"idx": np.array([[1]])}],
        [base, base],
        [{**base, LABELS: np.array([[1]])}],
    ]
    digests = {load_samples(feeds).digest() for feeds in ([base], *others)}
    assert len(digests) == len(others) + 1


def test_samples_that_fit_pass():
    load_samples([{"ids": np.array([[1, 2]]), "image": image(1, 2)}]).check([IDS, IMAGE])


@pytest.mark.parametrize(
    ("feed", "message", "detail"),
    [
        ({"imag": image(1, 2)}, "unknown input `imag`", "did you mean `image`?"),
        ({}, "lack input `image`", "no arrays"),
        (
            {"image": image(1, 2).astype(np.float64)},
            "wrong type",
            "expected float32, found float64",
        ),
        ({"image": np.array([["a", "b"]])}, "wrong type", "expected float32"),
        ({"image": np.zeros((1, 1, 3), np.float32)}, "wrong shape", "expected (batch, 1, 2)"),
        ({"image": np.zeros((1, 2), np.float32)}, "wrong shape", "found (1, 2)"),
        ({"image": np.zeros((0, 1, 2), np.float32)}, "wrong shape", "found (0, 1, 2)"),
        ({"image": image(1, np.nan)}, "hold NaN or infinity", "1 of 2 elements"),
        ({"image": image(np.inf, 2)}, "hold NaN or infinity", "1 of 2 elements"),
    ],
)
def test_samples_that_do_not_fit_are_named(feed, message, detail):
    good = {"image": image(1, 2)}
    error = failure(load_samples([good, feed]).check, [IMAGE])
    assert message in error.message
    assert "sample 2" in error.where
    assert detail in f"{error.why} {error.hint}"
    assert error.exit_code == 2


def test_no_samples_are_an_error():
    assert "no samples" in failure(load_samples([]).check, [IMAGE]).message


def npz_of_objects():
    stream = io.BytesIO()
    np.savez(stream, image=np.array([{}], dtype=object))
    return stream.getvalue()


def npz_of_text():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("image.npy", "no array")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "expected an .npz or .npy file"),
        (b"\x89PNG\r\n\x1a\n", "expected an .npz or .npy file"),
        (npz_of_objects(), "never loaded"),
        (npz_of_objects()[:80], "expected an .npz or .npy file"),
        (npz_of_text(), "expected an .npz or .npy file"),
    ],
)
def test_unreadable_file_is_named(content, detail, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    for source in (tmp_path, tmp_path / "a.npz"):
        error = failure(list, load_samples(source))
        assert "`a.npz`" in error.message
        assert detail in error.why


def test_source_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no such file" in failure(load_samples, "nothing.npz").why
    assert "no such file" in failure(load_samples, tmp_path / "nothing").why
    assert "found none" in failure(load_samples, tmp_path).why
    assert "neither a file, nor a module" in failure(load_samples, "no_such_module:feeds").why
    assert "has no function `nothing`" in failure(load_samples, "json:nothing").why


def test_sequences_are_refused_and_not_stacked():
    parts = [np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    assert "are not arrays" in failure(list, load_samples([{"x": parts}])).message
    samples = load_samples([{"x": parts[:1]}])
    with pytest.raises(UnsupportedModelError, match="`x`"):
        samples.check([TensorSpec("x", "sequence(float32)", ())])


def test_samples_that_can_be_read_only_once_are_refused_by_name():
    held = iter([{"x": np.ones((1, 2), np.float32)} for _ in range(3)])
    samples = load_samples(lambda: held)
    samples.check([TensorSpec("x", "float32", (None, 2))])
    with pytest.raises(CalibrationDataError, match="others when they are read again") as caught:
        list(samples)
    assert caught.value.why == "3 at first, 0 now"


def test_bytes_in_the_other_order_are_said_to_be():
    """Else it would read: expected float32, found float32."""
    samples = load_samples([{"x": np.ones((1, 2), ">f4")}])
    found = failure(samples.check, [TensorSpec("x", "float32", (None, 2))])
    assert found.why == "expected float32, found float32 with its bytes in the other order"
