"""The docstring of a pass has six fixed parts, its example runs, and its refusals are the code's."""

import pytest
from canonical_text import canonical_text
from laws import (
    SECTIONS,
    documented_slugs,
    example,
    example_samples,
    refused_slugs,
    run,
    sections,
    texts_in_code,
)
from made_up_statistics import read_samples

from graphopt.ir import from_text
from graphopt.pipeline import Pipeline, find_pass, pass_names

pytestmark = pytest.mark.parametrize("cls", [find_pass(name) for name in pass_names()])


def test_six_parts_in_order(cls):
    found = sections(cls)
    assert tuple(found) == SECTIONS
    assert all(text.strip() for text in found.values())


def test_summary_is_one_sentence(cls):
    summary, blank = cls.__doc__.splitlines()[:2]
    assert summary.endswith(".")
    assert len(summary) <= 100
    assert not blank.strip()


def test_example_runs(cls):
    pipeline, before, after = example(cls)
    model = from_text(before)
    samples = read_samples(example_samples(cls), model)
    ledger = run(Pipeline.parse(pipeline), model, samples)
    assert ledger.edits
    assert canonical_text(model) == canonical_text(from_text(after))


def test_refusals_are_documented_and_real(cls):
    documented = documented_slugs(cls)
    assert refused_slugs(cls) <= documented
    assert documented <= texts_in_code()
