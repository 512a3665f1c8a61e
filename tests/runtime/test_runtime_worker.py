"""The worker process: how it ends, and that everything else survives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import WorkerCrash, WorkerOutOfMemory, WorkerTimeout
from graphopt.runtime import Worker, available_providers, runtime_version, shared_worker

FILL = "g (int64[N] shape) => (float[M] y) { y = ConstantOfShape(shape) }"
# Runs for hours: the sum over a loop of `trips` steps.
LOOP = """g (int64 trips) => (float total) <float zero = {0}, bool yes = {1}> {
  total = Loop<body = step (int64 i, bool c, float s) => (bool d, float t) { d = Identity(c)  t = Cos(s) }>(trips, yes, zero)
}"""


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_importing_the_room_does_not_import_onnxruntime():
    code = "import graphopt.runtime, sys; sys.exit(any(m in sys.modules for m in ('onnxruntime', 'onnx', 'onnx_ir')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_worker_imports_little():
    code = """
        import sys
        import graphopt.runtime.worker, graphopt.runtime.hosted_session
        print(*sorted({"argparse", "difflib", "ml_dtypes", "onnx", "onnx_ir"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert not subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_using_a_worker_does_not_import_onnxruntime():
    code = """
        import sys
        from graphopt.runtime import available_providers, runtime_version
        assert runtime_version() and "CPUExecutionProvider" in available_providers()
        sys.exit("onnxruntime" in sys.modules)
    """
    assert (
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0
    )


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert runtime_version() == version("onnxruntime")
    assert "CPUExecutionProvider" in available_providers()


@pytest.mark.parametrize("kind", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_crash_is_an_error_that_names_the_signal(kind, model_bytes):
    with Worker() as worker:
        session = worker.load(model_bytes(FILL))
        os.kill(worker.pid, getattr(signal, kind))
        with pytest.raises(WorkerCrash, match=kind):
            session.run({"shape": np.array([1])})
        with pytest.raises(WorkerCrash, match=f"has ended(.|\n)*{kind}"):
            session.run({"shape": np.array([1])})
        assert not worker.is_alive


def test_crash_in_the_middle_of_a_run(model_bytes):
    with Worker(timeout_s=60) as worker:
        session = worker.load(model_bytes(LOOP))
        threading.Timer(0.2, os.kill, (worker.pid, signal.SIGSEGV)).start()
        with pytest.raises(WorkerCrash, match="SIGSEGV"):
            session.run({"trips": np.array(10**12)})


def test_timeout_kills_the_worker(model_bytes):
    with Worker(timeout_s=0.3) as worker:
        session = worker.load(model_bytes(LOOP))
        with pytest.raises(WorkerTimeout, match=r"no answer in 0.3 s"):
            session.run({"trips": np.array(10**12)})
        assert not is_running(worker.pid)
        with pytest.raises(WorkerTimeout, match="has ended"):
            session.run({"trips": np.array(1)})


def test_timeout_also_while_a_request_is_being_written(model_bytes):
    with Worker(timeout_s=0.3) as worker:
        session = worker.load(model_bytes(FILL))
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerTimeout):
            session.run({"shape": np.zeros(10**7, np.int64)})


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is exact on Linux only")
def test_memory_limit(model_bytes):
    with Worker(memory_limit_bytes=500 << 20) as worker:
        session = worker.load(model_bytes(FILL))
        with pytest.raises(WorkerOutOfMemory, match="out of memory"):
            session.run({"shape": np.array([1 << 30])})
        # The runtime survived that, and so the worker did.
        assert session.run({"shape": np.array([2])})["y"].tolist() == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is exact on Linux only")
def test_memory_limit_while_a_request_is_being_read(model_bytes):
    with Worker(memory_limit_bytes=500 << 20) as worker:
        session = worker.load(model_bytes(FILL))
        with pytest.raises(WorkerOutOfMemory):
            session.run({"shape": np.zeros(1 << 27, np.int64)})


@pytest.mark.skipif(sys.platform != "linux", reason="looks at descriptors through /proc")
def test_noise_on_the_standard_streams_is_not_taken_for_a_reply(model_bytes, tmp_path, monkeypatch):
    noise = """
        import os, threading, time
        def shout():
            while os.readlink("/proc/self/fd/0") != os.devnull:
                time.sleep(0.001)
            while True:
                os.write(1, b"printed by native code " * 1000)
                time.sleep(0.0001)
        threading.Thread(target=shout, daemon=True).start()
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(noise))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker(timeout_s=60) as worker:
        session = worker.load(model_bytes(FILL))
        for _ in range(200):
            assert session.run({"shape": np.array([2])})["y"].tolist() == [0, 0]
        time.sleep(0.05)  # the last answer emptied a log that had grown too long
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(WorkerCrash, match="printed by native code"):
            worker.info()


def test_interrupt_in_the_owner_ends_the_worker(model_bytes):
    with Worker() as worker:
        session = worker.load(model_bytes(LOOP))
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            session.run({"trips": np.array(10**12)})
        assert not is_running(worker.pid)


def test_worker_itself_ignores_the_interrupt(model_bytes):
    with Worker(timeout_s=60) as worker:
        worker.info()
        os.kill(worker.pid, signal.SIGINT)
        assert worker.info()["pid"] == worker.pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="looks at processes through /proc")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_worker_ends_with_an_owner_that_is_killed(state, model_bytes, tmp_path):
    model = tmp_path / "loop.onnx"
    model.write_bytes(model_bytes(LOOP))
    code = f"""
        import numpy as np
        from graphopt.runtime import Worker
        worker = Worker()
        session = worker.load({str(model)!r})
        print(worker.pid, flush=True)
        {"session.run({'trips': np.array(10**12)})" if state == "busy" else "input()"}
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        owner.kill()
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    with Worker(timeout_s=60) as worker:
        assert worker.info()["pid"] == worker.pid


def test_shared_worker_is_replaced_after_a_crash():
    first = shared_worker()
    assert shared_worker() is first
    first.info()
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(WorkerCrash):
        first.info()
    second = shared_worker()
    assert second is not first
    assert second.info()["pid"] == second.pid


def test_requests_of_many_threads_do_not_mix(worker, model_bytes):
    session = worker.load(model_bytes("g (int64[N] x) => (int64[N] y) { y = Neg(x) }"))
    wrong = []

    def ask(number):
        for _ in range(20):
            result = session.run({"x": np.full(number + 1, number)})["y"]
            if result.tolist() != [-number] * (number + 1):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closed_worker_says_so():
    worker = Worker()
    worker.close()
    worker.close()
    with pytest.raises(WorkerCrash, match="closed"):
        worker.info()
