"""MU adapter: token → the semantic state, sixteen named blocks of four numbers.

A block's name is true by construction: `token` blocks see the token's own embedding, `local`
blocks the last few tokens, `long` blocks exponential averages of the past, `position` blocks where
the token stands and when it last occurred, and `all` blocks the other blocks.

Everything is computed in float64: a matrix product may round differently for another number of
rows, and the graph must be the same, edge for edge, however a text is cut into chunks. Rounded to
float32 afterwards, the states agree to the last bit.

B batch, T tokens, r embedding rank, N blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.adapters.moving_average import moving_average
from state_core.adapters.recency import Recency
from state_core.config import StateConfig
from state_core.state import BLOCK_WIDTH

POSITION_PERIODS = (16.0, 64.0, 256.0, 1024.0)
GAP_FREQUENCIES = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class MUState:
    """What decoding carries: the last embeddings [B,w−1,r] and the averages [B,n,4]."""

    recent: Tensor
    averages: Tensor


class MUAdapter(nn.Module):
    """Embeddings [B,T,r] and recency → semantic state [B,T,N,4]."""

    decay: Tensor

    def __init__(self, config: StateConfig, rank: int) -> None:
        super().__init__()
        self.layout = tuple(config.layout)
        self.width = config.local_width
        self.names = {
            source: [name for name, s in config.layout.items() if s == source]
            for source in ("token", "local", "long", "position", "all")
        }
        sizes = {source: BLOCK_WIDTH * len(names) for source, names in self.names.items()}
        inner = BLOCK_WIDTH * len(self.layout) - sizes["all"]
        n_position = 2 * (len(POSITION_PERIODS) + len(GAP_FREQUENCIES))
        self.token = nn.Linear(rank, sizes["token"], bias=False)
        self.local = nn.Linear(rank * self.width, sizes["local"], bias=False)
        self.long = nn.Linear(rank, sizes["long"], bias=False)
        self.position = nn.Linear(n_position, sizes["position"])
        self.extension = nn.Linear(inner, sizes["all"])
        half_lives = [config.half_lives[name] for name in self.names["long"]]
        decay = torch.tensor([2.0 ** (-1.0 / h) for h in half_lives], dtype=torch.float64)
        self.register_buffer("decay", decay, persistent=False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        decay = self.decay
        super()._apply(fn, recurse)
        # model.float() must not round the decays, or streams and batches would part.
        self.decay = decay.to(self.decay.device)
        return self

    def forward(
        self, embedding: Tensor, recency: Recency, past: MUState | None = None
    ) -> tuple[Tensor, MUState]:
        """Semantic state [B,T,N,4] of new tokens, and what the tokens after them need."""
        with torch.autocast(embedding.device.type, enabled=False):
            return self._forward(embedding.double(), recency, past)

    def _forward(self, e: Tensor, recency: Recency, past: MUState | None) -> tuple[Tensor, MUState]:
        recent = (
            e.new_zeros(e.shape[0], self.width - 1, e.shape[2]) if past is None else past.recent
        )
        extended = torch.cat([recent, e], dim=1)
        averages = None if past is None else past.averages

        long, averages = moving_average(self._blocks(_linear(self.long, e)), self.decay, averages)
        parts = {
            "token": self._blocks(_linear(self.token, e)),
            "local": self._blocks(self._convolve(extended, e.shape[1])),
            "long": long,
            "position": self._blocks(_linear(self.position, _position_features(recency))),
        }
        known = torch.cat([parts[s].flatten(2) for s in ("token", "local", "long", "position")], -1)
        parts["all"] = self._blocks(_linear(self.extension, known))

        by_name = {
            name: parts[source][:, :, k]
            for source, names in self.names.items()
            for k, name in enumerate(names)
        }
        semantic = torch.stack([by_name[name] for name in self.layout], dim=2)
        carried = extended[:, extended.shape[1] - (self.width - 1) :]
        return semantic.to(self.token.weight.dtype), MUState(carried, averages)

    def _convolve(self, extended: Tensor, length: int) -> Tensor:
        """Causal convolution over the last `width` embeddings, the newest tap first."""
        taps = self.local.weight.double().chunk(self.width, dim=1)
        start = self.width - 1
        return sum(
            F.linear(extended[:, start - k : start - k + length], tap) for k, tap in enumerate(taps)
        )  # type: ignore[return-value]

    @staticmethod
    def _blocks(values: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, BLOCK_WIDTH))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    return F.linear(x, layer.weight.double(), bias)


def _position_features(recency: Recency) -> Tensor:
    """Fourier features of the position and of the logarithm of the gap, [B,T,16]."""
    position, gap = recency.position.double(), torch.log1p(recency.gap.double())
    angles = [2 * math.pi * position / period for period in POSITION_PERIODS]
    angles += [math.pi * gap * frequency for frequency in GAP_FREQUENCIES]
    stacked = torch.stack(angles, dim=-1)
    return torch.cat([stacked.sin(), stacked.cos()], dim=-1)
