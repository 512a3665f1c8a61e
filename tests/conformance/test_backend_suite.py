"""`@exact` on the backend test suite of the `onnx` package: no wrong result, no invalid model, no crash.

Of the 2,024 cases of onnx 1.23 the runtime 1.32 runs 1,828; the others must stay valid, and the same for
the reference evaluator where that can run them. A third of the cases is run a second time with all inputs
turned into constants, so that every operator is computed beforehand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conformance_cases import (
    STORED,
    Case,
    bit_difference,
    light_cases,
    node_cases,
    stored_cases,
    tolerated_difference,
)
from exact_runs import PLAIN, Exact, run_exact
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import GraphoptError, RuntimeFailure
from graphopt.pipeline import Pipeline, find_pass
from graphopt.pipeline.groups import allowed_difference
from graphopt.rewrite import Rounding
from graphopt.runtime import shared_worker
from graphopt.verification import Interface, compare_outputs, contract_fault

CHUNKS = 6
WHATEVER_IT_COSTS = "fold-constants{max_growth_bytes=1000000000},@exact"
CONSTANT = " (constant)"
RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"}
RANDOM |= {"RandomUniform", "RandomUniformLike"}
FED = {"flag": np.array(True)}


@dataclass
class Tally:
    """What came of the cases of one test."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def check(self, case: Case, **options) -> None:
        try:
            outcome = examine(case, **options)
        except (AssertionError, GraphoptError, onnx.checker.ValidationError) as error:
            outcome = "wrong"
            self.faults.append(f"{case.name}: {type(error).__name__}: {str(error)[:400]}")
        self.counts[outcome] += 1

    def settle(self, ran: int) -> None:
        """Assert that nothing is wrong, and that at least so many cases ran in the runtime."""
        print(dict(self.counts))  # noqa: T201 - shown with `-rP`
        assert not self.faults, "\n".join(self.faults)
        total = sum(self.counts[name] for name in ("both", "runtime", "unchanged"))
        assert total >= ran, self.counts


def examine(case: Case, pipeline: Pipeline | None = None) -> str:
    """Hold `@exact` to its promise on one case.

    Returns:
        Who could run the case: `both` evaluators, else `runtime` or `reference`, else `nobody`. What
        nothing was edited in is not run by the second one as well: it is the same model.
    """
    exact = run_exact(case.model, pipeline=pipeline)
    changes = exact.before.differences(Interface.of(exact.model))
    assert not changes, changes
    check_valid(exact)
    try:
        expected = run_in_runtime(exact.source, case)
    except RuntimeFailure:
        return examine_by_reference(exact, case)
    compare(exact, case, expected, run_in_runtime(exact.result, case))
    if not exact.ledger.edits:
        return "unchanged"
    check_loads(exact)
    if case.name.endswith(CONSTANT):  # computed by the runtime beforehand: nothing to compare
        return "runtime"
    return "both" if is_confirmed_by_reference(exact, case) else "runtime"


