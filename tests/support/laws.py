"""The laws that every pass keeps, checked on one model."""

import ast
import functools
import inspect
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from made_up_statistics import MadeUpStatistics
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from random_models import feeds_of

import graphopt
from graphopt.errors import OptionError
from graphopt.ir import clone, model_bytes
from graphopt.pipeline import Pipeline
from graphopt.pipeline.groups import allowed_difference
from graphopt.rewrite import Approximate, ValueRange, option_specs
from graphopt.verification import Interface, compare_outputs, contract_fault, structure_faults

SECTIONS = (
    "What it does",
    "When it refuses",
    "What it keeps",
    "Cost",
    "Example",
    "References",
)
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
PACKAGE = Path(graphopt.__file__).parent
BATCHES = (2, 3)


class LawBroken(AssertionError):
    """A pass broke a law; the message says which, and on what."""


def run(pipeline, model, samples=None, **settings):
    """Run on a model without verification; what is not known of the model is made up."""
    given = {
        "verify": "off",
        "reproducer_dir": None,
        "target": _target(),
        "statistics_provider": MadeUpStatistics(clone(model), samples, {}, ValueRange(-4.0, 4.0)),
    }
    return pipeline.run(model, **given, **settings).ledger


def _target():
    from graphopt.rewrite import TargetFacts

    return TargetFacts()


def check_laws(pipeline, model):
    """Run a pipeline on a copy of ``model`` and hold it to every law.

    Raises:
        LawBroken: It broke one.
    """
    passes = list(pipeline.passes())
    before = model_bytes(model)
    result = clone(model)
    ledger = run(pipeline, result)
    after = model_bytes(result)
    _law(model_bytes(model) == before, "the input is untouched")
    _law(bool(ledger.edits) == (after != before), "an edit is recorded iff the bytes change")
    faults = structure_faults(result)
    _law(not faults, "the structure is sound", faults)
    _checker_accepts(result)
    if not any(pass_.contract.changes_interface for pass_ in passes):
        changes = Interface.of(model).differences(Interface.of(result))
        _law(not changes, "the interface is kept", changes)
    again = clone(model)
    run(pipeline, again)
    _law(model_bytes(again) == after, "the same input gives the same bytes")
    if all(pass_.contract.is_idempotent for pass_ in passes):
        second = run(pipeline, clone(result))
        _law(not second.edits, "a second run edits nothing", second.journal.edits)
    for refusal in ledger.journal.refusals:
        known = documented_slugs(type(_pass_named(passes, refusal.pass_name)))
        _law(refusal.slug in known, "a refusal is documented", refusal)
    _numerics_hold(passes, before, after, model)
    return ledger


def _law(holds, what, shown=""):
    if not holds:
        raise LawBroken(f"{what}: {shown}")


def _pass_named(passes, name):
    return next(pass_ for pass_ in passes if pass_.name == name)


def _checker_accepts(model):
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except onnx.checker.ValidationError as error:
        raise LawBroken(f"the checker accepts the result: {error}") from error


def _numerics_hold(passes, before, after, model):
    numerics = allowed_difference(passes)
    reference = _session(before)
    try:
        candidate = _session(after)
    except Exception as error:
        raise LawBroken(f"the runtime loads the result: {error}") from error
    # A pass that may change the interface can take inputs away, if they have a default.
    taken = {spec.name for spec in candidate.get_inputs()}
    taken |= {spec.name for spec in candidate.get_overridable_initializers()}
    keeps_types = not any(pass_.contract.changes_interface for pass_ in passes)
    for batch in BATCHES:
        feeds = {name: fed for name, fed in feeds_of(model, batch).items() if name in taken}
        if not keeps_types and not _fit(candidate, feeds):
            continue
        try:
            expected = _outputs(reference, feeds)
        except Fail as error:
            if "TensorSeq" not in str(error):  # sequences that leave an If: a fault of the runtime
                raise
            continue
        found = _outputs(candidate, feeds)
        if isinstance(numerics, Approximate):
            shapes = [
                [(v.shape, v.dtype if keeps_types else None) for v in side.values()]
                for side in (expected, found)
            ]
            _law(shapes[0] == shapes[1], "types and shapes of outputs are kept", shapes)
            continue
        for name, difference in compare_outputs(expected, found).items():
            fault = contract_fault(difference, numerics)
            _law(not fault, f"numerics hold at output {name}", fault)


def _fit(session, feeds):
    """Tell whether inputs have the sizes that a session declares: a pass may have fixed some."""
    declared = {spec.name: spec.shape for spec in session.get_inputs()}
    return all(
        not isinstance(size, int) or size == given
        for name, fed in feeds.items()
        for size, given in zip(declared.get(name, ()), fed.shape, strict=False)
    )


