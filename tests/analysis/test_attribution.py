"""Shares add up at every level, for every variant, and say what a change would do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from state_core import SOSM, SOSMConfig
from state_core.analysis.attribution import Part, attribute
from state_core.errors import InputError
from state_core.layers import registry
from tests.invariants.variants import SMALL, VARIANTS, build, text


def assert_adds_up(part: Part) -> None:
    if part.parts:
        size = max(1.0, sum(abs(p.share) for p in part.parts))
        assert abs(sum(p.share for p in part.parts) - part.share) < 1e-5 * size, part.path
        for inner in part.parts:
            assert_adds_up(inner)


@pytest.mark.parametrize("name", VARIANTS)
def test_shares_add_up_to_one(name: str) -> None:
    tree = attribute(build(name), text(2, 40), position=30, text=1)
    assert tree.share == pytest.approx(1)
    assert_adds_up(tree)
    paths = [part.path for part in tree]
    assert len(paths) == len(set(paths))


def test_the_logit_is_what_the_parts_say() -> None:
    model, ids = build("no pointer"), text(1, 30)
    tree = attribute(model, ids, 20, token=7)
    with torch.no_grad():
        logits = model(ids).logits[0, 20]
        model.blocks[1].mixer.out.weight.zero_()
        without = attribute(model, ids, 20, token=7)
    assert without.find("vocabulary/blocks.1.attn").share == pytest.approx(0, abs=1e-6)
    assert float(logits[7] - logits.mean()) != 0
    assert tree.find("vocabulary/blocks.1.attn").share != 0


@pytest.mark.parametrize("name", ["memory", "phase6"])
def test_memory_items_vote_and_are_read(name: str) -> None:
    model, ids = build(name), text(1, 40)
    memory = model.new_memory()
    with torch.no_grad():
        memory.append(ids, model(ids, memory=memory).keepsake)
    tree = attribute(model, text(1, 20, seed=2), 15, memory=memory)
    assert_adds_up(tree)
    assert "memory of" in tree.find("vocabulary/blocks.1.attn/head 0").parts[-1].path
    out = model(text(1, 20, seed=2), memory=memory)
    word = int(out.recalled.words[0, 15, 0])
    voted = attribute(model, text(1, 20, seed=2), 15, token=word, memory=memory)
    position = int(out.recalled.items[0, 15, 0])
    assert voted.find(f"memory/position {position}").share > 0


def test_what_is_not_there_is_told() -> None:
    model: SOSM = build("as recommended")
    with pytest.raises(InputError, match="position 99"):
        attribute(model, text(1, 20), 99)
    with pytest.raises(InputError, match="token 99"):
        attribute(model, text(1, 20), 3, token=99)
    with pytest.raises(InputError, match=r"blocks\.1\.attn"):
        attribute(model, text(1, 20), 3).find("vocabulary/blocks.1.atn")


class OwnMixer(nn.Module):
    """One that says nothing of heads."""

    def __init__(self, config: SOSMConfig, index: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(config.d_model))

    def forward(self, x: torch.Tensor, view: Any, state: None) -> tuple[torch.Tensor, None]:
        return self.weight * x, None


def test_a_mixer_of_ones_own_is_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MIXERS, "own", registry.MixerSpec(OwnMixer, False))
    config = SOSMConfig.preset("default").override({**SMALL, "layers": ["own", "graph_attention"]})
    model = SOSM(config).eval()
    tree = attribute(model, text(1, 30), 20)
    assert_adds_up(tree)
    assert tree.find("vocabulary/blocks.0.own").share != 0
    with torch.no_grad():
        model.blocks[0].mixer.weight.zero_()
    assert attribute(model, text(1, 30), 20).find("vocabulary/blocks.0.own").share == 0
