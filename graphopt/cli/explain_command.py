"""`graphopt explain`."""

from __future__ import annotations

import re
from typing import Any

import click

from graphopt.cli.error_pages import error_page
from graphopt.cli.options import PASS, calibration_option, cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import UsageError

__all__ = ["command"]


@cli_command(
    "explain",
    examples=(
        "graphopt explain fold-constants                     contract and options of a pass",
        "graphopt explain @exact                             the passes of a named pipeline",
        "graphopt explain G203                               what an error means, what to do",
        "graphopt explain model.onnx --pass fold-constants   where it acts, where not, and why",
        "graphopt explain model.onnx --pass 'prune-heads{score=l2 compensation=off}'   which heads",
    ),
)
@click.argument("topic", metavar="PASS|@PIPELINE|CODE|MODEL", type=PASS)
@click.option(
    "--pass", "pass_text", type=PASS, help="With a model: the pass to explain on it, with options."
)
@calibration_option
def command(settings: Settings, topic: str, pass_text: str | None, calibration: str | None) -> int:
    """Explain a pass, a named pipeline, an error code, or a pass on a model.

    A pass is asked of the model as it is. What stands before it in a pipeline, @exact as a rule,
    may clear its way: `graphopt run` that first, and ask what it wrote.
    """
    if pass_text is not None:
        _explain_on_model(settings, topic, pass_text, calibration)
    # No pass is called so, by the rule for their names.
    elif re.fullmatch(r"[Gg]\d+", topic):
        page = error_page(topic.upper())
        print_result(settings, text=page, document={"code": topic.upper(), "text": page})
    elif topic.startswith("@"):
        _explain_pipeline(settings, topic.removeprefix("@"))
    elif topic.endswith((".onnx", ".textproto")):
        hint = f"graphopt explain {topic} --pass fold-constants"
        raise UsageError("explaining a model needs a pass", hint=f"for example `{hint}`")
    else:
        _explain_pass(settings, topic)
    return 0


def _explain_pass(settings: Settings, name: str) -> None:
    from graphopt.cli.pass_text import pass_document, pass_page
    from graphopt.pipeline import find_pass

    kind = find_pass(name)
    print_result(settings, text=pass_page(kind), document={"pass": pass_document(kind)})


def _explain_pipeline(settings: Settings, name: str) -> None:
    from dataclasses import asdict

    from graphopt.pipeline import find_named_pipeline

    found = find_named_pipeline(name)
    text = f"@{found.name}: {found.summary}\n\n{found.text}"
    print_result(settings, text=text, document={"pipeline": asdict(found)})


def _explain_on_model(
    settings: Settings, model: str, pass_text: str, calibration: str | None
) -> None:
    from graphopt import api
    from graphopt.report import decisions_text, exits_text

    found = api.explain(model, pass_text, calibration=calibration)
    journal = found.to_dict()
    text = _journal_text(pass_text, journal)
    if found.decisions:
        text += "\n\n" + decisions_text(found.decisions)
    if found.exits:
        text += "\n\n" + exits_text(found.exits)
    print_result(settings, text=text, document={"model": model, "pass": pass_text, **journal})


def _journal_text(pass_text: str, journal: dict[str, Any]) -> str:
    from graphopt.report import format_table

    edits, refusals = journal["edits"], journal["refusals"]
    parts = [f"{pass_text}: {_count(edits, 'edit')}, {_count(refusals, 'refusal')}"]
    if not edits and not refusals:
        name = pass_text.partition("{")[0]
        parts += [f"Nothing in it is what the pass looks for: `graphopt explain {name}` says what."]
    if edits:
        rows = [(item["where"], item["because"]) for item in edits]
        parts += ["", format_table(("edited", "because"), rows)]
    if refusals:
        rows = [(item["where"], f"{item['slug']}: {item['why']}") for item in refusals]
        parts += ["", format_table(("refused", "reason"), rows)]
    return "\n".join(parts)


def _count(items: list[Any], noun: str) -> str:
    return f"{len(items)} {noun}" + ("" if len(items) == 1 else "s")
