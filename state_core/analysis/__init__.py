"""Pictures and explanations of what a model does; nothing in the model knows this package."""

from __future__ import annotations

from state_core.analysis.attribution import Part, attribute
from state_core.analysis.depass import Decomposition, decompose
from state_core.analysis.internals import internals, keeping, run_with_cache
from state_core.analysis.interventions import Change, cut_edges, edit, intervene, mean, patch, zero

__all__ = [
    "Change",
    "Decomposition",
    "Part",
    "attribute",
    "cut_edges",
    "decompose",
    "edit",
    "internals",
    "intervene",
    "keeping",
    "mean",
    "patch",
    "run_with_cache",
    "zero",
]
