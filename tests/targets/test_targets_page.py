"""What `docs/targets.md` says is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graphopt.targets import GATES, load_target

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "targets.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_examples_load(tmp_path):
    assert len(EXAMPLES) == 2
    for text in EXAMPLES:
        path = tmp_path / "example.toml"
        path.write_text(text, encoding="utf-8")
        load_target(path)
    board = load_target(path)
    assert [item.name for item in board.enabled_candidates()] == [
        "outliers",
        "outliers-static",
        "outliers-fused",
        "dynamic",
        "fused",
        "tuned-weights",
        "weights",
        "float",
        "both",
    ]
    assert "max_size_ratio" not in board.gates


@pytest.mark.parametrize("name", GATES)
def test_gate_table_is_complete_and_right(name):
    (row,) = re.findall(rf"^\| `{name}` \| (correctness|goal) \|", PAGE, re.MULTILINE)
    assert row == GATES[name].kind


@pytest.mark.parametrize("column", [0, 1, 2])
def test_limits_in_the_table_are_those_of_the_targets(column):
    target = load_target(("cpu-fp32", "cpu-int8", "cpu-int4")[column])
    table = PAGE.split("## The targets")[1].split("\n\n")[1]
    rows = re.findall(r"^\| `(m\w+)` \| (\S+) \| (\S+) \| (\S+) \|$", table, re.MULTILINE)
    shown = {row[0]: float(row[1 + column]) for row in rows if row[1 + column] != "-"}
    assert shown == target.gates


@pytest.mark.parametrize("column", [0, 1, 2])
def test_candidates_in_the_table_are_those_of_the_targets(column):
    target = load_target(("cpu-fp32", "cpu-int8", "cpu-int4")[column])
    (row,) = re.findall(r"^\| candidates \| (.*) \|$", PAGE, re.MULTILINE)
    # Those that need a word of what they are like are told by others: `outliers` with ...
    shown = dict.fromkeys(re.findall(r"(?:^|[;,] |and )`([\w-]+)`", row.split(" | ")[column]))
    assert list(shown) == [item.name for item in target.enabled_candidates()]


@pytest.mark.parametrize("page", sorted(item.name for item in DOCS.glob("*.md")))
def test_targets_of_other_pages_load(page, tmp_path):
    text = (DOCS / page).read_text(encoding="utf-8")
    path = tmp_path / "example.toml"
    for example in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        if "\nextends" in f"\n{example}":
            path.write_text(example, encoding="utf-8")
            load_target(path)
