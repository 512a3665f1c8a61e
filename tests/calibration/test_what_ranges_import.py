"""Taking ranges holds nothing that it does not need: two programs are in memory meanwhile."""

import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np

import graphopt
from graphopt.calibration import load_samples
from graphopt.ir.hashing import blake2b, sha256

DEMO = Path(graphopt.__file__).parent / "demo"

RUN = f"""
import sys, graphopt
graphopt.run_pipeline(
    {str(DEMO / "model.onnx")!r}, "quantize-static", target="cpu-int8",
    calibration={str(DEMO / "calibration.npz")!r}, verify="off",
)
print(*sorted({{"_hashlib", "numpy.random", "onnx_ir.passes.common", "sympy"}} & set(sys.modules)))
"""


def test_ranges_need_neither_openssl_nor_random_numbers():
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stdout.strip()


def test_digests_are_those_of_the_standard_library():
    import hashlib

    assert sha256(b"abc").hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert blake2b(b"abc").digest() == hashlib.blake2b(b"abc", digest_size=32).digest()


def test_a_sample_is_let_go_before_the_next_one_is_read():
    read = []

    def feeds():
        for _ in range(3):
            assert not [array for array in read if array() is not None]
            array = np.zeros(8, np.float32)
            read.append(weakref.ref(array))
            yield {"x": array}
            del array

    for feed in load_samples(feeds):
        assert feed["x"].shape == (8,)
        del feed
    assert len(read) == 3
