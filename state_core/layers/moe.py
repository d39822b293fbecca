"""Routed feed-forward layers: which experts read which token.

    token choice      each token takes its k best experts (Shazeer et al. 2017, arXiv 1701.06538);
                      a loss balances them (Switch Transformer, arXiv 2101.03961)
    expert threshold  an expert takes the tokens whose score passes its threshold, a running
                      quantile kept from training (arXiv 2603.11535)
    expert choice     each expert takes its n·c/E best tokens (arXiv 2202.09368)
    soft              each expert reads mixtures of all tokens (Soft MoE, arXiv 2308.00951)

In the first two a token's routing depends on the token alone: they are causal. The last two weigh
tokens against each other, later ones included, so only a bidirectional encoder may use them. They
do so within a text: a text's output does not depend on its batch.

B batch, T tokens, D model width, E experts, P slots of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.config import SOSMConfig
from state_core.layers.experts import Experts
from state_core.layers.norm import RMSNorm

MOMENTUM = 0.01


@dataclass(frozen=True)
class Routing:
    """What a routed layer decided.

    gates [B,T,E]: how much of each token's output comes from each expert, 0 where it is not routed;
    aux_loss: what balancing adds to the loss.
    """

    gates: Tensor
    aux_loss: Tensor

    @property
    def usage(self) -> Tensor:
        """Each expert's share of all routed pairs of token and expert, [E]; adds up to 1."""
        loads = (self.gates.detach() > 0).flatten(0, 1).sum(0).double()
        return loads / loads.sum().clamp(min=1)

    @property
    def imbalance(self) -> float:
        """The load of the busiest expert over the mean load: 1 is perfect balance."""
        return float(self.usage.max() * len(self.usage))


class TokenChoice(nn.Module):
    """Each token takes the k experts that it scores highest, weighted by their softmax."""

    def __init__(self, config: SOSMConfig) -> None:
        super().__init__()
        moe = config.moe
        self.k, self.balance = moe.per_token, moe.balance
        self.score = nn.Linear(config.d_model, moe.n_experts, bias=False)
        self.experts = Experts(moe.n_experts, config.d_model, moe.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """[B,T,D] → [B,T,D]."""
        p = _softmax(self.score(x))
        best = p.topk(self.k, dim=-1)
        shares = best.values / best.values.sum(-1, keepdim=True)
        gates = torch.zeros_like(p).scatter(-1, best.indices, shares)
        load = (gates.detach() > 0).to(p.dtype).mean((0, 1)) / self.k
        aux_loss = self.balance * p.shape[-1] * (load * p.mean((0, 1))).sum()
        return _run(self.experts, x, gates), Routing(gates, aux_loss)


class ExpertThreshold(nn.Module):
    """Each expert takes the tokens whose softmax score passes its threshold.

    The threshold follows the score that c of E experts' worth of tokens passed in training. A batch
    is routed by the batches before it and counts from the next one on, so that it is causal while
    it trains as well, and a layer that is recomputed routes as it did.
    """

    threshold: Tensor
    latest: Tensor
    batches: Tensor

    def __init__(self, config: SOSMConfig) -> None:
        super().__init__()
        moe = config.moe
        self.capacity = moe.per_token
        self.score = nn.Linear(config.d_model, moe.n_experts, bias=False)
        self.experts = Experts(moe.n_experts, config.d_model, moe.hidden)
        self.register_buffer("threshold", torch.full((moe.n_experts,), 1 / moe.n_experts))
        self.register_buffer("latest", torch.full((moe.n_experts,), torch.nan))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """[B,T,D] → [B,T,D]."""
        p = _softmax(self.score(x))
        gates = torch.where(p > self.threshold.to(p), p, 0)
        if self.training:
            self._observe(p.detach().flatten(0, 1))
        return _run(self.experts, x, gates), Routing(gates, p.new_zeros(()))

    def _observe(self, p: Tensor) -> None:
        """Keep the score that each expert's share of these tokens passes, the k-th of p [N,E]."""
        k = capacity(len(p), self.capacity, p.shape[-1])
        self.latest.copy_(p.topk(k, dim=0).values[-1])

    @torch.no_grad()
    def begin_batch(self) -> None:
        """Let the batch before enter the thresholds."""
        if not self.training or bool(self.latest.isnan().any()):
            return
        self.batches += 1
        self.threshold.lerp_(self.latest, max(1.0 / int(self.batches), MOMENTUM))
        self.latest.fill_(torch.nan)


class ExpertChoice(nn.Module):
    """Each expert takes its k = T·c/E best tokens of a text: perfect balance, by construction."""

    def __init__(self, config: SOSMConfig) -> None:
        super().__init__()
        moe = config.moe
        self.capacity = moe.per_token
        self.score = nn.Linear(config.d_model, moe.n_experts, bias=False)
        self.experts = Experts(moe.n_experts, config.d_model, moe.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """[B,T,D] → [B,T,D]."""
        p = _softmax(self.score(x))
        best = p.topk(capacity(x.shape[1], self.capacity, p.shape[-1]), dim=1)
        gates = torch.zeros_like(p).scatter(1, best.indices, best.values)
        return _run(self.experts, x, gates), Routing(gates, p.new_zeros(()))


class SoftMoE(nn.Module):
    """Slots are mixtures of tokens, tokens are mixtures of what experts made of their slots.

    dispatch = softmax over tokens, combine = softmax over slots, of the same scores x·φ, both
    normalised so that wide models do not collapse to one slot (section 2.3 of the paper).
    """

    def __init__(self, config: SOSMConfig) -> None:
        super().__init__()
        moe = config.moe
        self.slots = nn.Parameter(torch.randn(config.d_model, moe.n_experts, moe.slots))
        self.scale = nn.Parameter(torch.ones(()))
        self.experts = Experts(moe.n_experts, config.d_model, moe.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """[B,T,D] → [B,T,D]."""
        phi = self.scale * F.normalize(self.slots.flatten(1), dim=0)
        scores = F.normalize(x, dim=-1) @ phi
        dispatch, combine = _softmax(scores, dim=1), _softmax(scores, dim=2)
        slots = (dispatch.to(x.dtype).mT @ x).unflatten(1, self.slots.shape[1:])
        done = self.experts.on_slots(slots).flatten(1, 2)
        gates = combine.unflatten(2, self.slots.shape[1:]).sum(-1)
        return combine.to(done.dtype) @ done, Routing(gates, scores.new_zeros(()))


ROUTERS: dict[str, type[nn.Module]] = {
    "token_choice": TokenChoice,
    "expert_threshold": ExpertThreshold,
    "expert_choice": ExpertChoice,
    "soft": SoftMoE,
}


class RoutedMLP(nn.Module):
    """What stands in a block where the SwiGLU was: a norm, then routed experts."""

    def __init__(self, config: SOSMConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model)
        self.router = ROUTERS[config.moe.routing](config)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """[B,T,D] → [B,T,D]."""
        y, routing = self.router(self.norm(x))
        return y.to(x.dtype), routing

    def begin_batch(self) -> None:
        """What a router counts from batch to batch, before the next one."""
        if isinstance(self.router, ExpertThreshold):
            self.router.begin_batch()


def capacity(tokens: int, per_token: int, n_experts: int) -> int:
    """How many of `tokens` each expert takes: k = n·c/E, at least one and at most all."""
    return min(max(round(tokens * per_token / n_experts), 1), tokens)


def _softmax(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim)


def _run(experts: Experts, x: Tensor, gates: Tensor) -> Tensor:
    out: Tensor = experts(x.flatten(0, 1), gates.flatten(0, 1))
    return out.view_as(x)
