"""A hit gives the bits of a miss, or there is no hit; memory stays below its bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state_core.errors import ConfigError, InputError
from state_core.graph.graph_cache import GraphCache, fingerprint
from tests.invariants.variants import VARIANTS, build, text


def last_logits(cache: GraphCache, model: object, ids: torch.Tensor) -> torch.Tensor:
    return cache.read(model, ids)[1].last_logits


@pytest.mark.parametrize("name", VARIANTS)
def test_a_hit_gives_the_bits_of_a_miss(name: str) -> None:
    model, ids = build(name), text(1, 60)
    warm, cold = GraphCache(block=16), GraphCache(block=16)
    first = last_logits(warm, model, ids[:, :45])
    other = torch.cat([ids[:, :37], ids[:, :20] + 1], dim=1)
    for again in (ids, other, ids[:, :33], ids[:, :45]):
        hit, out = warm.read(model, again)
        miss, expected = cold.read(model, again)
        cold.clear()
        assert torch.equal(out.last_logits, expected.last_logits)
        # What follows is the same as well: nothing of the other text is left.
        follow = model(text(1, 5, seed=3), cache=hit), model(text(1, 5, seed=3), cache=miss)
        assert torch.equal(follow[0].logits, follow[1].logits)
    assert torch.equal(last_logits(warm, model, ids[:, :45]), first)
    assert warm.stats.hits == 5
    assert cold.stats.hits == 0


@given(st.data())
def test_any_sequence_of_texts(data: st.DataObject) -> None:
    model = build("all of the graph")
    warm = GraphCache(block=8, max_bytes=data.draw(st.sampled_from([10**5, 10**6, 10**8])))
    base = text(1, 40)
    for _ in range(5):
        length, change = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 39))
        ids = base.clone()
        ids[0, change] = 1
        ids = ids[:, :length]
        expected = last_logits(GraphCache(block=8), model, ids)
        assert torch.equal(last_logits(warm, model, ids), expected)
        assert warm.stats.bytes <= warm.max_bytes


def test_generation_with_a_cache() -> None:
    model = build("as recommended")
    prompts = [text(1, n, seed=1)[0].tolist() for n in (50, 61, 70)]
    cold = [
        model.generate([p], 8, temperature=0, prefixes=GraphCache(block=16))[0] for p in prompts
    ]
    warm = GraphCache(block=16)
    for _ in range(2):
        found = model.generate(prompts, 8, temperature=0, prefixes=warm)
        assert all(torch.equal(a, b) for a, b in zip(found, cold, strict=True))
    stats = warm.stats
    assert (stats.texts, stats.hits) == (6, 5)
    assert stats.tokens == 2 * (50 + 61 + 70)
    assert stats.tokens_reused == 48 + 48 + 48 + 48 + 64
    assert stats.hit_rate == pytest.approx(5 / 6)


def test_a_model_that_changed_is_another_model() -> None:
    model, ids, cache = build("as recommended"), text(1, 40), GraphCache(block=8)
    last_logits(cache, model, ids)
    before = fingerprint(model)
    # Through .data no version counter sees it.
    next(model.parameters()).data[0, 0] += 1
    assert fingerprint(model) != before
    got = last_logits(cache, model, ids)
    assert cache.stats.hits == 0
    assert torch.equal(got, last_logits(GraphCache(block=8), model, ids))


def test_the_least_recently_used_go_first() -> None:
    model = build("mixer mamba, no graph")
    probe = GraphCache(block=8)
    probe.read(model, text(1, 8))
    cache = GraphCache(block=8, max_bytes=3 * probe.stats.bytes)
    texts = [text(1, 9, seed=seed) for seed in range(4)]
    for ids in [*texts[:3], texts[0], texts[3], texts[0]]:
        cache.read(model, ids)
    assert cache.stats.hits == 2, "the text read again was kept"
    cache.read(model, texts[1])
    assert cache.stats.hits == 2, "the oldest was dropped"
    assert cache.stats.entries == 3
    assert cache.stats.dropped == 2
    cache.clear()
    assert cache.stats.bytes == cache.stats.entries == 0


def test_memory_is_shared_along_a_text() -> None:
    model = build("as recommended")
    whole, parts = GraphCache(block=256), GraphCache(block=32)
    whole.read(model, text(1, 256))
    parts.read(model, text(1, 256))
    assert parts.stats.entries == 8
    # Eight copies would be some four times one; recurrent states are not shared.
    assert parts.stats.bytes < 3.5 * whole.stats.bytes


def test_bad_input() -> None:
    model, cache = build("as recommended"), GraphCache()
    with pytest.raises(InputError, match="one text"):
        cache.read(model, text(2, 5))
    with pytest.raises(InputError, match=r"model\.eval"):
        cache.read(model.train(), text(1, 5))
    with pytest.raises(ConfigError, match="positive"):
        GraphCache(block=0)