def check_valid(exact: Exact) -> None:
    """Assert that the checker accepts the result; some cases of the suite it rejects as they are."""
    try:
        onnx.checker.check_model(exact.source, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return
    onnx.checker.check_model(exact.result, full_check=True)


def check_loads(exact: Exact) -> None:
    """Assert that the runtime takes the result by default, where it took the original.

    Its own optimizations infer more than a plain session does, and may find a contradiction there.
    """
    try:
        shared_worker().load(exact.source.SerializeToString()).close()
    except RuntimeFailure:
        return
    shared_worker().load(exact.result.SerializeToString()).close()


def run_in_runtime(model: onnx.ModelProto, case: Case) -> list[dict[str, object]]:
    with shared_worker().load(model.SerializeToString(), PLAIN) as session:
        return [session.run(given) for given, _ in case.data]


def run_by_reference(model: onnx.ModelProto, case: Case) -> list[dict[str, object]]:
    names = [output.name for output in model.graph.output]
    evaluator = ReferenceEvaluator(model)
    return [dict(zip(names, evaluator.run(None, given), strict=True)) for given, _ in case.data]


def compare(exact: Exact, case: Case, expected, found) -> None:
    """Assert that outputs agree bit for bit, and with the suite where those of the original do."""
    for before, after, (_, suite) in zip(expected, found, case.data, strict=True):
        assert list(before) == list(after)
        for name, value in before.items():
            difference = bit_difference(value, after[name])
            if difference and is_half_precision(exact.source):
                difference = (
                    None if examine_by_reference(exact, case) == "reference" else difference
                )
            if difference and is_within_contract(exact, value, after[name]):
                difference = None
            assert not difference, f"output {name}: {difference}"
            if name in suite and not tolerance_fault(case, suite[name], value):
                fault = tolerance_fault(case, suite[name], after[name])
                assert not fault, f"output {name}: {fault}"


def is_within_contract(exact: Exact, expected, found) -> bool:
    """Tell whether passes that may round have edited, and round no more than they say."""
    names = {edit.pass_name for edit in exact.ledger.journal.edits}
    allowed = allowed_difference([find_pass(name)() for name in sorted(names)])
    if not isinstance(allowed, Rounding) or not isinstance(expected, np.ndarray):
        return False
    (difference,) = compare_outputs({"output": expected}, {"output": found}).values()
    return not contract_fault(difference, allowed)


def is_confirmed_by_reference(exact: Exact, case: Case) -> bool:
    """Compare by onnx's own evaluator as well, which rounds in ways of its own."""
    try:
        expected = run_by_reference(exact.source, case)
    except Exception:  # noqa: BLE001 - it raises whatever its Python code runs into
        return False
    found = run_by_reference(exact.result, case)
    again = run_by_reference(exact.source, case)
    for before, repeated, after in zip(expected, again, found, strict=True):
        for name, value in before.items():
            if RANDOM.intersection(exact.all_operators()):
                continue
            if bit_difference(plain(value), plain(repeated[name])):
                continue  # random as well: two runs may agree by chance only where there is little
            fault = tolerance_fault(case, plain(value), plain(after[name]))
            assert not fault, f"output {name}, by reference: {fault}"
    return True


def tolerance_fault(case: Case, expected, found):
    return tolerated_difference(expected, found, case.rtol, case.atol)


def is_half_precision(model: onnx.ModelProto) -> bool:
    """Tell whether the runtime emulates types by 32 bits, and rounds only where that ends.

    Which nodes are neighbours then decides about the last bit: `InsertCastTransformer` takes out
    conversions between them, whatever the level of optimization.
    """
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return any(
        value.type.tensor_type.elem_type in halves
        for value in (*model.graph.input, *model.graph.output)
    )


def examine_by_reference(exact: Exact, case: Case) -> str:
    """Compare by onnx's own evaluator, where that can run the original."""
    try:
        expected = run_by_reference(exact.source, case)
    except Exception:  # noqa: BLE001 - it raises whatever its Python code runs into
        return "nobody"
    again = run_by_reference(exact.source, case)
    found = run_by_reference(exact.result, case)
    for before, repeated, after in zip(expected, again, found, strict=True):
        for name, value in before.items():
            fault = bit_difference(plain(value), plain(after[name]))
            is_random = RANDOM.intersection(exact.all_operators())
            if fault and (is_random or bit_difference(plain(value), plain(repeated[name]))):
                fault = (
                    None if np.shape(value) == np.shape(after[name]) else "another shape"
                )  # random
            assert not fault, f"output {name}, by reference: {fault}"
    return "reference"


def plain(value):
    """Bring what the evaluator returns into one form: text as objects."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None:
        return None
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "UST" else array


def with_constant_inputs(case: Case) -> Case | None:
    """Turn the inputs of a case into constants; None where an input or output is no tensor.

    A branch of an If stands between the results and the outputs, so that no name is in the way. It
    returns something else beside, lest its branches be alike.
    """
    given = case.data[0][0]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    if not all(output.type.HasField("tensor_type") for output in graph.output):
        return None
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        array = given.get(value.name)
        if value.name not in weights:
            tensor = tensor_of(array, value.name) if isinstance(array, np.ndarray) else None
            if tensor is None or tensor.data_type != value.type.tensor_type.elem_type:
                return None
            graph.initializer.append(tensor)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        model.opset_import.add(domain="", version=18)
    for output in list(graph.output):
        graph.node.append(choice(output))
        output.name += "_chosen"
        flag = helper.make_tensor_value_info(f"{output.name}_flag", TensorProto.BOOL, [])
        graph.output.append(flag)
    model.ir_version = max(model.ir_version, 8)
    return Case(f"{case.name}{CONSTANT}", model, ((FED, {}),))


def tensor_of(array: np.ndarray, name: str) -> TensorProto:
    if array.dtype.kind == "O":
        return numpy_helper.from_array(array, name)
    return ir.to_proto(ir.tensor(array, name=name))


def choice(output: onnx.ValueInfoProto) -> onnx.NodeProto:
    branches = {}
    for branch, operator in (("then_branch", "Identity"), ("else_branch", "Not")):
        inner = onnx.ValueInfoProto()
        inner.CopyFrom(output)
        inner.name = f"{output.name}_{branch}"
        flag = helper.make_tensor_value_info(f"{inner.name}_flag", TensorProto.BOOL, [])
        nodes = [
            helper.make_node("Identity", [output.name], [inner.name]),
            helper.make_node(operator, ["flag"], [flag.name]),
        ]
        branches[branch] = helper.make_graph(nodes, inner.name, [], [inner, flag])
    chosen = f"{output.name}_chosen"
    return helper.make_node("If", ["flag"], [chosen, f"{chosen}_flag"], **branches)


# -- the tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_operators(chunk):
    tally = Tally()
    cases = node_cases()[chunk::CHUNKS]
    for case in cases:
        tally.check(case)
    tally.settle(ran=260)  # of 314


@pytest.mark.parametrize("kind", STORED)
def test_stored_models(kind):
    tally = Tally()
    for case in stored_cases(kind):
        tally.check(case)
    tally.settle(ran={"simple": 15, "pytorch-converted": 55, "pytorch-operator": 20}[kind])


def test_whole_networks():
    tally = Tally()
    for case in light_cases():
        tally.check(case)
    tally.settle(ran=9)


@pytest.mark.parametrize("chunk", range(CHUNKS // 2))
def test_operators_on_constants(chunk):
    tally = Tally()
    pipeline = Pipeline.parse(WHATEVER_IT_COSTS)
    for case in node_cases()[chunk :: 3 * CHUNKS // 2]:
        constant = with_constant_inputs(case)
        if constant is not None:
            tally.check(constant, pipeline=pipeline)
    tally.settle(ran=170)  # of 209


# -- the comparison notices -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (np.array([0.0]), np.array([-0.0])),
        (np.array([1.0], np.float32), np.array([1.0])),
        (np.array([1.0, 2.0]), np.array([[1.0, 2.0]])),
        (np.array([np.nan]), np.array([1.0])),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.array([1], ml_dtypes.bfloat16), np.array([2], ml_dtypes.bfloat16)),
        ([np.array([1])], [np.array([1]), np.array([1])]),
        ([np.array([1])], [np.array([2])]),
        (None, np.array([1])),
        (np.zeros((0, 2)), np.zeros((2, 0))),
    ],
)
def test_difference_is_noticed(expected, found):
    assert bit_difference(expected, found)
    assert bit_difference(expected, expected) is None


def test_a_wrong_result_is_noticed():
    case = next(case for case in node_cases() if case.name == "node/test_abs")
    exact = run_exact(case.model)
    expected = run_in_runtime(exact.source, case)
    exact.result.graph.node[0].op_type = "Identity"
    with pytest.raises(AssertionError, match="output y: 28 of 60 elements"):
        compare(exact, case, expected, run_in_runtime(exact.result, case))
