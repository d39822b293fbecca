"""Sampling: a mix-in that relies on `forward` and the cache alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from state_core.cache import SOSMCache
from state_core.errors import InputError
from state_core.graph.graph_cache import GraphCache
from state_core.memory.segment_reader import SegmentReader
from state_core.memory.text_memory import TextMemory

if TYPE_CHECKING:
    from state_core.config import SOSMConfig
    from state_core.output import SOSMOutput

GoOn = Callable[[Tensor], Tensor]
"""Reads the next token [B,1] of each text; log p [B,V] of what follows."""


class GenerationMixin:
    """Adds `generate` to a model with `forward(ids, cache=…)` and `new_cache`."""

    training: bool
    config: SOSMConfig

    if TYPE_CHECKING:

        def __call__(self, input_ids: Tensor, **options: Any) -> SOSMOutput: ...
        def new_cache(self, batch_size: int = 1) -> SOSMCache: ...
        def train(self, mode: bool = True) -> Any: ...

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int] | Tensor],
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        prefixes: GraphCache | None = None,
        memory: TextMemory | None = None,
    ) -> Tensor | list[Tensor]:
        """Continue prompts [B,T], or a list of prompts of any lengths; the prompt is included.

        temperature 0 takes the likeliest token; top_k keeps that many, top_p the fewest whose
        probability reaches it. seed makes each text's sampling its own: a text's continuation does
        not depend on the others in the batch. prefixes: where prompts that begin alike find what
        was read before. memory: what is remembered of each text, to which what is read and written
        is added; the text may then be of any length, with no more state than a segment's (of
        train.seq_len tokens) and the memory's. Returns [B,T+n], or a list for a list.
        """
        prompts = [torch.as_tensor(p, dtype=torch.int64).flatten() for p in input_ids]
        _check(prompts, max_new_tokens, temperature, top_k, top_p)
        _check_held(prompts, prefixes, memory)
        was_training = self.training
        self.train(False)
        try:
            log_p, go_on = self._read(prompts, prefixes, memory)
            choose = partial(
                filtered_probabilities, temperature=temperature, top_k=top_k, top_p=top_p
            )
            rows = _continue(prompts, log_p, go_on, choose, max_new_tokens, seed)
        finally:
            self.train(was_training)
        return torch.stack(rows) if isinstance(input_ids, Tensor) else rows

    def _read(
        self, prompts: list[Tensor], prefixes: GraphCache | None, memory: TextMemory | None
    ) -> tuple[Tensor, GoOn]:
        """Read prompts of any lengths: the next token's log p [B,V], and how to go on."""
        if memory is not None:
            return self._remember(prompts, memory)
        caches, logits = [], []
        for prompt in prompts:
            cache = self.new_cache()
            ids = prompt[None].to(cache.lengths.device)
            if prefixes is None:
                out = self(ids, cache=cache)
            else:
                cache, out = prefixes.read(self, ids)
            caches.append(cache)
            logits.append(out.last_logits)
        stacked = SOSMCache.stack(caches)
        return torch.cat(logits), lambda ids: self(ids, cache=stacked).last_logits

    def _remember(self, prompts: list[Tensor], memory: TextMemory) -> tuple[Tensor, GoOn]:
        """The same with a memory behind: each text by itself, since their segments end apart."""
        length = self.config.train.seq_len
        readers = [SegmentReader(self, memory.row(b), length) for b in range(len(prompts))]

        def read(texts: Sequence[Tensor]) -> Tensor:
            outs = [r.read(ids[None]) for r, ids in zip(readers, texts, strict=True)]
            return torch.cat([out.last_logits for out in outs])

        device = self.new_cache().lengths.device
        return read([prompt.to(device) for prompt in prompts]), lambda ids: read(list(ids))


def _continue(
    prompts: list[Tensor],
    log_p: Tensor,
    go_on: GoOn,
    choose: Callable[[Tensor], Tensor],
    max_new_tokens: int,
    seed: int | None,
) -> list[Tensor]:
    """Sample on from log p [B,V]; the prompts with what follows them."""
    generators = [_generator(seed, b, log_p.device) for b in range(len(prompts))]
    tokens: list[Tensor] = []
    for step in range(max_new_tokens):
        rows = zip(choose(log_p), generators, strict=True)
        chosen = torch.cat([torch.multinomial(row, 1, generator=g) for row, g in rows])
        tokens.append(chosen)
        if step + 1 < max_new_tokens:
            log_p = go_on(chosen[:, None])
    none = torch.empty(len(prompts), 0, dtype=torch.int64)
    new = torch.stack(tokens, dim=1) if tokens else none
    return [torch.cat([prompt, row.to(prompt)]) for prompt, row in zip(prompts, new, strict=True)]


def filtered_probabilities(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Probabilities [B,V] after temperature, top-k and top-p (nucleus, arXiv 1904.09751)."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    p = (logits / temperature).softmax(-1)
    if top_k is not None and top_k < p.shape[-1]:
        least = p.topk(top_k, dim=-1).values[:, -1:]
        p = torch.where(p >= least, p, 0)
    if top_p is not None:
        ranked, order = (p / p.sum(-1, keepdim=True)).sort(dim=-1, descending=True, stable=True)
        # A token stays if those before it have not reached top_p; the first always stays.
        ranked = torch.where(ranked.cumsum(-1) - ranked < top_p, ranked, 0)
        p = torch.zeros_like(p).scatter(-1, order, ranked)
    return p / p.sum(-1, keepdim=True)


def _check_held(
    prompts: list[Tensor], prefixes: GraphCache | None, memory: TextMemory | None
) -> None:
    if memory is None:
        return
    if prefixes is not None:
        raise InputError("give prefixes or a memory: a prefix that was read holds no memory")
    if memory.batch_size != len(prompts):
        raise InputError(
            f"the memory holds {memory.batch_size} texts, there are {len(prompts)} prompts: "
            f"use model.new_memory(batch_size={len(prompts)})"
        )


def _generator(seed: int | None, row: int, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed * 1_000_003 + row)
    return generator


def _check(
    prompts: list[Tensor],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if not prompts or any(prompt.numel() == 0 for prompt in prompts):
        raise InputError("every prompt needs at least one token")
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens must be ≥ 0, got {max_new_tokens}")
    if temperature < 0:
        raise InputError(f"temperature must be ≥ 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be ≥ 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p must be in (0, 1], got {top_p}")
