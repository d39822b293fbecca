"""The hot loops. Each op is a folder: its maths and checks in `__init__.py`, the reference in
`naive.py`, and faster backends beside it. Importing this package loads neither Numba nor Triton.
"""

from __future__ import annotations

from state_core.ops.betweenness import betweenness
from state_core.ops.causal_conv1d import causal_conv1d
from state_core.ops.causal_topk import causal_topk
from state_core.ops.causal_walk_pe import causal_walk_pe
from state_core.ops.edge_scores import edge_scores
from state_core.ops.gated_rms_norm import gated_rms_norm
from state_core.ops.graph_attention import graph_attention
from state_core.ops.landmark_coordinates import landmark_coordinates
from state_core.ops.landmark_distances import landmark_distances
from state_core.ops.mutual_filter import mutual_filter
from state_core.ops.random_walk_pe import random_walk_pe
from state_core.ops.rms_norm import rms_norm
from state_core.ops.selective_scan import selective_scan
from state_core.ops.ssd import ssd
from state_core.ops.swiglu import swiglu
from state_core.ops.token_logprob import token_logprob

__all__ = [
    "betweenness",
    "causal_conv1d",
    "causal_topk",
    "causal_walk_pe",
    "edge_scores",
    "gated_rms_norm",
    "graph_attention",
    "landmark_coordinates",
    "landmark_distances",
    "mutual_filter",
    "random_walk_pe",
    "rms_norm",
    "selective_scan",
    "ssd",
    "swiglu",
    "token_logprob",
]
