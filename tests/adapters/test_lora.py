"""LoRA on our model: train, save, load, swap, merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from state_core import SOSM, audit_causality
from state_core.errors import CheckpointError, ConfigError
from tests.invariants.variants import build, text

pytest.importorskip("peft", reason="needs the extra lora")

from state_core.adapters.lora import Lora


def train(model: SOSM, adapters: Lora, ids: torch.Tensor, steps: int = 15) -> tuple[float, float]:
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=2e-2)
    losses = []
    for _ in range(steps):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1]


def logits(model: SOSM, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def test_it_starts_as_the_model_and_trains_only_the_adapter() -> None:
    model, ids = build("as recommended"), text(2, 30)
    plain, before = logits(model, ids), {n: p.clone() for n, p in model.named_parameters()}
    adapters = Lora(model, rank=2)
    torch.testing.assert_close(logits(model, ids), plain, rtol=0, atol=0)
    assert sum(p.numel() for p in adapters.parameters()) < 0.2 * model.num_parameters()
    first, last = train(model, adapters, ids)
    assert last < first
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, before[name.replace(".base_layer", "")]), name
    assert audit_causality(model, length=20).passed


def test_adapters_are_saved_loaded_and_swapped(tmp_path: Path) -> None:
    model, one, two = build("as recommended"), text(2, 30, seed=1), text(2, 30, seed=2)
    adapters = Lora(model, rank=2, name="one")
    train(model, adapters, one)
    with_one = logits(model, one)
    adapters.save("one", tmp_path / "one")
    adapters.add("two")
    adapters.use("two")
    torch.testing.assert_close(logits(model, one), logits(build("as recommended"), one))
    train(model, adapters, two)
    with_two = logits(model, one)
    adapters.use("one")
    torch.testing.assert_close(logits(model, one), with_one, rtol=0, atol=0)
    assert not torch.allclose(with_two, with_one)

    other = build("as recommended")
    elsewhere = Lora(other, rank=2)
    elsewhere.load("one", tmp_path / "one")
    elsewhere.use("one")
    torch.testing.assert_close(logits(other, one), with_one, rtol=0, atol=0)


def test_merging_gives_a_plain_model_that_says_the_same(tmp_path: Path) -> None:
    model, ids = build("as recommended"), text(2, 30)
    names = [name for name, _ in model.named_parameters()]
    adapters = Lora(model, rank=2)
    train(model, adapters, ids)
    adapted = logits(model, ids)
    merged = adapters.merge()
    assert isinstance(merged, SOSM)
    assert [name for name, _ in merged.named_parameters()] == names
    torch.testing.assert_close(logits(merged, ids), adapted, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(SOSM.from_pretrained(tmp_path), ids), logits(merged, ids))


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    adapters = Lora(build("as recommended"), rank=2)
    adapters.save("default", tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        Lora(build("as recommended", seed=1), rank=2).load("law", tmp_path)
    with pytest.raises(CheckpointError, match="'r': 2"):
        Lora(build("as recommended"), rank=3).load("law", tmp_path)
    with pytest.raises(CheckpointError, match="there is no"):
        adapters.load("law", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="already"):
        adapters.add("default")
    with pytest.raises(ConfigError, match="no adapter 'law'"):
        adapters.use("law")
    with pytest.raises(ConfigError, match="rank"):
        Lora(build("as recommended"), rank=0)
