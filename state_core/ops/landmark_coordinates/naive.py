"""The reference: a loop over the tokens, each of which looks at its edges."""

from __future__ import annotations

import torch
from torch import Tensor


def landmark_coordinates(
    neighbors: Tensor, counts: Tensor, positions: Tensor, born: Tensor, table: Tensor
) -> None:
    """See `state_core.ops.landmark_coordinates`."""
    unreached = torch.iinfo(torch.int32).max
    for b in range(len(table)):
        for t, i in enumerate(positions[b].tolist()):
            near = table[b, neighbors[b, t, : counts[b, t]].long()]
            far = table.new_full((1, table.shape[2]), unreached - 1)
            hops = torch.cat([near.masked_fill(near < 0, unreached - 1), far]).amin(0) + 1
            hops = hops.masked_fill(hops == unreached, -1)
            table[b, i] = torch.where(born[b] <= i, hops, table[b, i])
