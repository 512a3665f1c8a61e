"""`graphopt passes`."""

from __future__ import annotations

from graphopt.cli.options import cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings

__all__ = ["command"]


@cli_command(
    "passes",
    examples=(
        "graphopt passes",
        "graphopt passes --json   the contract and the options of each, too",
    ),
)
def command(settings: Settings) -> int:
    """List the passes, and the pipelines that have a name.

    Numerics say how far a pass may move the outputs: not at all, by rounding, or within a measured
    budget. `graphopt explain PASS` shows the whole contract, `graphopt explain @PIPELINE` its
    passes.
    """
    from dataclasses import asdict

    from graphopt.cli.pass_text import pass_document
    from graphopt.pipeline import find_pass, named_pipelines, pass_names
    from graphopt.report import format_table

    documents = [pass_document(find_pass(name)) for name in pass_names()]
    rows = [(item["name"], item["numerics"], item["summary"]) for item in documents]
    pipelines = [asdict(pipeline) for pipeline in named_pipelines()]
    named = [(f"@{item['name']}", item["summary"]) for item in pipelines]
    tables = [
        format_table(("pass", "numerics", "summary"), rows),
        format_table(("pipeline", "summary"), named),
    ]
    document = {"passes": documents, "pipelines": pipelines}
    print_result(settings, text="\n\n".join(tables), document=document)
    return 0
