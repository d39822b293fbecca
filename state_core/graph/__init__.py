"""State → TokenGraph: which earlier tokens each token looks at, and why."""

from state_core.graph.graph_builder import GraphBuilder, build_graph
from state_core.graph.graph_stream import GraphStream
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import EdgeProvenance, TokenGraph

__all__ = ["EdgeKind", "EdgeProvenance", "GraphBuilder", "GraphStream", "TokenGraph", "build_graph"]
