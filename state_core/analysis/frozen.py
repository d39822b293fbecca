"""A layer as it was in one run: linear, because everything else about it is frozen.

    frozen = freeze(block.mixer, given, seen)      # given [T,D]: what the layer read in that run
    frozen(given[None]) + constants                # what it wrote; of parts of `given`, their parts

    attention    patterns, λ and head norms, the gates of memory: exact, since only values are moved
    Mamba        Δ, B, C, the gate silu(z) and the norm's scale; the scan is linear in what it is
                 given. Of the convolution, silu(u) = u·σ(u) with σ(u) frozen: a convention
    SwiGLU       silu(gate)·up with silu(gate) frozen: a convention, the usual one for gated units
                 (the gate is credited with nothing). DePass shares out each neuron's activation
    experts      routing and gates, each expert as a SwiGLU

"Exact" is: given what is frozen, no other sum would do. A convention shares out a product of two
things that both depend on the input; another one would share it out otherwise.

A mixer of one's own joins by `@freeze.register` on a function of its class. N components, T tokens,
D model width, H heads, M width of a head, E edges of a row or inner width of Mamba, K items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.layers.attention import DenseAttention
from state_core.layers.differential import DifferentialHeads
from state_core.layers.graph_attention import GraphAttention, weighted_sum
from state_core.layers.mamba_mixer import MambaMixer
from state_core.layers.mlp import SwiGLU
from state_core.layers.moe import ExpertChoice, ExpertThreshold, TokenChoice
from state_core.layers.norm import RMSNorm
from state_core.memory.text_memory import Recalled
from state_core.ops.causal_conv1d import causal_conv1d
from state_core.ops.ssd import ssd

STAYS = ""
"""The part of a layer through which content keeps its name: a token's edge to itself."""


@dataclass(frozen=True)
class Seen:
    """What the run of one text left of a layer: `points` by their names in the layer, such as
    `pattern` or `memory.share`, each [1,…]; the graph, and what the layer recalled."""

    points: Mapping[str, Tensor]
    graph: TokenGraph | None
    recalled: Recalled | None


