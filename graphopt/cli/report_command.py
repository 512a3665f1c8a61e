"""`graphopt report`."""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import cli_command, force_option
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "report",
    examples=(
        "graphopt report model.cpu-int8 --open",
        "graphopt report model.zip -o report.html",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--open", "is_shown", is_flag=True, help="Show the page in the browser.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the page there.")
@force_option
def command(
    settings: Settings, bundle: Path, *, is_shown: bool, output: Path | None, force: bool
) -> int:
    """Show the page of a bundle.

    Its files are checked before: a page that was changed is not shown.
    """
    from graphopt.deploy import Bundle, BundleComparison
    from graphopt.errors import UsageError

    loaded = Bundle.load(bundle)
    page = loaded.path / "report.html"
    if output is not None:
        page = _write(page, output, force=force)
    elif page.parent != bundle.absolute():
        if is_shown:
            raise UsageError(
                f"the page of `{bundle}` lies in an archive",
                hint=f"write it to a file: `graphopt report {bundle} --open -o report.html`",
            )
        # As the user named it, not the folder that it was resolved to.
        page = Path(f"{bundle}") / "report.html"
    # The answer of whatever opens pages on this system; 0 where it has taken the page.
    if is_shown and click.launch(page.absolute().as_uri()):
        raise UsageError(
            "no browser can be started",
            where=str(page),
            hint="open that file yourself: it is one page without scripts, and needs no server",
        )
    document = {
        "page": str(page),
        **BundleComparison([loaded], [bundle.name]).to_dict()["bundles"][0],
    }
    text = f"{BundleComparison([loaded], [bundle.name])}\n\npage: {page}"
    print_result(settings, text=text, document=document)
    return 0


def _write(page: Path, output: Path, *, force: bool) -> Path:
    from graphopt.errors import OutputError
    from graphopt.ir import atomic_file

    if output.exists() and not force:
        raise OutputError(f"`{output}` exists already", hint="replace it with `--force`")
    with atomic_file(output) as stream:
        stream.write(page.read_bytes())
    return output