def _outputs(session, feeds):
    return dict(zip(_names(session), session.run(None, _in_types_of(session, feeds)), strict=True))


def _in_types_of(session, feeds):
    """Return the feeds with 16-bit floats where a session takes such."""
    half = {spec.name for spec in session.get_inputs() if spec.type == "tensor(float16)"}
    return {
        name: fed.astype(np.float16) if name in half and fed.dtype == np.float32 else fed
        for name, fed in feeds.items()
    }


def _session(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")  # as the pass manager does
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _names(session):
    return [output.name for output in session.get_outputs()]


# -- docstrings -----------------------------------------------------------------------------------


def sections(cls):
    """Return the fixed sections of a pass's docstring, by title."""
    found, title = {}, None
    for line in inspect.getdoc(cls).splitlines():
        if line and not line.startswith(" ") and line in SECTIONS:
            title = line
            found[title] = []
        elif title is not None:
            found[title].append(line)
    return {title: "\n".join(lines).strip("\n") for title, lines in found.items()}


def documented_slugs(cls):
    """Return the slugs that open the entries of the section on refusals."""
    text = sections(cls).get("When it refuses", "")
    return set(re.findall(r"^\s*`([a-z0-9-]+)`", text, flags=re.MULTILINE))


@functools.cache
def texts_in_code():
    """Return every text of the package that could be a slug, docstrings aside.

    A slug may be decided by what a pass calls, so that looking into the file of the pass is not enough.
    """
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    constants = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    texts = {node.value for node in constants if isinstance(node.value, str)}
    return {text for text in texts if SLUG.match(text)}


def refused_slugs(cls):
    """Return the slugs written out in calls of `edit.refuse` in the module of a pass."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    refusals = [call for call in calls if getattr(call.func, "attr", "") == "refuse"]
    slugs = [argument for call in refusals for argument in call.args[1:2]]
    return {slug.value for slug in slugs if isinstance(slug, ast.Constant)}


def example(cls):
    """Return the pipeline, the model before and the model after of the Example of a docstring."""
    text = sections(cls)["Example"]
    found = re.fullmatch(
        r"\s*(?:behind\s+(.*?)\n)?\s*(?:options\s+(\{.*\})\s*\n)?(?:\s*samples\s.*?\n)*\s*before\s(.*?)\n\s*after\s(.*)",
        text,
        flags=re.DOTALL,
    )
    assert found, "the Example is `before MODEL` and `after MODEL`, with `options {...}` if need be"
    behind, options, before, after = found.groups()
    pipeline = f"{behind.strip()}," if behind else ""
    return f"{pipeline}{cls.name}{options or ''}", before.strip(), after.strip()


def pipeline_before(cls):
    """Return what the Example of a pass stands behind; an empty pipeline where that is nothing."""
    behind = re.match(r"\s*behind\s+(.*)", sections(cls)["Example"])
    return Pipeline.parse(behind.group(1)) if behind else Pipeline()


def example_samples(cls):
    """Return the samples of the Example of a docstring as text, "" where it has none."""
    lines = sections(cls)["Example"].splitlines()
    return "\n".join(
        line.strip().removeprefix("samples ")
        for line in lines
        if line.strip().startswith("samples ")
    )


# -- options --------------------------------------------------------------------------------------


def instances(cls):
    """Return a strategy for a pass, with its default options or with any that are valid."""
    from hypothesis import strategies as st

    fields = {spec.name: _values(spec) for spec in option_specs(cls)}
    return st.just(cls()) | st.fixed_dictionaries({}, optional=fields).map(
        lambda given: _without_contradictions(cls, given)
    )


def _without_contradictions(cls, given):
    """Return a pass with the options given, but those that contradict the ones before them."""
    kept = {}
    for name, value in given.items():
        try:
            cls(**kept, **{name: value})
        except OptionError:
            continue
        kept[name] = value
    return cls(**kept)


def _values(spec):
    from hypothesis import strategies as st

    least, most = spec.minimum, spec.maximum
    if spec.choices is not None:
        one = st.sampled_from(spec.choices)
    elif spec.type is bool:
        one = st.booleans()
    elif spec.type is int:
        low = 0 if least is None else int(least)
        high = low + 10_000 if most is None else int(most)
        one = st.just(low) | st.integers(low, high)
    elif spec.type is float:
        one = st.floats(least, most, allow_nan=False)
    else:
        return st.just(spec.default)
    if spec.is_list:
        one = st.lists(one, max_size=3).map(tuple)
    return one | st.just(spec.default)


def one_pass(pass_):
    """Return a pipeline of one pass."""
    return Pipeline.of(pass_)
