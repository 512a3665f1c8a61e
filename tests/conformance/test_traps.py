"""`traps.md` lists the tests that hold each trap; here it is held to the truth."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
TRAPS = [
    line.removeprefix("- ").split(": ", maxsplit=1)
    for line in (FOLDER / "traps.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("- ")
]


@pytest.mark.parametrize(("trap", "places"), TRAPS, ids=[trap for trap, _ in TRAPS])
def test_trap_is_held_by_tests_that_exist(trap, places):
    found = re.findall(r'(tests/\S+) "([^"]+)"', places)
    assert found, f"no test is named for: {trap}"
    for file, title in found:
        text = (ROOT / file).read_text(encoding="utf-8")
        forms = (f"## {title}\n", f'    "{title}": (', f"def {title}(")
        assert any(form in text for form in forms), f"{file} has no {title!r}"
