"""Large new weights wait in scratch files, and are the same there."""

import gc
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.ir import spilling

ROWS = spilling.SPILLED_BYTES // 4096


def array_of(seed, rows=ROWS):
    return np.random.default_rng(seed).standard_normal((rows, 1024), dtype=np.float32)


def scratch_handles():
    """Deleted temporary files that this process holds open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += "(deleted)" in str(link.readlink())
        except OSError:
            continue
    return found


def test_large_arrays_go_to_a_file_and_small_ones_stay():
    large, small = gir.as_tensor(array_of(0), "large"), gir.as_tensor(array_of(0, 1), "small")
    assert isinstance(large, gir.FileTensor)
    assert isinstance(small, ir.Tensor)
    assert (large.name, large.shape, large.dtype) == ("large", (ROWS, 1024), ir.DataType.FLOAT)
    np.testing.assert_array_equal(large.numpy(), array_of(0))


def test_tensors_that_come_later_leave_earlier_ones_alone():
    tensors = []
    for seed in range(5):
        tensors.append(gir.as_tensor(array_of(seed, ROWS + seed), f"w{seed}"))
        arrays = [tensor.numpy() for tensor in tensors]  # mapped while the file grows
    for seed, array in enumerate(arrays):
        np.testing.assert_array_equal(array, array_of(seed, ROWS + seed))
        assert array.flags.aligned


def test_packed_and_rare_types_come_back():
    values = np.arange(4 * spilling.SPILLED_BYTES) % 16
    tensor = ir.Tensor(values.astype(ir.DataType.UINT4.numpy()), name="w")
    found = spilling.spilled(tensor)
    assert isinstance(found, gir.FileTensor)
    np.testing.assert_array_equal(found.numpy(), tensor.numpy())
    assert found.tobytes() == tensor.tobytes()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="does not tell what is open")
def test_files_go_with_their_last_tensor(monkeypatch):
    monkeypatch.setattr(spilling, "_FILE_BYTES", 2 * spilling.SPILLED_BYTES)
    monkeypatch.setattr(spilling, "_SCRATCH", spilling._Scratch())
    gc.collect()
    before = scratch_handles()
    tensors = [gir.as_tensor(array_of(seed), "w") for seed in range(6)]
    assert scratch_handles() == before + 2
    del tensors[:3]
    gc.collect()
    assert scratch_handles() == before + 1
    del tensors
    gc.collect()
    assert scratch_handles() == before


def test_without_space_for_temporary_files_tensors_stay_in_memory(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spilling, "_SCRATCH", spilling._Scratch())
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    tensor = gir.as_tensor(array_of(0), "w")
    assert isinstance(tensor, ir.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), array_of(0))


@pytest.mark.parametrize("form", [False, True])
def test_models_with_weights_in_scratch_files_are_written_whole(tmp_path, form):
    model = gir.from_text("(float[N] x) => (float[N] z) { z = Relu(x) }")
    tensor = gir.as_tensor(array_of(0), "w")
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name="w", type=kind, shape=ir.Shape(tensor.shape), const_value=tensor)
    model.graph.register_initializer(value)
    assert gir.external_files(model) == frozenset()
    gir.save(model, tmp_path / "m.onnx", external_data=form)
    found = gir.load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    np.testing.assert_array_equal(found.numpy(), array_of(0))
