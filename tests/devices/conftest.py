"""Devices that `make test-devices` sets up; without them these tests are skipped."""

import functools
import http.server
import os
import platform
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from browser import Browser
from device_bundles import make_bundle, make_variants


@pytest.fixture(scope="session")
def device():
    """Return the folder of a part, or skip with the reason why it cannot be had."""

    def find(name):
        folder = os.environ.get("GRAPHOPT_DEVICES")
        if not folder:
            pytest.skip("`make test-devices` sets the devices up")
        reason = Path(folder, f"{name}.unavailable")
        if reason.is_file():
            pytest.skip(f"{name} cannot be had: {reason.read_text()}")
        if not Path(folder, name).is_dir():
            pytest.skip(f"{name} is not set up: `python tools/devices.py {folder} {name}`")
        return Path(folder, name).absolute()

    return find


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A small bundle that no test may change."""
    return make_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def variants(tmp_path_factory):
    """A bundle for two sizes that no test may change."""
    return make_variants(tmp_path_factory.mktemp("variants"))


@pytest.fixture
def copy(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def node(device):
    """Run a script with Node.js, which finds the packages."""
    packages = device("node")

    def run(*words):
        return subprocess.run(
            ["node", *map(str, words)], cwd=packages, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def libraries():
    """Return the environment in which programs of an unpacked package find their libraries."""

    def environment(folder):
        triplet = f"{platform.machine()}-linux-gnu"
        places = [folder / "usr/lib" / triplet, folder / "lib" / triplet]
        # Some keep parts in a folder of their own, which they name by its place in the system.
        places += {found.parent for place in places for found in place.glob("*/lib*.so*")}
        return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(map(str, places))}

    return environment


@pytest.fixture(scope="module")
def browser(device, libraries, tmp_path_factory):
    folder = device("browser")
    program = folder / "usr/lib/chromium/chromium"
    with Browser(program, tmp_path_factory.mktemp("profile"), libraries(folder)) as made:
        yield made


@pytest.fixture
def serve():
    """Serve a folder to this machine alone, and return its address."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {  # noqa: RUF012 - that of the base class
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def log_message(self, *words):
            pass

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
