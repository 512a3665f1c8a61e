"""A bundle demands the order of the file only where less memory was measured with it."""

from types import SimpleNamespace

import pytest

from graphopt.runtime import SessionOptions
from graphopt.search import packaging
from graphopt.targets import load_target

TEXT = """
name = "small"
summary = "less memory"
[runtime]
order = "priority"
[[runtime.providers]]
name = "CPUExecutionProvider"
[pipeline]
order = "reorder-for-memory"
[candidates.order]
summary = "that alone"
pipeline = ""
"""


@pytest.fixture
def target(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(TEXT)
    return load_target(file)


def decided(target, monkeypatch, peaks):
    asked = []

    def measure(_path, _feed, options):
        asked.append(options.order)
        return SimpleNamespace(peak_rss_bytes=peaks[options.order] + len(asked))

    monkeypatch.setattr(packaging, "measure_cold_start", measure)
    bench = SimpleNamespace(target=target, options=SessionOptions(), latency_feed={})
    chosen = SimpleNamespace(built=SimpleNamespace(path="model.onnx"))
    found, figures = packaging._with_measured_order(SimpleNamespace(bench=bench), chosen)
    return found.runtime.order, figures, asked


def test_order_of_a_target(target, tmp_path):
    assert target.session_options().order == "priority"
    again = tmp_path / "again.toml"
    again.write_text(str(target))
    assert load_target(again) == target


@pytest.mark.parametrize(
    ("default", "priority", "order"),
    [(200_000, 100_000, "priority"), (100_000, 100_000, "default"), (100_000, 99_500, "default")],
)
def test_order_is_kept_only_where_it_takes_less(target, monkeypatch, default, priority, order):
    peaks = {"default": default, "priority": priority}
    found, figures, _ = decided(target, monkeypatch, peaks)
    assert found == order
    assert figures["peak_memory_default_order_bytes"] == pytest.approx(default, abs=9)
    assert figures["peak_memory_priority_order_bytes"] == pytest.approx(priority, abs=9)


def test_nothing_is_measured_where_nobody_asks(target, monkeypatch):
    found, figures, asked = decided(target.with_order("default"), monkeypatch, {})
    assert (found, figures, asked) == ("default", {}, [])
