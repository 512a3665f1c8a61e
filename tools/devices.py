"""Set up devices that are not here: emulated ARM64, Node.js, a browser, an SSH server, C++.

    python tools/devices.py FOLDER [PART ...]

Nothing is installed: packages of Debian, PyPI and npm are unpacked into FOLDER, where
`tests/devices` finds them. What cannot be had, without a network or on another system, is named
with the reason, and its tests are skipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

GUEST_RELEASE = "bookworm"  # has Python 3.11, which the wheels below are for
HEADERS_RELEASE = "trixie"  # the first that has ONNX Runtime
RUNTIMES = ("1.20.1", "1.23.2")
NPM_PACKAGES = ("onnxruntime-node@1.30.0", "onnxruntime-web@1.30.0", "axe-core@4.11.0")
ARM_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Beside the loader of this machine another C library does not run.
NOT_UNPACKED = ("libc6_", "libc-bin_", "dpkg_", "tar_")
SECONDS = 600


class Unavailable(Exception):
    """A part cannot be set up here."""


def run(*words: object, **environment: str) -> str:
    """Run a program; `Unavailable` with the end of what it said where it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in words],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"`{words[0]}` is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{words[0]}` took longer than {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"`{words[0]}` fails: {' '.join(last)}") from error
    return done.stdout


def fetch_debian(folder: Path, release: str, packages: list[str], status: Path | None) -> Path:
    """Download packages with what they need, by an apt whose whole state lies in `folder`.

    `status` says what need not come: the packages of this machine, or nothing.
    """
    if not KEYRING.is_file():
        raise Unavailable("this is not Debian: its keys are missing")
    host = run("dpkg", "--print-architecture").strip()
    for name in ("lists/partial", "archives/partial", "etc"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "nothing").touch()
    line = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {release} main\n"
    (folder / "etc/sources.list").write_text(line)
    settings = {
        "Dir::State": folder,
        "Dir::State::status": status or folder / "nothing",
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": folder / "etc/sources.list",
        "Dir::Etc::sourceparts": folder / "etc",
        "Dir::Etc::preferencesparts": folder / "etc",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    text = "".join(f'{key} "{value}";\n' for key, value in settings.items())
    (folder / "apt.conf").write_text(f'{text}APT::Architectures {{ "{host}"; "arm64"; }};\n')
    environment = {"APT_CONFIG": str(folder / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", **environment)
    flags = ("--yes", "--no-install-recommends", "--download-only")
    run("apt-get", "install", *flags, *packages, **environment)
    return folder / "archives"


def unpack_debian(archives: Path, folder: Path, architectures: tuple[str, ...]) -> None:
    """Unpack downloaded packages of some architectures."""
    for package in sorted(archives.glob("*.deb")):
        if package.stem.rsplit("_", 1)[-1] in architectures:
            run("dpkg", "-x", package, folder)


def set_up_arm64(folder: Path) -> None:
    """QEMU, an ARM64 Python 3.11, and onnxruntime in two versions."""
    packages = ["python3.11:arm64", "libstdc++6:arm64", "qemu-user-static"]
    archives = fetch_debian(folder / "apt", GUEST_RELEASE, packages, None)
    unpack_debian(archives, folder / "root", ("arm64", "all"))
    for package in archives.glob("qemu-user-static_*.deb"):
        run("dpkg", "-x", package, folder / "qemu")
    for keep in (folder / "qemu/usr/bin").iterdir():
        if keep.name != "qemu-aarch64-static":
            keep.unlink()  # three hundred megabytes of other machines
    for version in RUNTIMES:
        wheels = folder / "wheels" / version
        platforms = [word for name in ARM_PLATFORMS for word in ("--platform", name)]
        flags = ["--only-binary=:all:", "--no-deps", "--python-version", "3.11", "--dest", wheels]
        wanted = [f"onnxruntime=={version}", "numpy>=1.26,<3"]
        run(sys.executable, "-m", "pip", "download", *platforms, *flags, *wanted)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site" / version)
    shutil.rmtree(folder / "apt")
    shutil.rmtree(folder / "wheels")


def set_up_node(folder: Path) -> None:
    """onnxruntime-node, onnxruntime-web and axe-core, for the Node.js that is here."""
    run("node", "--version")
    flags = ("--ignore-scripts", "--no-fund", "--no-audit", "--no-save", "--prefix", folder)
    run("npm", "install", *flags, *NPM_PACKAGES)


def set_up_headers(folder: Path) -> None:
    """The headers of ONNX Runtime's C API."""
    archives = fetch_debian(folder / "apt", HEADERS_RELEASE, ["libonnxruntime-dev"], None)
    for package in archives.glob("libonnxruntime-dev_*.deb"):
        run("dpkg", "-x", package, folder)
    shutil.rmtree(folder / "apt")


def set_up_sodium(folder: Path) -> None:
    """The library that checks signatures in C++, to link with."""
    _set_up_host(folder, "libsodium-dev")


def _set_up_host(folder: Path, *packages: str) -> None:
    release = ""
    for line in Path("/etc/os-release").read_text().splitlines():
        release = line.split("=")[1] if line.startswith("VERSION_CODENAME=") else release
    status = Path("/var/lib/dpkg/status")
    archives = fetch_debian(folder / "apt", release, [*packages], status)
    for package in archives.glob("*.deb"):
        if not package.name.startswith(NOT_UNPACKED):
            run("dpkg", "-x", package, folder)
    shutil.rmtree(folder / "apt")


def set_up_browser(folder: Path) -> None:
    """Chromium, with the libraries that this machine lacks."""
    _set_up_host(folder, "chromium")


def set_up_sshd(folder: Path) -> None:
    """OpenSSH, the server."""
    _set_up_host(folder, "openssh-server")


def set_up_minisign(folder: Path) -> None:
    """The program with which users sign."""
    _set_up_host(folder, "minisign")


PARTS: dict[str, Callable[[Path], None]] = {
    "arm64": set_up_arm64,
    "node": set_up_node,
    "headers": set_up_headers,
    "sodium": set_up_sodium,
    "browser": set_up_browser,
    "sshd": set_up_sshd,
    "minisign": set_up_minisign,
}


def set_up(name: str, folder: Path) -> str:
    """Set one part up unless it is there, and say how that went."""
    place, reason = folder / name, folder / f"{name}.unavailable"
    recipe = f"{RUNTIMES} {NPM_PACKAGES}"
    stamp = place / ".recipe"
    if stamp.is_file() and stamp.read_text() == recipe:
        return "is there"
    # A part that a killed run left behind has no stamp, and starts again.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    reason.unlink(missing_ok=True)
    try:
        PARTS[name](place)
    except Unavailable as error:
        shutil.rmtree(place)
        reason.write_text(str(error))
        return f"cannot be had: {error}"
    stamp.write_text(recipe)
    return "set up"


def main() -> None:
    """Set up the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the parts go")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    given = parser.parse_args()
    for name in given.parts or PARTS:
        print(f"{name:<9} {set_up(name, given.folder.absolute())}", flush=True)


if __name__ == "__main__":
    main()
