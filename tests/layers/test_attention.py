"""Rotary positions and the attention layers' states."""

from __future__ import annotations

import torch

from state_core.layers.positions import RotaryEmbedding


def test_rotation_depends_on_the_distance_only() -> None:
    torch.manual_seed(0)
    rope = RotaryEmbedding(16, 10_000.0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> float:
        rotated_q = rope(torch.tensor([[i]]), q)[0]
        rotated_k = rope(torch.tensor([[j]]), k)[0]
        return float((rotated_q * rotated_k).sum())

    torch.testing.assert_close(product(7, 3), product(107, 103), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product(0, 0), float((q * k).sum()), rtol=1e-5, atol=1e-6)
    assert abs(product(7, 3) - product(7, 5)) > 1e-3


def test_far_positions_keep_their_precision() -> None:
    rope = RotaryEmbedding(8, 10_000.0)
    x = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    near, far = rope(torch.tensor([[1]]), x)[0], rope(torch.tensor([[1_000_001]]), x)[0]
    single = rope(torch.tensor([[1_000_001]]), x.float())[0]
    torch.testing.assert_close(single.double(), far, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(near, far)
