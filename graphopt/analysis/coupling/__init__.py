"""Which indices of which dimensions stand or fall together: what pruning can remove."""

from graphopt.analysis.coupling.groups import Group, find_groups
from graphopt.analysis.coupling.structure import Coupling, couple
from graphopt.analysis.coupling.units import Factor, Pin, Units
from graphopt.analysis.coupling.walk import Use

__all__ = ["Coupling", "Factor", "Group", "Pin", "Units", "Use", "couple", "find_groups"]
