"""The same command gives the same bytes in two processes whose sets come in different orders."""

import os
import subprocess
import sys

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import from_text, model_bytes
from graphopt.pipeline import Pipeline
from graphopt.training import has_torch

WIDTH, HEADS, HIDDEN = 8, 4, 160
FIT = "compensation=best"
ENCODER_COMMANDS = [
    "prune-heads{score=random seed=3 compensation=off}",
    f"prune-heads{{ratio=0.5 score=obs {FIT}}}",
    f"prune-neurons{{ratio=0.5 multiple=1 score=obs {FIT}}}",
    f"prune-neurons{{budget=0.7 multiple=1 score=wanda allocation=global {FIT}}}",
    "prune-heads{compensation=off},prune-neurons{multiple=1 score=flap compensation=bias}",
    "prune-layers{unit=sub-layers score=trial replacement=affine}",
    "prune-weights{minimum_elements=1}",
    'prune-weights{score=random pattern="2:4" minimum_elements=1 seed=2}',
    "factorize-weights{minimum_elements=1 minimum_saving=0.0 multiple=1}",
    "cluster-weights{block_size=0 minimum_elements=1}",
    "cluster-weights{method=compensated block_size=0 minimum_elements=1}",
]
TAUGHT_COMMANDS = [
    f"prune-neurons{{ratio=0.5 multiple=1 score=gradient {FIT}}}",
    "prune-heads{score=l2 compensation=off},distill{steps=6 batch=4 minutes=0}",
]
IMAGE_COMMANDS = [
    f"prune-channels{{ratio=0.5 multiple=1 score=wanda {FIT}}}",
    f"prune-channels{{ratio=0.25 multiple=1 score=obs {FIT}}}",
]
IMAGE_SHAPES = {"a": (8, 3, 3, 3), "d": (8, 1, 3, 3), "b": (3, 8, 1, 1)}
IMAGES = """(float[N,3,6,6] x) => (float[N,3,6,6] y) <{weights}> {{
  h = Conv<pads = [1, 1, 1, 1]>(x, a)  i = Conv<group = 8, pads = [1, 1, 1, 1]>(h, d)
  r = Relu(i)  f = Conv(r, b)  y = Add(f, x) }}"""


def declared(shapes):
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        numbers = ", ".join(map(str, rng.normal(size=int(np.prod(shape))).round(3)))
        yield f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


def block(number, stream):
    """Return the nodes of an attention and of a feed-forward part, and what weights they read."""
    names = {part: f"{part}{number}" for part in "qkvowu"}
    shapes = {names[part]: (WIDTH, WIDTH) for part in "qkvo"}
    shapes |= {names["w"]: (WIDTH, HIDDEN), names["u"]: (HIDDEN, WIDTH)}
    n = number
    heads = " ".join(
        f"{part}m{n} = MatMul({stream}, {part}{n}) {part}r{n} = Reshape({part}m{n}, split)"
        f" {part}t{n} = Transpose<perm = [{perm}]>({part}r{n})"
        for part, perm in (("q", "0,2,1,3"), ("k", "0,2,3,1"), ("v", "0,2,1,3"))
    )
    nodes = f"""{heads} l{n} = MatMul(qt{n}, kt{n}) s{n} = Softmax<axis = -1>(l{n})
      c{n} = MatMul(s{n}, vt{n}) back{n} = Transpose<perm = [0,2,1,3]>(c{n})
      flat{n} = Reshape(back{n}, merge) om{n} = MatMul(flat{n}, o{n}) a{n} = Add(om{n}, {stream})
      h{n} = MatMul(a{n}, w{n}) g{n} = Relu(h{n}) f{n} = MatMul(g{n}, u{n})
      y{n} = Add(a{n}, f{n})"""
    return nodes, shapes


def encoder():
    first, one = block(1, "x")
    second, two = block(2, "y1")
    weights = ", ".join(declared(one | two))
    return from_text(
        f"(float[B,S,{WIDTH}] x) => (float[B,S,{WIDTH}] y2) <{weights},"
        f" int64[4] split = {{0, 0, {HEADS}, {WIDTH // HEADS}}}, int64[3] merge = {{0, 0, {WIDTH}}}"
        f"> {{ {first} {second} }}"
    )


def images():
    return from_text(IMAGES.format(weights=", ".join(declared(IMAGE_SHAPES))))


def samples(*shape):
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(10)]
    return Calibrator(samples=load_samples(feeds))


def digests():
    """Yield each command with a digest of the bytes that it makes, and whether it did anything."""
    from hashlib import sha256

    taught = TAUGHT_COMMANDS if has_torch() else []
    jobs = [(encoder, (2, 5, WIDTH), ENCODER_COMMANDS + taught)]
    jobs.append((images, (2, 3, 6, 6), IMAGE_COMMANDS))
    for make, shape, commands in jobs:
        for command in commands:
            found = Pipeline.parse(command).run(
                make(), statistics_provider=samples(*shape), verify="structure"
            )
            edits = bool(found.ledger.journal.edits)
            yield f"{command} {sha256(model_bytes(found.model)).hexdigest()} {edits}"


@pytest.fixture(scope="module")
def runs():
    def lines(seed):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        ran = subprocess.run(
            [sys.executable, __file__], capture_output=True, text=True, env=environment, check=True
        )
        return ran.stdout.splitlines()

    return lines(1), lines(2)


def test_the_same_command_gives_the_same_bytes_whatever_the_order_of_sets(runs):
    first, second = runs
    assert first == second


def test_every_command_changed_its_model(runs):
    assert [line for line in runs[0] if not line.endswith("True")] == []


def test_commands_give_files_of_their_own(runs):
    found = [line.split(" ")[-2] for line in runs[0]]
    assert len(set(found)) == len(found)


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in digests())
