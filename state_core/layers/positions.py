"""Where a token is: by rotating queries and keys, or by a bias against distance.

RoPE (arXiv 2104.09864) rotates by position; Graph-RoPE also by the coordinates that landmarks of
the graph give a token, so that a score depends on differences of both. ALiBi (arXiv 2108.12409)
takes slope·distance from a score; Graph-ALiBi takes the distance in the graph, of which
max_l |d_il − d_jl| is a lower bound (Potamias et al., CIKM 2009).

B batch, T tokens, H heads, D head width, L landmarks, E edges of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Graph distances are small: slower turns than e^(i·d/16) would tell few of them apart.
SLOWEST_TURN = 1 / 16


def rotations(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """The unit complex numbers e^{i·position·base^(−2m/D)}, [B,T,1,D/2], for positions [B,T]."""
    # Angles in float64: at position 100k float32 has lost the fast frequencies.
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device)
    angles = positions[..., None, None] * base ** (-steps / head_dim)
    return torch.polar(torch.ones_like(angles), angles)


def landmark_rotations(coordinates: Tensor, head_dim: int) -> Tensor:
    """The same for landmark coordinates [B,T,L]: pair m turns by the distance to landmark m mod L.

    Each pair has one landmark, so D/2 landmarks at most are read; an unreached one turns nothing.
    """
    pairs = head_dim // 2
    known = coordinates[..., :pairs].clamp(min=0)
    if known.shape[-1] == 0:  # no landmark yet
        known = known.new_zeros(*known.shape[:-1], 1)
    landmark = torch.arange(pairs, device=known.device) % known.shape[-1]
    step = torch.arange(pairs, dtype=torch.float64, device=known.device) / max(pairs - 1, 1)
    angles = known[..., landmark][:, :, None] * SLOWEST_TURN**step
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (x_2m, x_2m+1) of heads [B,T,H,D] by `rotations`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation.to(pairs.dtype)).flatten(-2).to(x.dtype)


def split_heads(
    qkv: Tensor, n_heads: int, rotation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B,T,H,D] of a projection [B,T,3·H·D]; the first two rotated."""
    qk, v = qkv.unflatten(-1, (3 * n_heads, -1)).split([2 * n_heads, n_heads], dim=2)
    if rotation is not None:
        qk = rotate(qk, rotation)
    q, k = qk.chunk(2, dim=2)
    return q, k, v


def alibi_slopes(n_heads: int) -> Tensor:
    """Slopes [H]: 2^(−8h/H), h = 1 … H. Where H is no power of two, those of the power below it,
    then every other one of the power above."""
    below = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * h / below) for h in range(1, below + 1)]
    slopes += [2 ** (-4 * h / below) for h in range(1, 2 * (n_heads - below), 2)]
    return torch.tensor(slopes)


def landmark_gap(here: Tensor, there: Tensor) -> Tensor:
    """max_l |d_il − d_jl| over the landmarks that both know, 0 if there is none.

    here, there: coordinates [...,L] that broadcast, −1 where unreached. Returns float32 [...].
    """
    known = (here >= 0) & (there >= 0)
    gaps = torch.where(known, (here - there).abs(), 0)
    if gaps.shape[-1] == 0:
        return gaps.sum(-1).float()
    return gaps.amax(-1).float()


def coordinates_at(coordinates: Tensor, positions: Tensor) -> Tensor:
    """Coordinates [B,S,L] of the tokens at `positions` [B,N]: [B,N,L]."""
    return coordinates.gather(1, positions[..., None].expand(-1, -1, coordinates.shape[-1]))
