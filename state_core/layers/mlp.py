"""SwiGLU feed-forward (arXiv 2002.05202), gate and value in one matrix product."""

from __future__ import annotations

from torch import Tensor, nn

from state_core import ops


class SwiGLU(nn.Module):
    """[B,T,D] → [B,T,D] through `hidden` gated units."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(ops.swiglu(self.gate_up(x)))
        return out
