"""Pictures and explanations of what a model does; nothing in the model knows this package."""

from __future__ import annotations

from state_core.analysis.attribution import Part, attribute
from state_core.analysis.block_probes import BlockProbes, probe_blocks
from state_core.analysis.depass import Decomposition, decompose
from state_core.analysis.internals import internals, keeping, run_with_cache
from state_core.analysis.interventions import Change, cut_edges, edit, intervene, mean, patch, zero
from state_core.analysis.provenance import BlockShares, RankedEdge, block_shares, ranked_edges

__all__ = [
    "BlockProbes",
    "BlockShares",
    "Change",
    "Decomposition",
    "Part",
    "RankedEdge",
    "attribute",
    "block_shares",
    "cut_edges",
    "decompose",
    "edit",
    "internals",
    "intervene",
    "keeping",
    "mean",
    "patch",
    "probe_blocks",
    "ranked_edges",
    "run_with_cache",
    "zero",
]
