"""Passes, contracts, and the editor that is the only way to change a model."""

from graphopt.rewrite.attachment import can_replace
from graphopt.rewrite.base import Pass
from graphopt.rewrite.change import Change
from graphopt.rewrite.contract import Approximate, Contract, Exact, Numerics, Rounding
from graphopt.rewrite.decisions import ExitDecision, ExitPlace, GroupDecision, LayerFit
from graphopt.rewrite.editor import Editor, describe
from graphopt.rewrite.facts import (
    Facts,
    Needs,
    RangeMethod,
    ShapeTable,
    TargetFacts,
    ValueRange,
    ValueShape,
    provide_shapes_with,
)
from graphopt.rewrite.journal import Edit, Journal, Refusal, Touched
from graphopt.rewrite.options import OptionSpec, OptionValue, format_value, option, option_specs
from graphopt.rewrite.overwriting import is_overwritten, overwritten_by
from graphopt.rewrite.pattern import Absent, Const, Either, Match, Op, Pattern, Var, match
from graphopt.rewrite.splicing import (
    Bindings,
    adopt_initializers,
    copy_nodes,
    move_nodes,
    repeated_names,
)
from graphopt.rewrite.statistics import (
    Asked,
    ChannelMoments,
    Channels,
    CrossMoments,
    Held,
    Measure,
    Window,
)

__all__ = [
    "Absent",
    "Approximate",
    "Asked",
    "Bindings",
    "Change",
    "ChannelMoments",
    "Channels",
    "Const",
    "Contract",
    "CrossMoments",
    "Edit",
    "Editor",
    "Either",
    "Exact",
    "ExitDecision",
    "ExitPlace",
    "Facts",
    "GroupDecision",
    "Held",
    "Journal",
    "LayerFit",
    "Match",
    "Measure",
    "Needs",
    "Numerics",
    "Op",
    "OptionSpec",
    "OptionValue",
    "Pass",
    "Pattern",
    "RangeMethod",
    "Refusal",
    "Rounding",
    "ShapeTable",
    "TargetFacts",
    "Touched",
    "ValueRange",
    "ValueShape",
    "Var",
    "Window",
    "adopt_initializers",
    "can_replace",
    "copy_nodes",
    "describe",
    "format_value",
    "is_overwritten",
    "match",
    "move_nodes",
    "option",
    "option_specs",
    "overwritten_by",
    "provide_shapes_with",
    "repeated_names",
]