class Frozen:
    """A linear map, [N,T,D] → [N,T,D]."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def parts(self, by: str) -> Mapping[str, Frozen]:
        """Named maps that add up to this one, by "edge_kind", "head" or "expert"; itself alone,
        as what `STAYS`, where it has no such parts."""
        return {STAYS: self}

    def constants(self, by: str) -> Mapping[str, Callable[[], Tensor]]:
        """What it writes whatever it is given, each [T,D]: of biases and of memory."""
        return {}


@singledispatch
def freeze(module: nn.Module, given: Tensor, seen: Seen) -> Frozen:
    """`module` as it was when it read `given` [T,D], after its norm. InputError for a class that
    nobody has said how to freeze."""
    name = type(module).__name__
    raise InputError(
        f"{name} has no frozen form, so that nothing can be decomposed through it: say what it is "
        f"when its non-linear parts are constants, with @freeze.register on a function "
        f"(module: {name}, given, seen) -> Frozen in state_core.analysis.frozen"
    )


def frozen_scale(norm: RMSNorm, x: Tensor) -> Tensor:
    """What a norm multiplies x [...,D] by."""
    return norm.weight * (x.pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()


@dataclass(frozen=True)
class FrozenAttention(Frozen):
    """out(scale · Σ_j shares_ij·v_j): value and out [D,D]; shares [1,H,T,E] over the row's edges,
    or [1,H,T,T] over all tokens without a graph; scale [T,H·M]: what heads are multiplied by
    afterwards.

    items: position of what was recalled, None for all of it → what it writes, [T,D].
    """

    value: Tensor
    out: Tensor
    shares: Tensor
    graph: TokenGraph | None
    scale: Tensor
    items: Callable[[int | None], Tensor] | None = None
    recalled: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        return (self.read(x).flatten(2) * self.scale) @ self.out

    def read(self, x: Tensor) -> Tensor:
        """[N,T,D] → what the heads take from it, [N,T,H,M]."""
        values = (x @ self.value).unflatten(-1, (self.shares.shape[1], -1))
        if self.graph is None:
            return torch.einsum("hts,nshm->nthm", self.shares[0], values)
        return weighted_sum(self.shares, values.transpose(1, 2), self.graph).transpose(1, 2)

    def parts(self, by: str) -> Mapping[str, Frozen]:
        if by == "head":
            one = torch.eye(self.shares.shape[1]).to(self.shares)[:, :, None, None]
            return {f"head {h}": self._only(mask) for h, mask in enumerate(one)}
        if by == "edge_kind":
            return {name: self._only(mask) for name, mask in self._kinds().items()}
        return {STAYS: self}

    def constants(self, by: str) -> Mapping[str, Callable[[], Tensor]]:
        if self.items is None:
            return {}
        if by == "memory":
            return {f"memory of {j}": partial(self.items, j) for j in self.recalled}
        return {"memory": partial(self.items, None)}

    def _only(self, mask: Tensor) -> FrozenAttention:
        return replace(self, shares=self.shares * mask)

    def _kinds(self) -> dict[str, Tensor]:
        """Masks over shares: an edge to oneself moves nothing."""
        here = torch.arange(self.shares.shape[2], device=self.shares.device)[:, None]
        if self.graph is None:
            itself = here == here.T
            return {STAYS: itself, "dense": ~itself}
        itself = self.graph.neighbors[0] == here
        kinds = self.graph.kinds[0]
        found = {kind: (kinds == kind) & ~itself & (self.graph.neighbors[0] >= 0)
                 for kind in EdgeKind}  # fmt: skip
        return {STAYS: itself} | {k.name.lower(): m for k, m in found.items() if bool(m.any())}


@freeze.register
def _graph_attention(module: GraphAttention, given: Tensor, seen: Seen) -> Frozen:
    assert seen.graph is not None
    frozen = _heads(module, seen.points["pattern"], seen.graph, given)
    recalled, memory = seen.recalled, module.memory
    if recalled is None or memory is None:
        return frozen
    gate = memory.gate.sigmoid()[:, None] * recalled.known[0].any(-1)[:, None, None]  # [T,H,1]
    gate = gate.to(given).expand(-1, -1, given.shape[-1] // len(memory.gate))
    share, found = seen.points["memory.share"][0], recalled.items[0]
    values = recalled.layer[0, :, :, 1].to(given)  # [T,K,H,M]

    def items(position: int | None) -> Tensor:
        chosen = found >= 0 if position is None else found == position
        read = torch.einsum("thk,tkhm->thm", share * chosen[:, None], values)
        return (gate * read).flatten(1) @ frozen.out

    return replace(
        frozen,
        scale=frozen.scale * (1 - gate).flatten(1),
        items=items,
        recalled=tuple(found[found >= 0].unique().tolist()),
    )


@freeze.register
def _dense_attention(module: DenseAttention, given: Tensor, seen: Seen) -> Frozen:
    q, k = (seen.points[name][0].transpose(0, 1) for name in "qk")  # [H,T,M]
    here = torch.arange(q.shape[1], device=q.device)
    distance = here[:, None] - here
    scores = q @ k.mT * q.shape[-1] ** -0.5
    bias = module.heads.distance_bias(distance.abs()[None])
    scores = scores if bias is None else scores + bias[0].to(scores)
    if module.causal:
        scores = scores.masked_fill(distance < 0, -torch.inf)
    return _heads(module, scores.softmax(-1)[None], None, given)


def _heads(
    mixer: GraphAttention | DenseAttention,
    pattern: Tensor,
    graph: TokenGraph | None,
    given: Tensor,
) -> FrozenAttention:
    """Plain heads, or the pairs of maps of differential ones as one head each."""
    differential: DifferentialHeads | None = mixer.heads.differential
    width = given.shape[-1]
    value, out = _matrix(mixer.qkv, given)[:, -width:], _matrix(mixer.out, given)
    plain = FrozenAttention(value, out, pattern, graph, torch.ones_like(given))
    if differential is None:
        return plain
    shares = pattern[:, 0::2] - differential.weight().to(pattern) * pattern[:, 1::2]
    joined = replace(plain, shares=shares)
    scale = frozen_scale(differential.norm, joined.read(given[None])[0])
    return replace(joined, scale=(scale * (1 - differential.lambda_init)).flatten(1))


@dataclass(frozen=True)
class FrozenMamba(Frozen):
    """out(scale · scan(written · conv(in(x)))): into [D,E], out [E,D], written and scale [T,E]; Δ,
    B and C of the run."""

    mixer: MambaMixer
    into: Tensor
    out: Tensor
    written: Tensor
    scale: Tensor
    points: Mapping[str, Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self._scan(_convolve(self.mixer, x @ self.into))

    def parts(self, by: str) -> Mapping[str, Frozen]:
        if by != "head":
            return {STAYS: self}
        heads = torch.eye(self.mixer.n_heads).to(self.scale)
        one = heads.repeat_interleave(self.mixer.headdim, dim=1)
        return {f"head {h}": replace(self, scale=self.scale * m) for h, m in enumerate(one)}

    def constants(self, by: str) -> Mapping[str, Callable[[], Tensor]]:
        bias = self.mixer.conv1d.bias
        if bias is None:
            return {}
        constant = bias[: self.mixer.d_inner].expand(1, len(self.scale), -1)
        return {"bias": lambda: self._scan(constant)[0]}

    def _scan(self, u: Tensor) -> Tensor:
        """[N,T,E] → [N,T,D]; all components side by side, as channels of one scan."""
        mixer, count = self.mixer, len(u)
        x = (u * self.written).unflatten(-1, (mixer.n_heads, mixer.headdim))
        x = x.permute(1, 2, 0, 3).flatten(2)[None]  # [1,T,H,N·P]
        y = ssd(
            x, self.points["delta"], -mixer.A_log.exp(), self.points["B"], self.points["C"],
            mixer.D, chunk_size=mixer.chunk_size,
        )  # fmt: skip
        assert isinstance(y, Tensor)
        y = y[0].unflatten(-1, (count, -1)).permute(2, 0, 1, 3).flatten(2)
        return (y * self.scale) @ self.out


@freeze.register
def _mamba(module: MambaMixer, given: Tensor, seen: Seen) -> Frozen:
    if module.backwards is not None:
        raise InputError("an encoder's Mamba scans both ways and has no frozen form: decompose a "
                         "language model")  # fmt: skip
    inner = module.d_inner
    into = _matrix(module.in_proj, given)[:, inner : 2 * inner]
    u = _convolve(module, given[None] @ into)
    if module.conv1d.bias is not None:
        u = u + module.conv1d.bias[:inner]
    gate = F.silu(seen.points["gate"][0])
    v = (seen.points["y"][0].flatten(1) * gate).unflatten(-1, (module.norm.groups, -1))
    rms = (v.square().mean(-1, keepdim=True) + module.norm.eps).rsqrt().expand_as(v).flatten(1)
    scale = gate * rms * module.norm.weight
    out = _matrix(module.out_proj, scale)
    return FrozenMamba(module, into, out, u[0].sigmoid(), scale, seen.points)


def _convolve(mixer: MambaMixer, values: Tensor) -> Tensor:
    """The short convolution of [N,T,E], without its bias."""
    weight = mixer.conv1d.weight[: mixer.d_inner, 0]
    done = causal_conv1d(values.contiguous(), weight, None, activation=None)
    assert isinstance(done, Tensor)
    return done


@dataclass(frozen=True)
class FrozenSwiGLU(Frozen):
    """down(gate · up(x)): up [D,F], down [F,D], gate [T,F]."""

    up: Tensor
    down: Tensor
    gate: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (self.gate * (x @ self.up)) @ self.down


@freeze.register
def _swiglu(module: SwiGLU, given: Tensor, seen: Seen) -> Frozen:
    gate, up = _matrix(module.gate_up, given).chunk(2, dim=1)
    gate = F.silu(given @ gate)
    return FrozenSwiGLU(up, _matrix(module.down, gate), gate)


@dataclass(frozen=True)
class FrozenExperts(Frozen):
    """Σ_e down_e(gates_e · up_e(x)): up [E,F,D], down [E,D,F]; expert → its tokens [n] and, times
    what routing gives it, its gate [n,F]."""

    up: Tensor
    down: Tensor
    routed: Mapping[int, tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for e, (tokens, gate) in self.routed.items():
            y = F.linear(gate * F.linear(x[:, tokens], self.up[e]), self.down[e])
            out = out.index_add(1, tokens, y)
        return out

    def parts(self, by: str) -> Mapping[str, Frozen]:
        if by != "expert":
            return {STAYS: self}
        return {f"expert {e}": replace(self, routed={e: its}) for e, its in self.routed.items()}


@freeze.register(TokenChoice)
@freeze.register(ExpertThreshold)
@freeze.register(ExpertChoice)
def _experts(
    module: TokenChoice | ExpertThreshold | ExpertChoice, given: Tensor, seen: Seen
) -> Frozen:
    experts = module.experts
    gates = module(given[None])[1].gates[0].to(given)
    gate_weight, up = experts.gate_up.chunk(2, dim=1)
    routed = {}
    for e in range(gates.shape[1]):
        tokens = gates[:, e].nonzero()[:, 0]
        if len(tokens):
            gate = F.silu(F.linear(given[tokens], gate_weight[e])) * gates[tokens, e, None]
            routed[e] = (tokens, gate)
    return FrozenExperts(up, experts.down, routed)


def _matrix(linear: nn.Module, x: Tensor) -> Tensor:
    """What a linear map without bias does to x [...,D], however it is stored: [D,out]. A part of a
    layer's output is then a part of its columns."""
    matrix: Tensor = linear(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
    return matrix
