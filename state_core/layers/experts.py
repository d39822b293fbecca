"""A bank of SwiGLU experts: each sees the tokens that are routed to it and no others.

N tokens, E experts, D model width, F hidden width of an expert, P slots of an expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core import ops


class Experts(nn.Module):
    """E feed-forward networks of the same shape, their weights stacked."""

    def __init__(self, n_experts: int, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(_uniform(n_experts, 2 * hidden, d_model))
        self.down = nn.Parameter(_uniform(n_experts, d_model, hidden))

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Σ_e gates[n,e]·expert_e(x[n]) for x [N,D] and gates [N,E]; 0 is not routed.

        A token that no expert takes gives 0. Each expert runs once, over its tokens side by side;
        none of them occurs twice, so that the sums have one order on every device.
        """
        expert, token = gates.T.nonzero(as_tuple=True)
        weight = gates[token, expert, None]
        loads = torch.bincount(expert, minlength=len(self.gate_up)).tolist()
        out = torch.zeros_like(x)
        parts = zip(
            token.split(loads), weight.split(loads), self.gate_up.unbind(), self.down.unbind()
        )
        for rows, share, gate_up, down in parts:
            y = _expert(x.index_select(0, rows), gate_up, down)
            out = out.index_add(0, rows, (y * share).to(out.dtype))
        return out

    def on_slots(self, slots: Tensor) -> Tensor:
        """Each expert on slots of its own: [B,E,P,D] → [B,E,P,D]."""
        done = [
            _expert(mine, gate_up, down)
            for mine, gate_up, down in zip(slots.unbind(1), self.gate_up, self.down)
        ]
        return torch.stack(done, dim=1)


def _expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return F.linear(ops.swiglu(F.linear(x, gate_up)), down)


def _uniform(n: int, fan_out: int, fan_in: int) -> Tensor:
    """As n linear layers start."""
    return torch.empty(n, fan_out, fan_in).uniform_(-(fan_in**-0.5), fan_in**-0.5)
