"""`graphopt pack`."""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import cli_command, force_option
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "pack",
    examples=(
        "graphopt pack model.cpu-int8 -o model.zip",
        "graphopt pack model.cpu-int8 -o model.tar.zst --sign minisign.key --comment v1.2",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File that ends in .zip or .tar.zst, or a folder.",
)
@click.option("--sign", "key", type=click.Path(path_type=Path), help="Secret key of minisign.")
@click.option("--comment", default="", help="What the signature says.")
@force_option
def command(
    settings: Settings, bundle: Path, *, output: Path, key: Path | None, comment: str, force: bool
) -> int:
    """Write a bundle as one file, or signed.

    Its files are checked before. Files end in .zip or .tar.zst; everything else is a folder.
    """
    from graphopt.deploy import Bundle
    from graphopt.deploy.integrity import MANIFEST, file_sha256

    saved = Bundle.load(bundle).save(
        output, force, allow_missed_goals=True, secret_key=key, comment=comment
    )
    digest = file_sha256(saved.path / MANIFEST)
    document = {"output": str(output), "manifest_sha256": digest, "gates_met": saved.gates_met}
    print_result(settings, text=f"{output}\nmanifest sha256 {digest}", document=document)
    return 0
