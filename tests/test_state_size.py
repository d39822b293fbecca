"""The state that a cache carries, against what can be counted on paper."""

from __future__ import annotations

import pytest
import torch

from state_core import SOSM
from state_core.state_size import StateSize
from state_core.training.baselines import Baseline, matched_baseline
from tests.invariants.variants import VARIANTS, build, text

D, V = 32, 53  # the variants' width and vocabulary


def read(model: SOSM, lengths: list[int], batch: int = 1) -> StateSize:
    """Read a text in pieces of these lengths."""
    cache = model.eval().new_cache(batch)
    with torch.no_grad():
        for piece in text(batch, sum(lengths)).split(lengths, dim=1):
            model(piece, cache=cache)
    return cache.state_size()


def baseline(kind: Baseline) -> SOSM:
    return SOSM(matched_baseline(VARIANTS["as recommended"], kind))


def test_attention_holds_keys_and_values_of_every_token() -> None:
    model = baseline("transformer")
    layers = len(model.config.layers)
    size = read(model, [70])
    assert {k: v.elements for k, v in size.parts.items()} == {
        "attention": layers * 2 * 70 * D,
        "position": 1,
    }
    assert size.bytes == 4 * (size.elements - 1) + 8


def test_mamba_holds_as_much_after_any_length() -> None:
    model = baseline("mamba2")
    cfg = model.config.mamba
    inner = int(cfg.expand * D)
    ssm = inner * cfg.d_state
    conv = (cfg.d_conv - 1) * (inner + 2 * cfg.ngroups * cfg.d_state)
    expected = len(model.config.layers) * (ssm + conv) + 1
    assert read(model, [5]).elements == read(model, [70]).elements == expected


def test_every_part_of_sosm_counts() -> None:
    """100 tokens: reserved capacity is 128 and must not count."""
    model, length = build("as recommended"), 100
    cfg = model.config
    graph, state = cfg.graph, cfg.state
    features = 4 * len(graph.block_weights)
    blocks = 4 * len(state.layout)
    averages = 4 * len(state.half_lives)
    recent = (state.local_width - 1) * cfg.embed_rank
    parts = {name: held.elements for name, held in read(model, [length]).parts.items()}
    assert parts.pop("mamba") > 0
    assert parts == {
        "graph_attention": cfg.layers.count("graph_attention") * 2 * length * D,
        "graph": 1 + length * (features + blocks + state.temporal_dim),
        "adapters": recent + averages + 2 * V,
        "pointer": length * (cfg.pointer.dim + 1),
        "position": 1,
    }


@pytest.mark.parametrize("variant", ["as recommended", "all of the graph", "phase6"])
@pytest.mark.parametrize(("pieces", "batch"), [([1] * 40, 1), ([30, 10], 1), ([40], 3)])
def test_it_is_that_of_one_text_however_it_was_read(
    variant: str, pieces: list[int], batch: int
) -> None:
    model = build(variant)
    size = read(model, pieces, batch)
    assert size == read(model, [40])
    assert size.elements == sum(held.elements for held in size.parts.values())
    assert size.to_dict()["elements"] == size.elements


def test_nothing_read_is_nearly_nothing_held() -> None:
    size = baseline("transformer").new_cache(2).state_size()
    assert size.elements == 1
