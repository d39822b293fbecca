"""Rotary positions and the attention layers' states."""

from __future__ import annotations

import torch

from state_core.layers.positions import rotate, rotations


def test_rotation_depends_on_the_distance_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> float:
        rotated_q = rotate(q, rotations(torch.tensor([[i]]), 16, 10_000.0))
        rotated_k = rotate(k, rotations(torch.tensor([[j]]), 16, 10_000.0))
        return float((rotated_q * rotated_k).sum())

    torch.testing.assert_close(product(7, 3), product(107, 103), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product(0, 0), float((q * k).sum()), rtol=1e-5, atol=1e-6)
    assert abs(product(7, 3) - product(7, 5)) > 1e-3


def test_far_positions_keep_their_precision() -> None:
    x = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    here, there = (rotations(torch.tensor([[p]]), 8, 10_000.0) for p in (1, 1_000_001))
    near, far = rotate(x, here), rotate(x, there)
    single = rotate(x.float(), there)
    torch.testing.assert_close(single.double(), far, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(near, far)
