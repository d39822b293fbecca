"""Mamba-2 as a layer of the stack, plain or with the graph's say in how far a token resets it.

Topological Mamba: Δ = softplus(W x + U φ + b), φ the graph's view of the step from token i−1 to i.
U starts at zero, and so the layer as plain Mamba-2.

B batch, T new tokens, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn

from state_core.config import SOSMConfig
from state_core.layers.mamba import Mamba2, Mamba2State
from state_core.layers.step import step_width
from state_core.layers.view import LayerView


class MambaMixer(Mamba2):
    """A Mamba-2 built from the configuration."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        mamba = config.mamba
        super().__init__(
            config.d_model,
            d_state=mamba.d_state,
            d_conv=mamba.d_conv,
            expand=mamba.expand,
            headdim=mamba.headdim,
            ngroups=mamba.ngroups,
            chunk_size=mamba.chunk_size,
        )
        self.step: nn.Linear | None = None
        if mamba.topological:
            self.step = nn.Linear(step_width(config.graph), self.n_heads, bias=False)
            nn.init.zeros_(self.step.weight)

    def forward(  # type: ignore[override]
        self, x: Tensor, view: LayerView, state: Mamba2State | None
    ) -> tuple[Tensor, Mamba2State]:
        """[B,T,D] → [B,T,D], and the convolution's and the recurrence's state."""
        if self.step is None:
            return super().forward(x, state)
        assert view.step is not None
        return super().forward(x, state, self.step(view.step.to(x.dtype)))
