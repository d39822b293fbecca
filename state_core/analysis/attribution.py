"""Forward attribution: where the probability of a word comes from, in shares that add up to 1.

    tree = attribute(model, ids, position=40)
    for part in tree: print(part.path, part.share)

The mixture p = λ_0·p_vocabulary + Σ_e λ_e is split first: the votes of edges and of memory items
are shares of p as they are. The vocabulary head's share is split by its logit, relative to the mean
logit, which no shift of all of them changes. With the last norm's scale frozen that logit is a sum
over what was written to the residual stream: the token's embedding, each block of its state, and
each layer; a layer's over its heads, an attention head's over its edges and the items of memory.
Shares may be negative: a part may speak against the word.

D model width, H heads, M width of a head, E edges of a row, K items recalled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from state_core.analysis.frozen import frozen_scale
from state_core.analysis.internals import Cache, keeping, mixer_name
from state_core.errors import InputError, nearest
from state_core.layers.attention import DenseAttention
from state_core.layers.graph_attention import GraphAttention
from state_core.memory.text_memory import TextMemory
from state_core.output import SOSMOutput
from state_core.pipeline import SOSM, Block
from state_core.state import BLOCK_WIDTH


@dataclass(frozen=True)
class Part:
    """One part of a prediction; the shares of `parts`, if there are any, add up to its own."""

    path: str
    share: float
    parts: tuple[Part, ...] = ()

    def __iter__(self) -> Iterator[Part]:
        """This part and all below it, parents first."""
        yield self
        for part in self.parts:
            yield from part

    def find(self, path: str) -> Part:
        """The part at a path such as `vocabulary/blocks.2.attn/head 1`; InputError names the
        nearest."""
        found = {part.path: part for part in self}
        if path not in found:
            raise InputError(f"no part is at {path!r}: {nearest(path, found)}")
        return found[path]


@torch.no_grad()
def attribute(
    model: SOSM,
    ids: Tensor,
    position: int,
    token: int | None = None,
    text: int = 0,
    memory: TextMemory | None = None,
) -> Part:
    """The parts of p(`token` after `position`) when `model`, not in training, reads ids [B,T].

    token: the likeliest if not given. InputError for a position or token that is not there.
    """
    if not 0 <= position < ids.shape[1]:
        raise InputError(f"position {position} is out of range: the text has {ids.shape[1]} tokens")
    run = _read(model, ids, memory)
    log_p = run.out.logits[text, position].double().log_softmax(-1)
    token = int(log_p.argmax()) if token is None else token
    if not 0 <= token < len(log_p):
        raise InputError(f"token {token} is out of range: the vocabulary has {len(log_p)}")
    return _Attribution(model, run, text, position, token).tree()


def token_shares(tree: Part) -> dict[int, float]:
    """What each token that is looked at gives to the prediction, over all heads and votes."""
    shares: dict[int, float] = defaultdict(float)
    for part in tree:
        name = part.path.rsplit("/", 1)[-1]
        if name.startswith("edge to ") and not part.parts:
            shares[int(name.removeprefix("edge to "))] += part.share
    return dict(shares)


@dataclass(frozen=True)
class _Run:
    """A forward pass, with what went into the projections that write to the residual stream."""

    out: SOSMOutput
    cache: Cache
    written: dict[int, Tensor] = field(default_factory=dict)
    """Layer → what its mixer projected, [B,T,H·M]."""


def _read(model: SOSM, ids: Tensor, memory: TextMemory | None) -> _Run:
    names = ["embed", "blocks.*.output", "blocks.*.mixer", "blocks.*.mlp"]
    if "graph_attention" in model.config.layers:
        names += ["blocks.*.attn.v", "blocks.*.attn.pattern"]
    if memory is not None:
        names += ["blocks.*.attn.memory.share"]
    written: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for i, block in enumerate(model.blocks):
            hook = _projection(cast(Block, block)).register_forward_pre_hook(_keep(written, i))
            stack.callback(hook.remove)
        cache = stack.enter_context(keeping(model, names, {}))
        out = model(ids, return_graph=True, return_state=True, memory=memory)
    return _Run(out, cache, written)


class _Attribution:
    """The tree of one prediction."""

    def __init__(self, model: SOSM, run: _Run, text: int, position: int, token: int) -> None:
        self.model, self.run, self.at, self.token = model, run, (text, position), token
        codes = model.embedding.codes.weight
        last = run.cache[f"blocks.{len(model.blocks) - 1}.output"][self.at]
        self.direction = frozen_scale(model.norm, last) * (
            model.embedding.expand.weight @ (codes[token] - codes.mean(0))
        ).to(last)

    def tree(self) -> Part:
        votes = self.run.out.votes
        if votes is None:
            return self._vocabulary(1.0)
        words, log_share = votes.words[self.at], votes.log_share[self.at].double()
        logits = self.model.embedding.logits(self.run.out.hidden[self.at]).double()
        agreeing = (words == self.token).nonzero()[:, 0]
        first = log_share[:1] + logits.log_softmax(-1)[self.token]
        shares = torch.cat([first, log_share[1:][agreeing]]).softmax(0).tolist()
        pointed: list[Part] = []
        recalled: list[Part] = []
        for e, share in zip(agreeing.tolist(), shares[1:], strict=True):
            of = recalled if e >= self._edges else pointed
            of.append(Part(self._voter(e), share))
        groups = [_sum_of("pointer", pointed), _sum_of("memory", recalled)]
        return Part("p", 1.0, (self._vocabulary(shares[0]), *(g for g in groups if g.parts)))

    @property
    def _edges(self) -> int:
        """Edges of the row, padding included, which vote before the items of memory do."""
        return 0 if self.run.out.graph is None else self.run.out.graph.neighbors.shape[-1]

    def _voter(self, e: int) -> str:
        graph, recalled = self.run.out.graph, self.run.out.recalled
        if e >= self._edges:
            assert recalled is not None
            return f"memory/position {int(recalled.items[self.at][e - self._edges])}"
        assert graph is not None
        return f"pointer/edge to {int(graph.neighbors[self.at][e])}"

    def _vocabulary(self, share: float) -> Part:
        """The vocabulary head's share, split by its logit."""
        parts = [self._embedding()]
        for i, block in enumerate(self.model.blocks):
            parts.append(self._mixer(i, cast(Block, block)))
            written = self.run.cache.get(f"blocks.{i}.mlp")
            if written is not None:
                parts.append(Part(f"blocks.{i}.mlp", self._dot(written[self.at])))
        whole = _sum_of("vocabulary", parts)
        return _scaled(whole, share / whole.share, "")

    def _embedding(self) -> Part:
        """The token, each block of its state, and what else is in the first residual stream."""
        x = self.run.cache["embed"][self.at]
        state = self.run.out.state
        if state is None:
            return Part("embed", self._dot(x))
        model = self.model
        widths = [BLOCK_WIDTH] * len(state.layout) + [model.config.state.temporal_dim]
        columns = model.read_state.weight.split(widths, dim=1)
        values = [*state.semantic[self.at], state.temporal[self.at]]
        names = [f"state.{name}" for name in (*state.layout, "temporal")]
        parts = [
            Part(name, self._dot(weight @ value))
            for name, weight, value in zip(names, columns, values, strict=True)
        ]
        others = self._dot(x) - sum(part.share for part in parts)
        return _sum_of("embed", [Part("token", others), *parts])

    def _mixer(self, i: int, block: Block) -> Part:
        mixer: Any = block.mixer
        attends = isinstance(mixer, GraphAttention | DenseAttention)
        pairs = attends and mixer.heads.differential is not None
        heads = mixer.n_heads // (2 if pairs else 1)
        written = self.run.written[i][self.at]
        pulled = _pull_back(_projection(block), self.run.written[i], self.at, self.direction)
        shares = (written * pulled).view(heads, -1).sum(-1).tolist()
        parts = [Part(f"head {h}", share) for h, share in enumerate(shares)]
        if isinstance(mixer, GraphAttention):
            parts = self._edge_parts(i, mixer, parts, pulled.view(heads, -1))
        return _sum_of(f"blocks.{i}.{mixer_name(self.model, i)}", parts)

    def _edge_parts(
        self, i: int, mixer: GraphAttention, heads: list[Part], pulled: Tensor
    ) -> list[Part]:
        """Each head split by its edges and the items of memory; pulled [H,M]."""
        b, t = self.at
        graph = self.run.out.graph
        assert graph is not None
        to = graph.neighbors[b, t, : int(graph.counts[b, t])]
        names = [f"edge to {j}" for j in to.tolist()]
        pattern = self.run.cache[f"blocks.{i}.attn.pattern"][b, :, t, : len(to)]
        values = self.run.cache[f"blocks.{i}.attn.v"][b][to.long()]  # [E,H,M]
        recalled = self.run.out.recalled
        if mixer.memory is None or recalled is None or not bool(recalled.known[b, t].any()):
            terms = _edge_terms(mixer, pattern, values, pulled)
        else:
            gate = mixer.memory.gate.sigmoid()[:, None]
            by_map = pulled.view(len(gate), -1)
            local = ((1 - gate) * by_map).view_as(pulled)
            share = gate * self.run.cache[f"blocks.{i}.attn.memory.share"][b, t]
            items = share * torch.einsum("khm,hm->hk", recalled.layer[b, t, :, 1], by_map)
            items = items.view(len(heads), -1, items.shape[-1]).sum(1)
            terms = torch.cat([_edge_terms(mixer, pattern, values, local), items], dim=1)
            names += [f"memory of {j}" for j in recalled.items[b, t].tolist() if j >= 0]
        return [
            replace(_sum_of(head.path, map(Part, names, row.tolist())), share=head.share)
            for head, row in zip(heads, terms, strict=True)
        ]

    def _dot(self, written: Tensor) -> float:
        return float(self.direction.double() @ written.double())


