"""Which indices of which dimensions stand or fall together: what pruning can remove."""

from graphopt.analysis.coupling.attentions import AttentionSite, find_attentions
from graphopt.analysis.coupling.groups import Group, find_groups
from graphopt.analysis.coupling.layers import LooseLayer, find_loose_layers
from graphopt.analysis.coupling.structure import Coupling, couple
from graphopt.analysis.coupling.units import Factor, Pin, Units
from graphopt.analysis.coupling.walk import Use

__all__ = [
    "AttentionSite",
    "Coupling",
    "Factor",
    "Group",
    "LooseLayer",
    "Pin",
    "Units",
    "Use",
    "couple",
    "find_attentions",
    "find_groups",
    "find_loose_layers",
]
