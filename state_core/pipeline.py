"""SOSM, the model: embed → state → graph → layers → head.

B batch, T new tokens, S tokens known, D model width, r embedding rank, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from state_core import ops
from state_core.adapters.mu_adapter import MUAdapter
from state_core.adapters.recency import advance, recency
from state_core.adapters.temporal_adapter import TemporalAdapter
from state_core.cache import SOSMCache
from state_core.config import SOSMConfig
from state_core.errors import ConfigError, InputError
from state_core.generation import GenerationMixin
from state_core.graph.graph_builder import GraphBuilder
from state_core.graph.neighbors import kind_count
from state_core.graph.token_graph import TokenGraph
from state_core.layers.embedding import FactorisedEmbedding
from state_core.layers.factorised import factorise_linears
from state_core.layers.graph_attention import memory_layer
from state_core.layers.graph_encoding import build_encoding
from state_core.layers.mlp import SwiGLU
from state_core.layers.moe import RoutedMLP, Routing
from state_core.layers.norm import RMSNorm
from state_core.layers.point import Point
from state_core.layers.pointer import PointerHead, Votes, mixture_logits, target_logprob
from state_core.layers.registry import build_mixer
from state_core.layers.view import LayerView, build_view
from state_core.memory.text_memory import Keepsake, Recalled, TextMemory
from state_core.output import SOSMOutput
from state_core.state import State

IGNORED = -100


class Block(nn.Module):
    """Pre-norm residual block: a mixer over tokens, then a SwiGLU over channels, or experts."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model)
        self.mixer = build_mixer(config.layers[index], config, index)
        self.dropout = nn.Dropout(config.dropout)
        self.input, self.mixed = Point("[B,T,D]"), Point("[B,T,D]")
        self.fed_forward, self.output = Point("[B,T,D]"), Point("[B,T,D]")
        self.mlp: nn.Sequential | None = None
        self.routed: RoutedMLP | None = None
        if config.moe.routing != "none" and index >= config.moe.from_layer:
            self.routed = RoutedMLP(config)
        elif config.mlp_hidden:
            norm = RMSNorm(config.d_model)
            self.mlp = nn.Sequential(norm, SwiGLU(config.d_model, config.mlp_hidden))

    def forward(self, x: Tensor, view: LayerView, state: Any) -> tuple[Tensor, Any, Routing | None]:
        """[B,T,D] → [B,T,D], what the next tokens need, and where tokens were routed."""
        x = self.input(x)
        y, state = self.mixer(self.mixer_norm(x), view, state)
        x = x + self.dropout(self.mixed(y))
        routing = None
        if self.mlp is not None:
            x = x + self.dropout(self.fed_forward(self.mlp(x)))
        elif self.routed is not None:
            y, routing = self.routed(x)
            x = x + self.dropout(self.fed_forward(y))
        return self.output(x), state, routing


@dataclass(frozen=True)
class Encoding:
    """hidden [B,T,D], after the last norm, and what it was computed with; remembered [B,T,2,H,D/H]:
    keys and values for a memory, where there is one."""

    hidden: Tensor
    state: State | None
    graph: TokenGraph | None
    routing: tuple[Routing, ...]
    recalled: Recalled | None = None
    remembered: Tensor | None = None

    @property
    def aux_loss(self) -> Tensor | None:
        """What routed layers add to the loss; None without one."""
        return torch.stack([r.aux_loss for r in self.routing]).sum() if self.routing else None


