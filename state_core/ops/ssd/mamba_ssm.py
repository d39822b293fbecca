"""The CUDA kernel of the `mamba-ssm` package, where it is installed."""

from __future__ import annotations

from torch import Tensor

from state_core.ops.widen import widen


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """y [B,T,H,P] and the final state [B,H,P,N]."""
    x, dt, A, B, C, D, initial_state = widen(x, dt, A, B, C, D, initial_state)
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk_size, D, initial_states=initial_state, return_final_states=True
    )
