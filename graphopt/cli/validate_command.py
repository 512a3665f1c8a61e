"""`graphopt validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli.options import cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import UsageError

__all__ = ["command"]

VOUCHING = ("archive", "signature", "manifest", "files")


@cli_command(
    "validate",
    examples=(
        "graphopt validate model.cpu-int8",
        "graphopt validate model.zip --public-key minisign.pub",
        "graphopt validate model.cpu-int8 --runtime 1.20.1",
        "graphopt validate model.edge-arm64 --device ssh://pi@board.local --latency",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--latency", is_flag=True, help="Measure one run too, on the golden inputs.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The original model: timed beside it where memory allows.",
)
@click.option("--public-key", metavar="FILE|KEY", help="Who must have signed it (minisign).")
@click.option(
    "--runtime",
    metavar="RELEASE|PYTHON",
    help="Check it with another onnxruntime, in an environment of its own: 1.20.1.",
)
@click.option(
    "--device",
    "addresses",
    metavar="ADDRESS",
    multiple=True,
    help="Check it there: ssh://[user@]host[:port] or adb://serial; repeatable.",
)
@click.option(
    "--fleet", type=click.Path(path_type=Path), help="TOML file of devices, checked at once."
)
def command(settings: Settings, bundle: Path, **given: Any) -> int:
    """Check a bundle on this machine, or on devices.

    BUNDLE is a folder, or a file that ends in .zip or .tar.zst.
    """
    from graphopt.deploy import validate, validate_with
    from graphopt.deploy.on_device import key_text

    key = key_text(given["public_key"])
    timing = {name: given[name] for name in ("latency", "reference")}
    if given["runtime"] is not None:
        _refuse_beside_runtime(given)
        report = validate_with(bundle, given["runtime"], latency=given["latency"], public_key=key)
        print_result(settings, text=str(report), document=report.to_dict())
        return report.exit_code
    report = validate(bundle, public_key=key, **timing)
    if not given["addresses"] and given["fleet"] is None:
        print_result(settings, text=str(report), document=report.to_dict())
        return report.exit_code
    # What nobody vouches for goes nowhere. Another check may fail here and pass there.
    if any(check["status"] == "failed" for check in report.checks if check["name"] in VOUCHING):
        print_result(settings, text=str(report), document=report.to_dict())
        return report.exit_code
    return _visit(settings, bundle, report.to_dict(), given, timing)


def _refuse_beside_runtime(given: dict[str, Any]) -> None:
    """Refuse what a check in another environment does not do, in place of leaving it undone."""
    options = {"--device": "addresses", "--fleet": "fleet", "--reference": "reference"}
    beside = [option for option, name in options.items() if given[name]]
    if beside:
        raise UsageError(
            f"`--runtime` does not go with `{beside[0]}`",
            why="another release checks the bundle on this machine, alone",
            hint="run `graphopt validate` once for each",
        )


def _visit(
    settings: Settings,
    bundle: Path,
    here: dict[str, Any],
    given: dict[str, Any],
    timing: dict[str, Any],
) -> int:
    from graphopt.deploy import Bundle, FleetDevice, FleetReport, load_fleet, validate_on

    devices = load_fleet(given["fleet"]) if given["fleet"] is not None else []
    devices += [FleetDevice(name=text, address=text) for text in given["addresses"]]
    results = validate_on(Bundle.load(bundle), devices, **timing)
    fleet = FleetReport(here, results)
    print_result(settings, text=str(fleet), document=fleet.to_dict())
    return fleet.exit_code
