"""`graphopt validate`."""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command("validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--latency", is_flag=True, help="Measure one run too, on the golden inputs.")
@click.option("--public-key", metavar="FILE|KEY", help="Who must have signed it (minisign).")
def command(settings: Settings, bundle: Path, latency: bool, public_key: str | None) -> int:
    """Check a bundle on this machine: a folder, .zip or .tar.zst."""
    from graphopt.deploy import validate
    from graphopt.deploy.on_device import key_text

    report = validate(bundle, latency=latency, public_key=key_text(public_key))
    print_result(settings, text=str(report), document=report.to_dict())
    return report.exit_code
