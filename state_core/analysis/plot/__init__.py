"""Figures of what a model does, for notebooks and reports. Needs the extra `plots`.

    from state_core.analysis import plot
    plot.arcs(out.graph, tokens=pieces)             # or out.graph.plot(tokens=pieces)
    plot.attribution(attribute(model, ids, 40), pieces, 40)

Each gives a Plotly figure. Those of a token graph take the graph, which text of the batch, and the
text of its tokens. A picture that leaves something out says so above it.
"""

from __future__ import annotations

from state_core.analysis.plot.coordinates import landmarks
from state_core.analysis.plot.corpus import block_probes, block_shares
from state_core.analysis.plot.curves import faithfulness, loss
from state_core.analysis.plot.edges import adjacency, arcs
from state_core.analysis.plot.gates import gate
from state_core.analysis.plot.growth import scaling
from state_core.analysis.plot.shares import blocks
from state_core.analysis.plot.text import attribution

__all__ = [
    "adjacency",
    "arcs",
    "attribution",
    "block_probes",
    "block_shares",
    "blocks",
    "faithfulness",
    "gate",
    "landmarks",
    "loss",
    "scaling",
]
