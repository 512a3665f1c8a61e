"""`graphopt compare`."""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import cli_command, force_option
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "compare",
    examples=(
        "graphopt compare model.cpu-int8 model.cpu-fp32",
        "graphopt compare *.zip -o all.html",
    ),
)
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write one page there, too.")
@force_option
def command(settings: Settings, bundles: tuple[Path, ...], output: Path | None, force: bool) -> int:
    """Compare bundles side by side."""
    from graphopt.deploy import Bundle, BundleComparison
    from graphopt.errors import OutputError
    from graphopt.ir import atomic_file

    loaded = [Bundle.load(path) for path in bundles]
    comparison = BundleComparison(loaded, _names(bundles))
    if output is not None:
        if output.exists() and not force:
            raise OutputError(f"`{output}` exists already", hint="replace it with `--force`")
        with atomic_file(output) as stream:
            stream.write(comparison.to_html().encode())
    print_result(settings, text=str(comparison), document=comparison.to_dict())
    return 0


def _names(paths: tuple[Path, ...]) -> list[str]:
    """Return the last parts of the paths, or all where those do not tell them apart."""
    short = [path.name or str(path) for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]
