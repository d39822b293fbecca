"""Mamba-2 as a layer of the stack."""

from __future__ import annotations

from torch import Tensor

from state_core.config import SOSMConfig
from state_core.layers.mamba import Mamba2, Mamba2State
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

    def forward(  # type: ignore[override]
        self, x: Tensor, view: LayerView, state: Mamba2State | None
    ) -> tuple[Tensor, Mamba2State]:
        """[B,T,D] → [B,T,D], and the convolution's and the recurrence's state."""
        return super().forward(x, state)