def _edge_terms(mixer: GraphAttention, pattern: Tensor, values: Tensor, pulled: Tensor) -> Tensor:
    """What each edge gives to each head's say, [H,E]: pattern [H,E], values [E,H,M], pulled back
    directions [H,M]; of differential heads, pairs of maps."""
    differential = mixer.heads.differential
    if differential is None:
        return pattern * torch.einsum("ehm,hm->he", values, pulled)
    signal, noise = pattern[0::2], pattern[1::2]
    shares = signal - differential.weight() * noise
    both = values.unflatten(1, (-1, 2)).flatten(2)  # [E,H/2,2M]
    read = torch.einsum("he,ehm->hm", shares, both)
    scale = frozen_scale(differential.norm, read) * (1 - differential.lambda_init)
    return shares * torch.einsum("ehm,hm->he", both, scale * pulled)


def _projection(block: Block) -> nn.Module:
    """The linear map by which a mixer writes to the residual stream."""
    mixer: Any = block.mixer
    found: nn.Module = mixer.out if hasattr(mixer, "out") else mixer.out_proj
    return found


def _pull_back(linear: nn.Module, given: Tensor, at: tuple[int, int], direction: Tensor) -> Tensor:
    """The gradient of direction·linear(x) by x: what each input says in that direction."""
    with torch.enable_grad():
        x = given[at][None, None].detach().requires_grad_()
        (pulled,) = torch.autograd.grad((linear(x)[0, 0] * direction).sum(), x)
    found: Tensor = pulled[0, 0]
    return found


def _keep(written: dict[int, Tensor], i: int) -> Any:
    def hook(_module: nn.Module, given: tuple[Tensor]) -> None:
        written[i] = given[0]

    return hook


def _sum_of(path: str, parts: Iterable[Part]) -> Part:
    parts = tuple(parts)
    return Part(path, sum(part.share for part in parts), parts)


def _scaled(part: Part, factor: float, above: str) -> Part:
    """The tree with shares times `factor`, and with whole paths."""
    path = f"{above}/{part.path}" if above else part.path
    parts = tuple(_scaled(p, factor, path) for p in part.parts)
    return Part(path, part.share * factor, parts)
