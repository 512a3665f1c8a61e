"""Run every `tests/passes/<pass>.md`; see `docs/goldens.md` for the form."""

from pathlib import Path

import pytest
from goldens import check_golden, read_goldens, run_golden, updated

from graphopt.errors import OptionError
from graphopt.pipeline import pass_names

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*.md"))
CASES = [
    pytest.param(path, golden.title, id=f"{path.stem}: {golden.title}")
    for path in FILES
    for golden in read_goldens(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("path", "title"), CASES)
def test_golden(path, title, request):
    if request.config.getoption("--update-goldens"):
        update(path)
    goldens = read_goldens(path.read_text(encoding="utf-8"))
    (golden,) = [golden for golden in goldens if golden.title == title]
    check_golden(golden, run_golden(golden))


def update(path):
    text = path.read_text(encoding="utf-8")
    new = updated(text, [(golden, run_golden(golden)) for golden in read_goldens(text)])
    if new != text:
        path.write_text(new, encoding="utf-8")


@pytest.mark.parametrize("name", pass_names())
def test_every_pass_has_goldens_with_a_match_and_named_after_it(name):
    goldens = read_goldens((FOLDER / f"{name.replace('-', '_')}.md").read_text(encoding="utf-8"))
    assert all(name in golden.text("pipeline") for golden in goldens)
    assert any(golden.text("onnx after") for golden in goldens)


def test_every_golden_file_belongs_to_a_pass():
    assert {path.stem.replace("_", "-") for path in FILES} <= set(pass_names())


EXAMPLE = """
# toy

Prose, with `code`.

```python
ignored = True
```

## One

```pipeline
external-onnx-ir{factory="onnx_ir.passes.common:RemoveUnusedNodesPass"}
```

```onnx before
(float[N] x) => (float[N] y) { a = Exp(x) b = Relu(x) y = Abs(b) }
```

```onnx after
(float[N] x) => (float[N] y) { t = Relu(x) y = Abs(t) }
```

```edits
1
```
"""


def test_example_passes_and_is_left_as_it_is_by_an_update():
    (golden,) = read_goldens(EXAMPLE)
    outcome = run_golden(golden)
    check_golden(golden, outcome)
    assert updated(EXAMPLE, [(golden, outcome)]) == EXAMPLE


WRONG = {
    "after": ("t = Relu(x)", "t = Exp(x)"),
    "edits": ("1\n```\n", "2\n```\n"),
    "pipeline": ("RemoveUnusedNodesPass", "TopologicalSortPass"),
    "unexpected error": ("RemoveUnusedNodesPass", "Nothing"),
    "refused": ("```edits\n1", "```refused\nsome-slug"),
    "error": ("```edits\n1", "```error\nPassError: x"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_golden_fails(what):
    (golden,) = read_goldens(EXAMPLE.replace(*WRONG[what]))
    with pytest.raises((AssertionError, OptionError)):
        check_golden(golden, run_golden(golden))


@pytest.mark.parametrize("what", ["after", "edits"])
def test_update_repairs_a_wrong_golden(what):
    text = EXAMPLE.replace(*WRONG[what])
    (golden,) = read_goldens(text)
    (repaired,) = read_goldens(updated(text, [(golden, run_golden(golden))]))
    check_golden(repaired, run_golden(repaired))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# a\n```pipeline\nx\n```", "has no block `onnx before`"),
        ("# a\n```onnx before\nx\n```", "has no block `pipeline`"),
        ("# a\n```onnx afterwards\nx\n```", "unknown block"),
        ("# a\n```edits\n1\n```\n```edits\n1\n```", "a second block"),
        ("# a\n```edits\n1", "never closed"),
        ("```edits\n1\n```", "before the first heading"),
        (EXAMPLE + EXAMPLE, "the same heading"),
    ],
)
def test_malformed_file(text, message):
    with pytest.raises(AssertionError, match=message):
        read_goldens(text)
