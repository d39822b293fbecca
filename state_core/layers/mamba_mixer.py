"""Mamba-2 as a layer of the stack, plain or with the graph's say in how far a token resets it.

Topological Mamba: Δ = softplus(W x + U φ + b), φ the graph's view of the step from token i−1 to i.
U starts at zero, and so the layer as plain Mamba-2.

B batch, T new tokens, D model width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from state_core.config import SOSMConfig
from state_core.layers.mamba import Mamba2, Mamba2State
from state_core.layers.step import step_width
from state_core.layers.view import LayerView


class MambaMixer(Mamba2):
    """A Mamba-2 built from the configuration; in an encoder a second one scans the other way."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        mamba = config.mamba
        sizes: dict[str, Any] = {
            "d_state": mamba.d_state,
            "d_conv": mamba.d_conv,
            "expand": mamba.expand,
            "headdim": mamba.headdim,
            "ngroups": mamba.ngroups,
            "chunk_size": mamba.chunk_size,
        }
        super().__init__(config.d_model, **sizes)
        self.backwards: Mamba2 | None = None
        if config.objective == "masked":
            self.backwards = Mamba2(config.d_model, **sizes)
        self.step: nn.Linear | None = None
        if mamba.topological:
            self.step = nn.Linear(step_width(config.graph), self.n_heads, bias=False)
            nn.init.zeros_(self.step.weight)

    def forward(  # type: ignore[override]
        self, x: Tensor, view: LayerView, state: Mamba2State | None
    ) -> tuple[Tensor, Mamba2State]:
        """[B,T,D] → [B,T,D], and the convolution's and the recurrence's state."""
        says = None
        if self.step is not None:
            assert view.step is not None
            says = self.step(view.step.to(x.dtype))
        y, state = super().forward(x, state, says)
        if self.backwards is not None:
            y = y + self.backwards(x.flip(1))[0].flip(1)
        return y, state
