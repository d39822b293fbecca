"""What a forward pass returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from state_core.cache import SOSMCache
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.layers.moe import Routing
from state_core.layers.pointer import Votes
from state_core.memory.text_memory import Keepsake, Recalled, RecallProvenance, TextMemory
from state_core.state import State


@dataclass(frozen=True)
class Source:
    """One origin of a prediction: an edge, an item of memory, or the vocabulary head where both
    `target` and `item` are None."""

    share: float
    target: int | None = None
    kind: EdgeKind | None = None
    word: int | None = None
    item: int | None = None
    """The position of what was remembered: `memory.item(b, position)` tells more."""


@dataclass(frozen=True)
class PredictionExplanation:
    """Where the probability of `token` at position `position` comes from; shares add up to 1.

    `sources` are sorted by share. An edge to j, or an item of memory, votes for the token that
    followed.
    """

    position: int
    token: int
    probability: float
    sources: list[Source]


@dataclass(eq=False)
class SOSMOutput:
    """B batch, T tokens, V vocabulary.

    loss: mean negative log-likelihood over the labels, None without labels; token_nll [B,T−1]: that
    of each label (0 where ignored); graph, state: when asked for; aux_loss: what routed layers add
    to the loss; routing: what each of them decided, with the usage of its experts; recalled,
    keepsake: with a memory, what it held for each token, and what to append to it.
    """

    hidden: Tensor
    vocabulary_logits: Callable[[Tensor], Tensor]
    mix: Callable[[Votes, Tensor], Tensor] | None = None
    votes: Votes | None = None
    loss: Tensor | None = None
    token_nll: Tensor | None = None
    graph: TokenGraph | None = None
    state: State | None = None
    aux_loss: Tensor | None = None
    routing: tuple[Routing, ...] = ()
    cache: SOSMCache | None = None
    recalled: Recalled | None = None
    keepsake: Keepsake | None = None

    @cached_property
    def logits(self) -> Tensor:
        """[B,T,V]; with a pointer head, log p of the mixture. Computed when first asked for, since
        training needs the labels' share only."""
        return self._logits((slice(None),))

    @property
    def last_logits(self) -> Tensor:
        """[B,V]: `logits` of the last token alone, which is all that decoding needs."""
        return self._logits((slice(None), slice(-1, None)))[:, 0]

    def logits_at(self, texts: Tensor, tokens: Tensor) -> Tensor:
        """[A,V]: `logits` of A tokens alone, given their texts [A] and their indices there [A]."""
        return self._logits((texts, tokens))

    def _logits(self, where: tuple[slice | Tensor, ...]) -> Tensor:
        logits = self.vocabulary_logits(self.hidden[where])
        if self.votes is None or self.mix is None:
            return logits
        return self.mix(Votes(self.votes.log_share[where], self.votes.words[where]), logits)

    def explain_prediction(self, b: int, i: int, token: int | None = None) -> PredictionExplanation:
        """Where the probability of `token` after position index `i` of text `b` comes from.

        token: the most likely one if not given. InputError without a pointer head.
        """
        if self.votes is None or self.graph is None:
            raise InputError(
                "explain_prediction needs the pointer head and the graph: "
                "call model(ids, return_graph=True) on a model with pointer.enabled = true"
            )
        log_p = self.logits[b, i].detach().double().log_softmax(-1)
        token = int(log_p.argmax()) if token is None else token
        if not 0 <= token < log_p.numel():
            raise InputError(f"token {token} is out of range: the vocabulary has {log_p.numel()}")
        words, log_share = self.votes.words[b, i], self.votes.log_share[b, i].detach().double()
        vocabulary = self.vocabulary_logits(self.hidden[b, i]).detach().double().log_softmax(-1)
        voters = (words == token).nonzero()[:, 0].tolist()
        parts = torch.cat(
            [(log_share[0] + vocabulary[token])[None], log_share[1:][voters]]
        ).softmax(0)
        sources = [Source(share=float(parts[0]))]
        for e, share in zip(voters, parts[1:].tolist(), strict=True):
            if e >= self.graph.neighbors.shape[-1]:
                assert self.recalled is not None
                position = int(self.recalled.items[b, i, e - self.graph.neighbors.shape[-1]])
                sources.append(Source(share, word=token, item=position))
                continue
            target = int(self.graph.neighbors[b, i, e])
            kind = EdgeKind(int(self.graph.kinds[b, i, e]))
            sources.append(Source(share, target, kind, token))
        sources.sort(key=lambda source: -source.share)
        return PredictionExplanation(
            position=int(self.graph.positions[b, i]),
            token=token,
            probability=float(log_p[token].exp()),
            sources=sources,
        )

    @torch.no_grad()
    def explain_recall(self, memory: TextMemory, b: int, i: int) -> list[RecallProvenance]:
        """What token index `i` of text `b` found in `memory`, best first, and by which blocks.

        InputError unless the output was made with a memory and `return_graph=True`.
        """
        if self.graph is None:
            raise InputError("explain_recall needs model(ids, memory=memory, return_graph=True)")
        if self.recalled is None:
            return []
        known = self.recalled.known[b, i]
        items = [memory.item(b, int(n)) for n in self.recalled.items[b, i][known]]
        if not items:
            return []
        semantic = self.graph.semantic[b, int(self.graph.positions[b, i])]
        features = torch.stack([item.features for item in items]).to(semantic)
        shares = self.graph.similarity.against(semantic, features)
        similarities = self.recalled.similarities[b, i][known].tolist()
        return [
            RecallProvenance(item, sim, dict(zip(self.graph.layout, row.tolist(), strict=True)))
            for item, sim, row in zip(items, similarities, shares, strict=True)
        ]
