"""SOSM, the Sparsely Organized Semantic Model: a language model over a sparse graph of tokens.

from state_core import SOSM, SOSMConfig
model = SOSM(SOSMConfig.preset("default", vocab_size=4096))
out = model(ids, labels=ids, return_graph=True)
print(out.loss, out.graph.explain(0, i=40, j=12))
"""

from state_core.audit import CausalityReport, audit_causality
from state_core.cache import SOSMCache
from state_core.config import SOSMConfig
from state_core.graph import EdgeKind, EdgeProvenance, GraphStream, TokenGraph, build_graph
from state_core.output import SOSMOutput
from state_core.pipeline import SOSM
from state_core.state import State

__version__ = "0.1.0"

__all__ = [
    "SOSM",
    "CausalityReport",
    "EdgeKind",
    "EdgeProvenance",
    "GraphStream",
    "SOSMCache",
    "SOSMConfig",
    "SOSMOutput",
    "State",
    "TokenGraph",
    "audit_causality",
    "build_graph",
]
