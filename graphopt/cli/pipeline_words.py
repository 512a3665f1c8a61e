"""The ways to write a pipeline on a command line: text, a file, or words that need no quotes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import OptionError, UnknownNameError, UsageError, reason_of

__all__ = ["pipeline_text"]


def pipeline_text(
    text: str | None, file: Path | None, names: Sequence[str], values: Sequence[str]
) -> str:
    """Return pipeline text from exactly one of the three forms.

    Args:
        text: The value of ``--pipeline``.
        file: The value of ``--pipeline-file``.
        names: The values of ``-p``, in order.
        values: The values of ``--set``, ``PASS.OPTION=VALUE``; a name in `names` each.

    Raises:
        UsageError: Not exactly one form is given, or ``--set`` comes without ``-p``.
        OptionError: A value of ``--set`` has another form.
        UnknownNameError: ``--set`` names a pass that ``-p`` does not.
    """
    given = [form for form in (text, file, names or None) if form is not None]
    if len(given) != 1:
        raise UsageError(
            "give the pipeline in exactly one way",
            why=f"{len(given)} of `--pipeline`, `--pipeline-file` and `-p` are given",
            hint="for example `--pipeline '@exact'`, or `-p fold-constants`",
        )
    if values and not names:
        raise UsageError("`--set` goes with `-p`", hint="write options into the text: 'pass{a=1}'")
    if file is not None:
        return _read(file)
    return text if text is not None else _joined(names, values)


def _joined(names: Sequence[str], values: Sequence[str]) -> str:
    options: dict[str, list[str]] = {name: [] for name in names}
    for value in values:
        place, separator, _ = value.partition("=")
        # From the right: names of passes from plug-ins may hold dots, options never do.
        name, dot, _ = place.rpartition(".")
        if not separator or not dot:
            raise OptionError(
                f"`{value}` does not fit `--set`",
                why="expected `PASS.OPTION=VALUE`",
                hint="for example `--set fold-constants.max_bytes=4096`",
            )
        if name not in options:
            raise UnknownNameError("pass in `--set`", name, names)
        options[name].append(value[len(name) + 1 :])
    return ",".join(
        f"{name}{{{' '.join(options[name])}}}" if options[name] else name for name in names
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "the pipeline file cannot be read", where=str(file), why=reason_of(error)
        ) from error
