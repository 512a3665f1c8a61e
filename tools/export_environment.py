"""Set up an environment that has frameworks and their exporters, for `make test-export`.

    python tools/export_environment.py FOLDER

FOLDER/bin/python then has PyTorch, transformers, optimum's exporter, scikit-learn and skl2onnx in
versions that go together; nothing of graphopt. It is kept between runs, and made again where the
list below changes. Where packages cannot be had, that is said with the reason, and the tests are
skipped.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = (
    "torch==2.13.0",
    "transformers<4.58",  # the newest that optimum's exporter takes
    "optimum-onnx==0.1.0",
    "onnxruntime>=1.23",  # with which it looks for open sizes
    "onnxscript>=0.7.2,<0.8",
    "scikit-learn>=1.4",
    "skl2onnx>=1.19",
    "skops>=0.11",
)
SECONDS = 600


class Unavailable(Exception):
    """The environment cannot be set up here."""


def run(*words: object) -> str:
    """Run a program; `Unavailable` with the end of what it said where it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{Path(str(words[0])).name}` took longer than {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip()).splitlines()[-1:]
        raise Unavailable(" ".join(last)) from error
    return done.stdout


def install(folder: Path) -> None:
    """Make the environment, and check that what was installed can be imported."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *PACKAGES)
    run(python, "-c", "import optimum.exporters.onnx, onnxscript, skl2onnx, skops.io")


def set_up(folder: Path) -> str:
    """Set the environment up unless it is there, and say how that went."""
    recipe = "\n".join((platform.python_version(), *PACKAGES))
    stamp, reason = folder / ".recipe", folder / ".unavailable"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe:
        return "is there"
    # One that a killed run left behind has no stamp, and starts again.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        install(folder)
    except Unavailable as error:
        shutil.rmtree(folder)
        folder.mkdir()
        reason.write_text(str(error), encoding="utf-8")
        return f"cannot be had: {error}"
    stamp.write_text(recipe, encoding="utf-8")
    return "set up"


def main() -> None:
    """Set the environment up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where it goes")
    folder = parser.parse_args().folder.absolute()
    print(f"environment of exporters {set_up(folder)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
