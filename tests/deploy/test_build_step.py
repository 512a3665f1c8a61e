"""`examples/build_step`: a bundle is remade when something changed, and only then."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.demo import demo_files

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

EXAMPLE = Path(__file__).parents[2] / "examples" / "build_step"


INPUTS = ("build_model.py", "model.onnx", "samples.npz", "board.toml")

STUB = """
import sys
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "manifest.json").touch()
with open("{log}", "a") as log:
    log.write("remade\\n")
"""


@pytest.fixture
def project(tmp_path):
    """The example with a model and samples of its own, which tests may change."""
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder)
    shutil.copy(demo_files().model, folder / "model.onnx")
    with np.load(demo_files().calibration) as images:
        np.savez(folder / "samples.npz", image=images["image"][:2])
    return folder


def use_stub(project):
    """Replace the step by one that only counts: what is tested is when it runs."""
    log = project / "log"
    log.write_text("")
    (project / "build_model.py").write_text(STUB.format(log=log))
    return lambda: len(log.read_text().splitlines())


def run(*command, cwd):
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )


def make(project, *arguments):
    settings = (f"PYTHON={sys.executable}", "MODEL=model.onnx", "SAMPLES=samples.npz")
    return run("make", *settings, "FLAGS=--no-latency", *arguments, cwd=project)


def assert_remakes_only_what_changed(project, build, version):
    count = use_stub(project)
    assert build().returncode == 0
    for path in [*map(project.joinpath, INPUTS), version]:
        before = count()
        newest = max(file.stat().st_mtime_ns for file in project.rglob("*"))
        # A clock of files ticks every few milliseconds, and a build may take less.
        while path.stat().st_mtime_ns <= newest:
            path.write_text("0.0.0") if path == version else path.touch()
        for _ in range(2):
            result = build()
            assert result.returncode == 0, result.stdout + result.stderr
        assert count() == before + 1, path.name


@needs_make
def test_make_runs_the_step_and_the_second_time_nothing(project):
    first = make(project)
    assert first.returncode == 0, first.stdout + first.stderr
    bundle = project / "build" / "model.board"
    made = bundle.stat().st_ino
    assert str(project) not in (bundle / "report.json").read_text()
    assert str(project) not in (bundle / "report.html").read_text()
    second = make(project)
    assert second.returncode == 0
    assert "build_model.py" not in second.stdout
    assert bundle.stat().st_ino == made
    assert make(project, "check").returncode == 0


@needs_make
def test_make_remakes_only_what_changed(project):
    version = project / "build" / "graphopt.version"
    assert_remakes_only_what_changed(project, lambda: make(project), version)


@needs_make
def test_a_failing_step_fails_the_build_and_says_why(project):
    (project / "samples.npz").write_bytes(b"not samples")
    result = make(project)
    assert result.returncode == 2
    assert "samples.npz" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project / "build" / "model.board").exists()


@needs_make
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_cmake_remakes_only_what_changed(project):
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(product NONE)\n"
        "include(GraphoptBundle.cmake)\n"
        "graphopt_bundle(detector MODEL ${CMAKE_SOURCE_DIR}/model.onnx\n"
        "  SAMPLES ${CMAKE_SOURCE_DIR}/samples.npz TARGET ${CMAKE_SOURCE_DIR}/board.toml\n"
        "  FLAGS --no-latency)\n"
    )
    generator = ("-G", "Unix Makefiles", f"-DPython3_EXECUTABLE={sys.executable}")
    configured = run("cmake", *generator, "-S", ".", "-B", "out", cwd=project)
    assert configured.returncode == 0, configured.stderr
    assert_remakes_only_what_changed(
        project,
        lambda: run("cmake", "--build", "out", cwd=project),
        project / "out" / "detector.graphopt-version",
    )
