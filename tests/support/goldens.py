"""Literate goldens: Markdown in which each heading is a test, and its blocks say what must happen."""

import re
import tomllib
from dataclasses import dataclass, field

from canonical_text import canonical_text, golden_text
from made_up_statistics import MadeUpStatistics, read_samples

from graphopt.errors import GraphoptError, UnsupportedModelError
from graphopt.ir import Checkpoint, clone, from_text, structure_digest
from graphopt.pipeline import Pipeline
from graphopt.pipeline.groups import allowed_difference
from graphopt.pipeline.numerics import NumericJudge
from graphopt.rewrite import Approximate, TargetFacts, ValueRange
from graphopt.verification import check_structure

FENCE = re.compile(r"^```(.*)$")
HEADING = re.compile(r"^#+ (.+)$")
KINDS = (
    "pipeline",
    "onnx before",
    "onnx after",
    "edits",
    "refused",
    "error",
    "ranges",
    "samples",
    "target",
)


@dataclass
class Block:
    """One fenced block: what it is, its text, and the lines between its fences."""

    kind: str
    text: str
    first: int
    last: int


@dataclass
class Golden:
    """One heading with the blocks below it."""

    title: str
    blocks: dict = field(default_factory=dict)

    def text(self, kind):
        block = self.blocks.get(kind)
        return None if block is None else block.text


def read_goldens(text):
    """Return the goldens of a Markdown text; headings without a pipeline are prose."""
    goldens, current, lines = [], None, text.splitlines()
    position = 0
    while position < len(lines):
        line = lines[position]
        if heading := HEADING.match(line):
            current = Golden(heading.group(1).strip())
            goldens.append(current)
        elif fence := FENCE.match(line):
            end = next(
                (at for at in range(position + 1, len(lines)) if lines[at].startswith("```")), None
            )
            assert end is not None, f"line {position + 1}: the block is never closed"
            _add(current, fence.group(1).strip(), lines, position + 1, end)
            position = end
        position += 1
    goldens = [golden for golden in goldens if golden.blocks]
    titles = [golden.title for golden in goldens]
    assert len(titles) == len(set(titles)), "two tests have the same heading"
    for golden in goldens:
        assert "pipeline" in golden.blocks, f"`{golden.title}` has no block `pipeline`"
        assert "onnx before" in golden.blocks, f"`{golden.title}` has no block `onnx before`"
    return goldens


def _add(golden, kind, lines, first, last):
    if kind not in KINDS:
        assert not kind.startswith(("onnx", *KINDS)), f"line {first}: unknown block `{kind}`"
        return  # prose may hold other code
    assert golden is not None, f"line {first}: a block before the first heading"
    assert kind not in golden.blocks, f"line {first}: a second block `{kind}`"
    golden.blocks[kind] = Block(kind, "\n".join(lines[first:last]).strip(), first, last)


@dataclass
class Outcome:
    """What came of running a golden: the text of each block as it should be."""

    actual: dict
    before: object = None
    after: object = None
    pipeline: object = None


def run_golden(golden):
    """Run the pipeline of a golden on its model."""
    before = from_text(golden.text("onnx before"))
    model = clone(before)
    digest = structure_digest(model)
    try:
        pipeline = Pipeline.parse(golden.text("pipeline"))
        result = pipeline.run(model, verify="off", reproducer_dir=None, **_facts(golden, before))
    except GraphoptError as error:
        if golden.text("error") is None:
            raise
        # A pass that raises is wrapped; what it raised is what the golden is about.
        shown = error.__cause__ if isinstance(error.__cause__, GraphoptError) else error
        return Outcome({"error": f"{type(shown).__name__}: {shown}"})
    journal = result.ledger.journal
    assert bool(journal.edits) == (structure_digest(model) != digest), "the journal does not tell"
    refused = [f"{refusal.slug}: {refusal.where}" for refusal in journal.refusals]
    actual = {"edits": str(len(journal.edits)), "refused": "\n".join(refused)}
    return Outcome(actual, before=before, after=model, pipeline=pipeline)


def _facts(golden, model):
    ranges = {}
    for line in (golden.text("ranges") or "").splitlines():
        name, limits = line.split(":")
        ranges[name.strip()] = ValueRange(*map(float, limits.split()))
    target = tomllib.loads(golden.text("target") or "")
    samples = read_samples(golden.text("samples") or "", model)
    provider = MadeUpStatistics(model, samples, ranges, ValueRange(-1.0, 1.0))
    return {"statistics_provider": provider, "target": TargetFacts(**target)}


def check_golden(golden, outcome):
    """Compare an outcome with what the golden says, block by block."""
    expected_error, error = golden.text("error"), outcome.actual.get("error")
    if expected_error is not None or error is not None:
        assert error == expected_error
        return
    wanted = golden.text("onnx after") or golden.text("onnx before")
    assert canonical_text(outcome.after) == canonical_text(from_text(wanted))
    for kind in ("edits", "refused"):
        if golden.text(kind) is not None:
            assert _matches(kind, outcome.actual[kind], golden.text(kind)), outcome.actual[kind]
    assert outcome.actual["refused"] == "" or golden.text("refused") is not None, (
        "there are refusals, and no block `refused`"
    )
    check_structure(outcome.after)
    check_numerics(outcome)


def _matches(kind, actual, expected):
    """Compare; a refusal may be given by its slug alone."""
    actual, expected = sorted(actual.splitlines()), sorted(expected.splitlines())
    if kind == "refused" and len(actual) == len(expected):
        pairs = zip(actual, expected, strict=True)
        actual = [line if ":" in other else line.split(":")[0] for line, other in pairs]
    return actual == expected


def check_numerics(outcome):
    """Hold the contract between before and after, where the runtime can run the model."""
    edited = list(outcome.pipeline.passes())
    numerics = allowed_difference(edited)
    if isinstance(numerics, Approximate) or any(p.contract.changes_interface for p in edited):
        return
    judge = NumericJudge(Checkpoint.take(outcome.before))
    try:
        judge.check(outcome.after, numerics)
    except UnsupportedModelError:
        return  # operators of other domains, inputs that cannot be generated


def updated(text, outcomes):
    """Return a Markdown text with the blocks brought up to date.

    Args:
        text: The Markdown.
        outcomes: Pairs of golden and outcome, in the order of the text.
    """
    lines = text.splitlines()
    for golden, outcome in reversed(outcomes):
        actual = dict(outcome.actual)
        if outcome.after is not None and "onnx after" in golden.blocks:
            actual["onnx after"] = golden_text(outcome.after)
            wanted = from_text(golden.text("onnx after"))
            if canonical_text(wanted) == canonical_text(outcome.after):
                del actual["onnx after"]  # keep what was written by hand
        for block in sorted(golden.blocks.values(), key=lambda block: -block.first):
            new = actual.get(block.kind)
            if new is not None and not (
                block.kind == "refused" and _matches("refused", new, block.text)
            ):
                lines[block.first : block.last] = new.splitlines()
    return "\n".join(lines) + "\n"
