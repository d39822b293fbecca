"""How a refused edge teaches the gate that refused it: a straight-through estimate.

Forward, the decision is hard: a refused edge is no edge. Backward, the gate's gradient is that of
the attention in which the refused edges take part with their gates,

    y_soft = y + σ(lse_refused − lse) · (y_refused − y)

taken with respect to the gates alone. Gates of accepted edges train through their bias.

B batch, T tokens, S tokens known, H heads, D head width, E edges of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core import ops
from state_core.graph.token_graph import TokenGraph


def teach_refused(
    y: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, refused: TokenGraph, bias: Tensor
) -> Tensor:
    """`y` [B,H,T,D], to the bit, with the gradient of the refused edges' gates added.

    lse [B,H,T]: log-sum-exp of the accepted edges' scores; q [B,H,T,D], k and v [B,H,S,D];
    refused: the edges that are no edges; bias [B,H,T,E]: what the layer would say of them but for
    the gate.
    """
    assert refused.log_gates is not None
    y_kept, lse = y.detach(), lse.detach()
    y_refused, lse_refused = ops.graph_attention(
        q.detach(), k.detach(), v.detach(), refused.neighbors, refused.counts,
        bias=bias.detach() + refused.log_gates[:, None].to(bias.dtype), return_lse=True,
    )  # fmt: skip
    share = torch.sigmoid(lse_refused - lse).to(y.dtype)
    moved = share[..., None] * (y_refused - y_kept)
    return y + (moved - moved.detach())
