"""Taking ranges loads no library that it does not need: two programs are in memory meanwhile."""

import subprocess
import sys
from pathlib import Path

import graphopt
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
    assert blake2b(b"abc").digest() == hashlib.blake2b(b"abc", digest_size=16).digest()
