"""Passes as frozen values: options, text, and life in an onnx-ir pass manager."""

from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.errors import OptionError, PreconditionError
from graphopt.rewrite import Contract, Exact, Needs, Pass, option, option_specs


@dataclass(frozen=True, kw_only=True)
class RenameOps(Pass):
    name: ClassVar[str] = "rename-ops"
    contract: ClassVar[Contract] = Contract(numerics=Exact())

    ops: tuple[str, ...] = option(("Relu",), help="operators", unit="op_type")
    ratio: float = option(0.5, help="share", unit="fraction", minimum=0.0, maximum=1.0)
    mode: str = option("a", help="way", choices=("a", "b"))
    limit: int | None = option(None, help="at most", minimum=1)
    flag: bool = option(False, help="whether")

    def run(self, model, edit, facts):
        for node in model.graph:
            if node.op_type in self.ops:
                with edit.rewrite(node, because="asked") as change:
                    change.set_operator(node, "Abs")


@dataclass(frozen=True, kw_only=True)
class NeedRanges(RenameOps):
    name: ClassVar[str] = "need-ranges"

    def needs(self, model):
        return Needs(ranges=tuple(v.name for v in model.graph.inputs))


def test_text_leaves_out_defaults_and_quotes_what_needs_it():
    assert str(RenameOps()) == "rename-ops"
    given = RenameOps(ops=("Relu", "a b", "true", "inf"), ratio=0.25, limit=3, flag=True)
    assert str(given) == 'rename-ops{ops=[Relu,"a b","true","inf"] ratio=0.25 limit=3 flag=true}'


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1.5},
        {"ratio": float("nan")},
        {"ratio": True},
        {"ratio": "0.5"},
        {"mode": "c"},
        {"limit": 0},
        {"limit": 2.0},
        {"ops": ["Relu"]},
        {"ops": (1,)},
        {"flag": 1},
    ],
)
def test_a_wrong_option_is_refused_with_what_was_expected(options):
    with pytest.raises(OptionError, match="rename-ops") as caught:
        RenameOps(**options)
    assert "expected" in caught.value.why


def test_a_pass_is_a_value():
    assert RenameOps(ratio=0.25) == RenameOps(ratio=0.25) != RenameOps()
    assert len({RenameOps(), RenameOps(), RenameOps(flag=True)}) == 2
    with pytest.raises(FrozenInstanceError):
        RenameOps().ratio = 1.0


def test_options_describe_themselves():
    specs = {spec.name: spec for spec in option_specs(RenameOps)}
    assert specs["ratio"].expected() == "a number from 0 to 1"
    assert specs["ops"].expected() == "a list of text"
    assert specs["limit"].is_optional
    assert specs["mode"].expected() == "one of `a`, `b`"


def test_it_runs_in_an_onnx_ir_pass_manager():
    model = gir.from_text("(float[N] x) => (float[N] z) { z = Relu(x) }")
    manager = ir.passes.PassManager([RenameOps()], steps=3, early_stop=True)
    assert manager(model).modified
    assert not manager(model).modified
    assert model.graph[0].op_type == "Abs"


def test_an_unmet_need_is_our_error_and_not_wrapped():
    model = gir.from_text("(float[N] x) => (float[N] z) { z = Relu(x) }")
    with pytest.raises(PreconditionError, match="calibration ranges"):
        NeedRanges()(model)
