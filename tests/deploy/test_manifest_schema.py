"""The manifest's JSON schema, as `validate.py` reads it without the `jsonschema` library."""

import copy
import json

import jsonschema
import pytest

from graphopt.deploy import schema_text
from graphopt.deploy.integrity import content_faults, is_safe_name, schema_faults

SCHEMA = json.loads(schema_text())
VALUES = [None, True, "text", "0" * 64, -1, 3, 0.5, [], {}, [1], {"key": 1}, ["text"], {"k": "v"}]


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else items:
        yield from places(item, (*path, key))


def replaced(document, path, new):
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def mutations(manifest):
    """Every value replaced by every other kind, every key taken away or joined by a strange one."""
    for path in places(manifest):
        if path:
            for value in VALUES:
                yield replaced(manifest, path, value)
        inner = manifest
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict):
            changed = dict(inner, strange=7)
            yield replaced(manifest, path, changed) if path else changed
            for key in inner:
                changed = {other: item for other, item in inner.items() if other != key}
                yield replaced(manifest, path, changed) if path else changed


@pytest.fixture(scope="module")
def manifest(bundle):
    """A manifest without most of its repetitions, so that every shape is there once."""
    small = copy.deepcopy(bundle.manifest)
    small["verified_on"]["cpu_features"] = ["avx2"]
    small["device"]["operators"] = {"": ["Add"]}
    small["files"] = dict(list(small["files"].items())[:1])
    small["gates"], small["created_by"] = small["gates"][:1], {"graphopt": "0.1"}
    return small


def test_our_reading_of_the_schema_agrees_with_the_library(manifest):
    library = jsonschema.Draft202012Validator(SCHEMA)
    verdicts = set()
    for changed in mutations(manifest):
        ours = not list(schema_faults(changed, SCHEMA, SCHEMA["$defs"], ""))
        assert ours == library.is_valid(changed), changed
        verdicts.add(ours)
    assert verdicts == {True, False}


def test_the_schema_uses_no_keyword_that_our_reading_does_not_know():
    known = {
        "$schema", "$id", "$ref", "$defs", "title", "description", "type", "properties", "required",
        "additionalProperties", "items", "enum", "const", "pattern", "minimum",
    }  # fmt: skip

    def keywords(schema):
        yield from schema
        parts = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
        parts += [schema.get("items"), schema.get("additionalProperties")]
        for part in parts:
            if isinstance(part, dict):
                yield from keywords(part)

    assert set(keywords(SCHEMA)) <= known


def test_a_pattern_does_not_let_a_final_newline_through(manifest):
    changed = replaced(manifest, ("source", "sha256"), "0" * 64 + "\n")
    assert list(schema_faults(changed, SCHEMA, SCHEMA["$defs"], ""))


def test_gates_met_cannot_be_claimed_against_the_gates(bundle):
    changed = copy.deepcopy(bundle.manifest)
    assert not list(content_faults(changed))
    changed["gates"][0]["passed"] = False
    assert list(content_faults(changed)) == ["`gates_met` is true although a gate failed"]


@pytest.mark.parametrize("name", ["model.onnx", "golden/inputs/0.npz", ".hidden", "a b", "ä.txt"])
def test_safe_names(name):
    assert is_safe_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/..", "/a", "a/", "a//b", "c:a", "a\\b", "a\n", "a.", "Manifest.json", "a?"],
)
def test_unsafe_names(name):
    assert not is_safe_name(name)
