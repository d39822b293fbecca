"""SOSM, the Sparsely Organized Semantic Model: a language model over a sparse graph of tokens.

from state_core import SOSM, SOSMConfig
model = SOSM(SOSMConfig.preset("default", vocab_size=4096))
out = model(ids, labels=ids, return_graph=True)
print(out.loss, out.graph.explain(0, i=40, j=12))

Names are loaded when first used: `sosm --help` need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from state_core import ops
    from state_core.audit import CausalityReport, audit_causality
    from state_core.cache import SOSMCache
    from state_core.config import SOSMConfig
    from state_core.encoder import SOSMEncoder
    from state_core.graph import EdgeKind, EdgeProvenance, GraphStream, TokenGraph, build_graph
    from state_core.output import SOSMOutput
    from state_core.pipeline import SOSM
    from state_core.state import State

__version__ = "0.1.0"

_HOMES = {
    "SOSM": "pipeline",
    "CausalityReport": "audit",
    "EdgeKind": "graph",
    "EdgeProvenance": "graph",
    "GraphStream": "graph",
    "SOSMCache": "cache",
    "SOSMConfig": "config",
    "SOSMEncoder": "encoder",
    "SOSMOutput": "output",
    "State": "state",
    "TokenGraph": "graph",
    "audit_causality": "audit",
    "build_graph": "graph",
}

__all__ = [
    "SOSM",
    "CausalityReport",
    "EdgeKind",
    "EdgeProvenance",
    "GraphStream",
    "SOSMCache",
    "SOSMConfig",
    "SOSMEncoder",
    "SOSMOutput",
    "State",
    "TokenGraph",
    "audit_causality",
    "build_graph",
    "ops",
]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("state_core.ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'state_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"state_core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