class Backbone(nn.Module):
    """embed → state → graph → layers → norm: what language models and encoders share."""

    def __init__(self, config: SOSMConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = FactorisedEmbedding(vocab_size, config.embed_rank, config.d_model)
        if config.graph.enabled:
            layout = tuple(config.state.layout)
            self.mu = MUAdapter(config.state, config.embed_rank)
            self.temporal = TemporalAdapter(
                config.state, vocab_size, exact=config.graph.temporal_gate
            )
            width = 4 * len(layout) + config.state.temporal_dim
            self.read_state = nn.Linear(width, config.d_model, bias=False)
            self.graph_builder = GraphBuilder(config.graph, layout, config.state.temporal_dim)
            self.encoding = build_encoding(config.graph, config.d_model)
            self.state, self.graph = Point("State"), Point("TokenGraph")
        self.embed, self.hidden = Point("[B,T,D]"), Point("[B,T,D]")
        self.blocks = nn.ModuleList(Block(config, i) for i in range(len(config.layers)))
        if config.linear_rank:
            factorise_linears(self.blocks, config.linear_rank)
        self.norm = RMSNorm(config.d_model)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def encode(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: SOSMCache | None = None,
        memory: TextMemory | None = None,
    ) -> Encoding:
        """Hidden states of ids [B,T] at `positions` [B,T]."""
        codes, x = self.embedding(ids)
        state, graph = self._build_graph(ids, codes, positions, cache)
        if state is not None:
            both = torch.cat([state.semantic.flatten(2), state.temporal], dim=-1)
            x = x + self.read_state(both)
        if graph is not None and self.encoding is not None:
            x = x + self.encoding(graph)
        view = build_view(self.config, positions, graph, cache is not None)
        recalled = None if memory is None or graph is None else memory.recall(graph.features)
        reader, remembered = memory_layer(self.config), None
        x = self.embed(x)
        routing = []
        for i, block in enumerate(self.blocks):
            sees = view
            if i == reader and memory is not None:
                remembered = _to_remember(cast(Block, block), x)
                sees = replace(view, recalled=recalled)
            x, routed = self._run(cast(Block, block), i, x, sees, cache)
            routing += [] if routed is None else [routed]
        return Encoding(
            self.hidden(self.norm(x)), state, graph, tuple(routing), recalled, remembered
        )

    def _build_graph(
        self, ids: Tensor, codes: Tensor, positions: Tensor, cache: SOSMCache | None
    ) -> tuple[State | None, TokenGraph | None]:
        if not self.config.graph.enabled:
            return None, None
        seen = recency(ids, positions, None if cache is None else cache.recency)
        semantic, carried = self.mu(codes, seen, None if cache is None else cache.mu)
        state = self.state(State(semantic, self.temporal(ids, seen), self.mu.layout))
        graph = self.graph(self.graph_builder(state, None if cache is None else cache.graph))
        if cache is not None and cache.recency is not None:
            cache.mu = carried
            cache.recency = advance(cache.recency, ids, positions)
        return state, graph

    def _run(
        self, block: Block, i: int, x: Tensor, view: LayerView, cache: SOSMCache | None
    ) -> tuple[Tensor, Routing | None]:
        if cache is not None:
            x, cache.layers[i], routing = block(x, view, cache.layers[i])
            return x, routing
        if block.routed is not None:
            block.routed.begin_batch()
        if self.training and self.config.train.activation_checkpointing:
            x, _, routing = checkpoint(block, x, view, None, use_reentrant=False)
            return x, routing
        x, _, routing = block(x, view, None)
        return x, routing


class SOSM(GenerationMixin, Backbone):
    """The Sparsely Organized Semantic Model; its baselines are the same class, configured without
    a graph."""

    def __init__(self, config: SOSMConfig) -> None:
        if config.objective != "next_token":
            raise ConfigError(
                f"objective = {config.objective!r} is an encoder's: use SOSMEncoder(config)"
            )
        super().__init__(config, config.vocab_size)
        self.pointer: PointerHead | None = None
        if config.pointer.enabled:
            kinds = kind_count(config.graph)
            memory = config.memory.enabled
            self.pointer = PointerHead(config.d_model, config.pointer.dim, kinds, memory)

    def new_cache(self, batch_size: int = 1) -> SOSMCache:
        """An empty cache: `out = model(ids, cache=cache)` continues from what it holds."""
        return SOSMCache(self.config, batch_size, self.embedding.codes.weight.device)

    def new_memory(self, batch_size: int = 1, capacity: int | None = None) -> TextMemory:
        """An empty memory: `out = model(ids, memory=memory)` reads it, and
        `memory.append(ids, out.keepsake)` adds the segment that was read.

        capacity: tokens held of each text, by default `config.memory.capacity`. ConfigError for a
        model that was built without a memory.
        """
        settings = self.config.memory
        if not settings.enabled:
            raise ConfigError("this model has no memory to read with: set memory.enabled = true")
        size = settings.capacity if capacity is None else capacity
        return TextMemory(self.config, batch_size, self.graph_builder.similarity.width, size)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        return_graph: bool = False,
        return_state: bool = False,
        cache: SOSMCache | None = None,
        memory: TextMemory | None = None,
    ) -> SOSMOutput:
        """Read `input_ids` [B,T].

        labels [B,T]: the same ids, shifted inside; −100 is ignored. cache: what was read before;
        updated in place. memory: what is remembered of earlier segments; not changed. InputError
        for ids or labels of the wrong shape, type or range.
        """
        self._check(input_ids, labels, cache, memory)
        batch, length = input_ids.shape
        if cache is None:
            positions = torch.arange(length, device=input_ids.device).expand(batch, length)
        else:
            positions = cache.advance(length)
        encoded = self.encode(input_ids, positions, cache, memory)
        hidden, graph = encoded.hidden, encoded.graph
        keys = None if self.pointer is None else self.pointer.key(hidden)
        votes = self._votes(encoded, keys, input_ids, positions, cache)
        nll, loss = self._loss(hidden, votes, labels)
        return SOSMOutput(
            hidden=hidden,
            vocabulary_logits=self.embedding.logits,
            mix=None if votes is None else mixture_logits,
            votes=votes,
            loss=loss,
            token_nll=nll,
            graph=graph if return_graph else None,
            state=encoded.state if return_state else None,
            aux_loss=encoded.aux_loss,
            routing=encoded.routing,
            cache=cache,
            recalled=encoded.recalled,
            keepsake=_keepsake(encoded, keys),
        )

    def _votes(
        self,
        encoded: Encoding,
        keys: Tensor | None,
        ids: Tensor,
        positions: Tensor,
        cache: SOSMCache | None,
    ) -> Votes | None:
        if self.pointer is None or keys is None:
            return None
        if cache is not None:
            keys, ids = cache.pointer_keys.write(keys, positions), cache.ids.write(ids, positions)
        votes: Votes = self.pointer(encoded.hidden, encoded.graph, keys, ids, encoded.recalled)
        return votes

    def _loss(
        self, hidden: Tensor, votes: Votes | None, labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Negative log-likelihood of each label [B,T−1], and its mean."""
        if labels is None:
            return None, None
        targets = labels[:, 1:]
        codes = self.embedding.contract(hidden[:, :-1])
        log_p = ops.token_logprob(
            codes.flatten(0, 1), self.embedding.codes.weight, targets.flatten()
        )
        log_p = log_p.view_as(targets)
        if votes is not None:
            log_p = target_logprob(
                Votes(votes.log_share[:, :-1], votes.words[:, :-1]), log_p, targets
            )
        kept = targets != IGNORED
        nll = torch.where(kept, -log_p, 0)
        return nll, nll.sum() / kept.sum().clamp(min=1)

    def _check(
        self,
        ids: Tensor,
        labels: Tensor | None,
        cache: SOSMCache | None,
        memory: TextMemory | None,
    ) -> None:
        check_ids(ids, self.config.vocab_size)
        if memory is not None and not self.config.memory.enabled:
            raise InputError("this model has no memory to read with: set memory.enabled = true")
        if memory is not None and memory.batch_size != ids.shape[0]:
            raise InputError(
                f"the memory holds {memory.batch_size} texts, input_ids have {ids.shape[0]}: "
                f"use model.new_memory(batch_size={ids.shape[0]})"
            )
        if cache is not None and cache.batch_size != ids.shape[0]:
            raise InputError(
                f"the cache holds {cache.batch_size} texts, input_ids have {ids.shape[0]}: "
                f"use model.new_cache(batch_size={ids.shape[0]})"
            )
        if labels is None:
            return
        if labels.shape != ids.shape or labels.dtype != torch.int64:
            raise InputError(
                f"labels must be int64 {list(ids.shape)}, got {labels.dtype} {list(labels.shape)}"
            )
        if ids.shape[1] < 2:
            raise InputError(
                "labels need at least two tokens: each token is predicted from those before it"
            )
        known = labels[labels != IGNORED]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.config.vocab_size:
            raise InputError(f"labels must be −100 or ids below {self.config.vocab_size}")

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors and config.json, atomically."""
        from state_core.checkpoint import save_model

        save_model(self, Path(directory))

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> SOSM:
        """Load what `save_pretrained` wrote; CheckpointError if it is missing or altered."""
        from state_core.checkpoint import load_model

        return load_model(Path(directory))


@torch.no_grad()
def _to_remember(block: Block, x: Tensor) -> Tensor:
    """Keys and values, [B,T,2,H,D/H], of what the block is about to read."""
    kept: Tensor = block.mixer.to_remember(block.mixer_norm(x))  # type: ignore[operator]
    return kept


def _keepsake(encoded: Encoding, pointer_keys: Tensor | None) -> Keepsake | None:
    """What a memory keeps of the tokens read; None where none was given."""
    if encoded.remembered is None or encoded.graph is None:
        return None
    none = encoded.hidden[..., :0] if pointer_keys is None else pointer_keys
    return Keepsake(encoded.graph.features.detach(), encoded.remembered, none.detach())


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """InputError unless ids are int64 [B,T], not empty, from 0 to vocab_size − 1."""
    if ids.dim() != 2 or ids.dtype != torch.int64:
        raise InputError(f"input_ids must be int64 [B, T], got {ids.dtype} {list(ids.shape)}")
    if 0 in ids.shape:
        raise InputError(f"input_ids are empty: {list(ids.shape)}; give at least one token")
    low, high = (int(v) for v in ids.aminmax())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"input_ids hold {low if low < 0 else high}, but the vocabulary has ids 0 to "
            f"{vocab_size - 1}"
        )
