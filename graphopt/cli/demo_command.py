"""`graphopt demo`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import cli_command, force_option
from graphopt.cli.output import print_result
from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings
from graphopt.errors import OutputError

__all__ = ["command"]

INTRODUCTION = """\
The model: a small residual network, trained on handwritten digits, float32.
The job:   8-bit integers for this CPU, at most the target's loss of accuracy on 360 held-out
           images, and faster than the original under ONNX Runtime. Everything below was measured
           just now, on this machine; the same job on your own files is:

  graphopt optimize model.onnx --target cpu-int8 --calibration samples.npz --eval labelled.npz \\
      --metric top1
"""


@cli_command(
    "demo",
    examples=(
        "graphopt demo                      optimize it, and show what happened",
        "graphopt demo -o digits.cpu-int8   keep the bundle, to validate it",
        "graphopt demo --files digits       its model and samples, to try other commands on",
    ),
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Keep the bundle here. Default: no."
)
@click.option(
    "--files", type=click.Path(path_type=Path), help="Only copy the model and its samples here."
)
@force_option
def command(settings: Settings, output: Path | None, files: Path | None, force: bool) -> int:
    """Optimize a small trained model and show what happened."""
    if files is not None:
        return _copy_files(settings, files, force=force)
    if output is not None:
        return _demonstrate(settings, output, force=force)
    from graphopt.ir import scratch_folder

    with scratch_folder() as folder:
        return _demonstrate(settings, folder / "digits.cpu-int8", force=False, is_kept=False)


def _copy_files(settings: Settings, folder: Path, *, force: bool) -> int:
    from graphopt.demo import demo_files
    from graphopt.ir import atomic_file

    sources = list(asdict(demo_files()).values())
    copies = [folder / source.name for source in sources]
    for source, copy in zip(sources, copies, strict=True):
        # Another model may be called so, too.
        if copy.exists() and not force and not _is_same(source, copy):
            why = "it is another file than the demo's"
            raise OutputError(f"`{copy}` exists already", why=why, hint="replace it with `--force`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "the demo's files cannot be copied", where=str(folder), why=error.strerror
        ) from error
    for source, copy in zip(sources, copies, strict=True):
        with atomic_file(copy) as stream:
            stream.write(source.read_bytes())
    names = [str(copy) for copy in copies]
    print_result(settings, text="\n".join(names), document={"files": names})
    return 0


def _is_same(source: Path, copy: Path) -> bool:
    return copy.is_file() and copy.read_bytes() == source.read_bytes()


def _demonstrate(settings: Settings, output: Path, *, force: bool, is_kept: bool = True) -> int:
    from graphopt import api
    from graphopt.demo import demo_files
    from graphopt.deploy import validate
    from graphopt.report import to_text

    files = demo_files()
    with progress_shown(settings) as progress:
        result = api.optimize(
            files.model,
            target="cpu-int8",
            output=output,
            calibration=files.calibration,
            evaluation=files.evaluation,
            metric="top1",
            force=force,
            progress=progress,
        )
    # Where nothing is kept there is no place to tell: it is gone when it is read.
    told = result.report if is_kept else replace(result.report, output=None)
    document: dict[str, Any] = {"optimize": told.to_dict(), "validate": None}
    text, status = f"{INTRODUCTION}\n{to_text(told)}", result.exit_code
    if result.report.chosen is not None:
        report = validate(output)
        document["validate"] = report.to_dict()
        text += f"\n\nThe bundle, checked as a device would:\n\n{report}"
        status = status or report.exit_code
    text += "" if is_kept else "\n\nNothing was kept: `graphopt demo -o FOLDER` keeps the bundle."
    print_result(settings, text=text, document=document)
    return status
