"""Which provider ran what."""

import pytest

from graphopt.ir import from_text, save
from graphopt.runtime import SessionOptions, measure_placement, shared_worker
from graphopt.runtime.placement import placement_of_run
from graphopt.runtime.session import NodeTiming

ACC, CPU = "AccExecutionProvider", "CPUExecutionProvider"


def timing(provider, operator="Relu", us=1.0, name="n"):
    return NodeTiming(name, operator, provider, us)


def test_pieces_copies_and_the_share_of_others_are_read_from_the_order_of_a_run():
    run = [
        timing(CPU, "Gather", 3.0),
        timing(CPU, "MemcpyFromHost", 1.0),
        timing(ACC),
        timing(ACC),
        timing(CPU, "MemcpyToHost", 1.0),
        timing(CPU, "Gather", 3.0),
        timing(ACC),
    ]
    found = placement_of_run(run, ACC)
    assert (found.partitions, found.copies) == (2, 2)
    assert found.share_off_accelerator == pytest.approx(8 / 11)
    assert found.nodes == {CPU: 4, ACC: 3}
    assert found.operators_off == {"Gather": 2, "MemcpyFromHost": 1, "MemcpyToHost": 1}
    assert not found.is_estimate
    assert "2 partitions on AccExecutionProvider, 2 copies, 72.7% of the work" in found.summary()


def test_each_piece_that_a_provider_compiled_counts_by_itself():
    run = [timing(ACC, "sub_1", name=f"{ACC}_sub_1"), timing(ACC, "sub_2", name=f"{ACC}_sub_2")]
    assert placement_of_run(run, ACC).partitions == 2
    assert placement_of_run([timing(ACC), timing(ACC)], ACC).partitions == 1


def test_nothing_that_ran_has_no_share():
    found = placement_of_run([], ACC)
    assert (found.partitions, found.share_off_accelerator) == (0, 0.0)


def test_on_the_cpu_all_is_one_piece(tmp_path):
    model = from_text("(float[2] x) => (float[2] y) { a = Exp(x) b = Sin(a) y = Neg(b) }")
    save(model, tmp_path / "m.onnx")
    import numpy as np

    feed = {"x": np.ones(2, np.float32)}
    options = SessionOptions(optimization="disabled")
    found = measure_placement(tmp_path / "m.onnx", options, feed, worker=shared_worker())
    assert (found.partitions, found.copies, found.share_off_accelerator) == (1, 0, 0.0)
    assert found.nodes == {"CPUExecutionProvider": 3}
