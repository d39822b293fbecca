"""Sampling: a mix-in that relies on `forward` and the cache alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from state_core.cache import SOSMCache
from state_core.errors import InputError
from state_core.graph.graph_cache import GraphCache

if TYPE_CHECKING:
    from state_core.output import SOSMOutput


class GenerationMixin:
    """Adds `generate` to a model with `forward(ids, cache=…)` and `new_cache`."""

    training: bool

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
    ) -> Tensor | list[Tensor]:
        """Continue prompts [B,T], or a list of prompts of any lengths; the prompt is included.

        temperature 0 takes the likeliest token; top_k keeps that many, top_p the fewest whose
        probability reaches it. seed makes each text's sampling its own: a text's continuation does
        not depend on the others in the batch. prefixes: where prompts that begin alike find what
        was read before. Returns [B,T+n], or a list for a list.
        """
        prompts = [torch.as_tensor(p, dtype=torch.int64).flatten() for p in input_ids]
        _check(prompts, max_new_tokens, temperature, top_k, top_p)
        was_training = self.training
        self.train(False)
        try:
            read = self._read(prompts, prefixes)
            rows = self._continue(prompts, *read, max_new_tokens, temperature, top_k, top_p, seed)
        finally:
            self.train(was_training)
        return torch.stack(rows) if isinstance(input_ids, Tensor) else rows

    def _continue(
        self,
        prompts: list[Tensor],
        cache: SOSMCache,
        log_p: Tensor,
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        seed: int | None,
    ) -> list[Tensor]:
        generators = [_generator(seed, b, log_p.device) for b in range(len(prompts))]
        tokens: list[Tensor] = []
        for step in range(max_new_tokens):
            p = filtered_probabilities(log_p, temperature, top_k, top_p)
            chosen = torch.cat(
                [
                    torch.multinomial(row, 1, generator=g)
                    for row, g in zip(p, generators, strict=True)
                ]
            )
            tokens.append(chosen)
            if step + 1 < max_new_tokens:
                log_p = self(chosen[:, None], cache=cache).last_logits
        new = (
            torch.stack(tokens, dim=1)
            if tokens
            else torch.empty(len(prompts), 0, dtype=torch.int64)
        )
        return [
            torch.cat([prompt, row.to(prompt)]) for prompt, row in zip(prompts, new, strict=True)
        ]

    def _read(self, prompts: list[Tensor], prefixes: GraphCache | None) -> tuple[SOSMCache, Tensor]:
        """Read prompts of any lengths: a cache of all of them, and the next token's log p [B,V]."""
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
        return SOSMCache.stack(caches), torch.cat(logits)


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
