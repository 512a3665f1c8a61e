"""Every line of a target file says why it is there, and `targets show` repeats it."""

import tomllib

import pytest

from graphopt.targets import explained, load_target, target_names
from graphopt.targets.loading import inheritance
from graphopt.targets.reasons import load_reasons, reasons_in

TEXT = """
# of the file, and of nobody

name = "a" # beside
# above,
# in two lines
threads = 1

# of the table
[runtime]
config = { "a#b" = "c" } # a table in one line
list = [
  1, # inside
  2,
] # behind

[[runtime.providers]]
name = "First" # one
[[runtime.providers]] # two
'quoted' = 'it''s'
"""


def test_comments_belong_to_the_line_that_they_stand_at():
    text = TEXT.replace("'it''s'", '"it\'s # no comment"')
    tomllib.loads(text)
    assert reasons_in(text) == {
        ("name",): "beside",
        ("threads",): "above, in two lines",
        ("runtime",): "of the table",
        ("runtime", "config"): "a table in one line",
        ("runtime", "list"): "behind",
        ("runtime", "providers", "0", "name"): "one",
        ("runtime", "providers", "1"): "two",
    }


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_child_that_sets_a_value_anew_does_not_inherit_its_reason(tmp_path):
    parent = write(
        tmp_path,
        "parent.toml",
        "[a]\nx = 1 # of the parent\ny = 2 # kept\n[[a.list]]\nz = 1 # gone\n",
    )
    child = write(tmp_path, "child.toml", "[a]\nx = 3\n[[a.list]]\nname = 1 # new\n")
    assert load_reasons([parent, child]) == {
        ("a", "y"): "kept",
        ("a", "list", "0", "name"): "new",
    }


@pytest.mark.parametrize("name", target_names())
def test_every_line_of_every_target_has_a_reason(name):
    reasons = load_reasons(inheritance(name))
    document = {}
    for path in inheritance(name):
        merge(document, tomllib.loads(path.read_text(encoding="utf-8")))
    lines = {path for path in leaves(document) if path[0] not in UNEXPLAINED}
    missing = {path for path in lines if not is_explained(path, reasons)}
    assert not missing


UNEXPLAINED = {"name", "summary", "extends", "candidates"}  # candidates have summaries


def is_explained(path, reasons):
    """A provider is explained as a whole: by its own comment, or by that of one of its lines."""
    if path[:2] == ("runtime", "providers"):
        return any(known[:3] == path[:3] for known in reasons) or not path[2:]
    return any(path[:length] in reasons for length in range(2, len(path) + 1)) or path in reasons


def merge(below, over):
    for key, item in over.items():
        if isinstance(item, dict) and isinstance(below.get(key), dict):
            merge(below[key], item)
        else:
            below[key] = item


def leaves(item, path=()):
    if isinstance(item, dict):
        return [leaf for key, part in item.items() for leaf in leaves(part, (*path, key))]
    if isinstance(item, list) and item and isinstance(item[0], dict):
        pairs = enumerate(item)
        return [leaf for number, part in pairs for leaf in leaves(part, (*path, str(number)))]
    return [path]


def test_every_candidate_says_what_it_is_good_for():
    for name in target_names():
        assert all(candidate.summary for candidate in load_target(name).candidates), name


@pytest.mark.parametrize("name", target_names())
def test_what_is_shown_loads_as_the_same_target_and_holds_the_reasons(name, tmp_path):
    target = load_target(name)
    text, reasons = explained(target, name)
    assert load_target(write(tmp_path, "shown.toml", text)) == target
    shown = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert all(why in shown for why in reasons.values())


def test_what_is_shown_of_a_file_is_read_from_that_file(tmp_path):
    path = write(
        tmp_path,
        "board.toml",
        'name = "board"\nsummary = "b"\nextends = "cpu-int8"\n[runtime]\nthreads = 2 # two cores\n',
    )
    text, reasons = explained(load_target(path), path)
    assert "# two cores\nthreads = 2" in text
    assert reasons["gates.max_size_ratio"] == "integers have no excuse for growing"
