"""The pointer head: the graph's edges vote for the word that followed their target.

p(w | ≤ i) = λ_0·softmax(logits)[w] + Σ_e λ_e·[the token after j_e is w], over the row's edges to
earlier tokens, with (λ_0, λ_e…) = softmax([s(h_i), q_i·k_{j_e}/√d + β·sim_e + kind bias]), to which
an edge that passed the TEMPORAL gate adds its log gate. What is recalled from memory votes in the
same softmax, with a bias of its own.
Pointer networks over retrieved positions; cf. pointer sentinel mixtures (arXiv 1609.07843).

B batch, T tokens, S tokens known, E edges of a row, K items recalled, D model width, d pointer
width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core import ops
from state_core.graph.token_graph import TokenGraph
from state_core.layers.graph_attention import kind_indicator
from state_core.layers.point import Point
from state_core.memory.text_memory import Recalled


@dataclass(frozen=True)
class Votes:
    """log_share [B,T,1+E+K]: log λ of the vocabulary head, then of each edge and each item (−inf:
    does not vote); words [B,T,E+K]: what each of those votes for (−1 where it does not)."""

    log_share: Tensor
    words: Tensor


class PointerHead(nn.Module):
    """Shares the prediction between the vocabulary head and the edges of the row."""

    def __init__(self, d_model: int, dim: int, kinds: int, memory: bool = False) -> None:
        """kinds: how many kinds of edges the graph has; memory: whether one may vote as well."""
        super().__init__()
        self.query = nn.Linear(d_model, dim, bias=False)
        self.key = nn.Linear(d_model, dim, bias=False)
        self.vocabulary = nn.Linear(d_model, 1)
        self.similarity_scale = nn.Parameter(torch.tensor(4.0))
        self.kind_bias = nn.Parameter(torch.zeros(kinds))
        self.log_share = Point("[B,T,1+E+K]")
        self.memory_bias = nn.Parameter(torch.zeros(())) if memory else None
        # At first the vocabulary head speaks: untrained edges must earn their share.
        nn.init.zeros_(self.vocabulary.weight)
        nn.init.constant_(self.vocabulary.bias, 6.0)

    def forward(
        self,
        hidden: Tensor,
        graph: TokenGraph,
        keys: Tensor,
        ids: Tensor,
        recalled: Recalled | None = None,
    ) -> Votes:
        """Votes for hidden states [B,T,D], given the pointer keys [B,S,d] and ids [B,S] known, and
        what memory holds for each."""
        q = self.query(hidden) * keys.shape[-1] ** -0.5
        edges = ops.edge_scores(q, graph.neighbors, graph.counts, keys=keys).float()
        kinds = kind_indicator(graph, len(self.kind_bias))
        edges = edges + self.similarity_scale * graph.weights + kinds @ self.kind_bias
        if graph.log_gates is not None:
            edges = edges + graph.log_gates
        votes = voting_edges(graph)
        edges = torch.where(votes, edges, -torch.inf)
        after = torch.where(votes, graph.neighbors + 1, 0).long()
        words = torch.where(votes, ids.gather(1, after.flatten(1)).view_as(after), -1)
        scores = [self.vocabulary(hidden).float(), edges]
        if recalled is not None:
            scores.append(self._memory(q, recalled))
            words = torch.cat([words, recalled.words], dim=-1)
        return Votes(self.log_share(torch.cat(scores, dim=-1).log_softmax(-1)), words)

    def _memory(self, q: Tensor, recalled: Recalled) -> Tensor:
        """Scores [B,T,K] of what is recalled, −inf for padding."""
        assert self.memory_bias is not None
        scores = torch.einsum("btd,btkd->btk", q, recalled.pointer_keys.to(q.dtype)).float()
        similar = recalled.similarities.masked_fill(~recalled.known, 0)
        scores = scores + self.similarity_scale * similar + self.memory_bias
        return scores.masked_fill(~recalled.known, -torch.inf)


def voting_edges(graph: TokenGraph) -> Tensor:
    """The edges whose next token is known, [B,T,E] bool: their target lies before the token."""
    width = torch.arange(graph.neighbors.shape[-1], device=graph.neighbors.device)
    real = width < graph.counts[..., None]
    return real & (graph.neighbors < graph.positions[..., None])


def target_logprob(votes: Votes, vocabulary: Tensor, targets: Tensor) -> Tensor:
    """log p of `targets` [B,T], given the vocabulary head's log p of them; never a [T,V] array."""
    agree = votes.words == targets[..., None]
    edges = torch.where(agree, votes.log_share[..., 1:], -torch.inf)
    parts = torch.cat([(votes.log_share[..., 0] + vocabulary)[..., None], edges], dim=-1)
    return parts.logsumexp(-1)


def mixture_logits(votes: Votes, logits: Tensor) -> Tensor:
    """log p of every word, [B,T,V], for the vocabulary head's logits [B,T,V]."""
    p = (F.log_softmax(logits.float(), dim=-1) + votes.log_share[..., :1]).exp()
    shares = torch.where(votes.words >= 0, votes.log_share[..., 1:].exp(), 0)
    p = p.scatter_add(-1, votes.words.clamp(min=0), shares.to(p.dtype))
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()
