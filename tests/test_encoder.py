"""The bidirectional encoder: sees both sides, learns masked words, refuses what needs causality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from state_core import SOSM, SOSMConfig, SOSMEncoder, audit_causality
from state_core.encoder import encoder_config, mask_tokens
from state_core.errors import CausalityError, CheckpointError, ConfigError, InputError
from state_core.training.evaluate import score_windows
from tests.invariants.variants import SMALL, text

MASKED = encoder_config(SOSMConfig.preset("default"))
LAYERS: dict[str, dict[str, Any]] = {
    "mamba": {"layers": ["mamba"]},
    "graph attention": {"layers": ["graph_attention"]},
    "dense attention": {"layers": ["attention"]},
    "alibi": {"layers": ["attention", "graph_attention"], "attention.positions": "alibi"},
    "no graph": {"layers": ["attention", "mamba"], "graph.enabled": False},
    "differential": {"layers": ["attention"], "attention.differential": True},
    "soft": {"layers": ["mamba"], "moe.routing": "soft", "moe.hidden": 12},
    "expert choice": {"layers": ["mamba"], "moe.routing": "expert_choice", "moe.hidden": 12},
    "topological": {"layers": ["mamba"], "mamba.topological": True},
}


def encoder(seed: int = 0, **values: Any) -> SOSMEncoder:
    torch.manual_seed(seed)
    return SOSMEncoder(MASKED.override({**SMALL, **values})).eval()


@pytest.mark.parametrize("name", LAYERS)
def test_every_token_sees_both_sides(name: str) -> None:
    model, ids = encoder(**LAYERS[name]), text(1, 24)
    other = ids.clone()
    other[0, 12] = 1
    with torch.no_grad():
        moved = (model(other).hidden - model(ids).hidden).abs().amax(-1)[0]
    assert moved[11] > 0
    assert moved[13] > 0


@pytest.mark.parametrize("name", LAYERS)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    model, ids = encoder(**LAYERS[name]), text(3, 24)
    with torch.no_grad():
        batch = model(ids).logits
        for b in range(3):
            torch.testing.assert_close(batch[b], model(ids[b : b + 1]).logits[0])


def test_it_learns_the_words_that_are_masked() -> None:
    model, ids = encoder(layers=["mamba", "graph_attention"]).train(), text(4, 32, words=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        masked, labels = mask_tokens(ids, 53, seed=step, rate=0.3)
        loss = model(masked, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_masks_are_seeded_and_of_the_share_asked_for() -> None:
    ids = torch.randint(50, (16, 400))
    masked, labels = mask_tokens(ids, 50, seed=3)
    again, _ = mask_tokens(ids, 50, seed=3)
    assert torch.equal(masked, again)
    assert not torch.equal(masked, mask_tokens(ids, 50, seed=4)[0])
    chosen = labels != -100
    assert 0.13 < chosen.float().mean() < 0.17
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert 0.75 < (masked[chosen] == 50).float().mean() < 0.85
    assert 0.06 < ((masked != ids) & (masked != 50))[chosen].float().mean() < 0.14
    short = mask_tokens(ids[:, :2], 50, seed=0, rate=0.01)[1]
    assert ((short != -100).sum(1) >= 1).all()
    with pytest.raises(InputError, match="share"):
        mask_tokens(ids, 50, seed=0, rate=0.0)


def test_the_loss_is_that_of_the_labels_alone() -> None:
    model, ids = encoder(layers=["mamba"]), text(2, 20)
    masked, labels = mask_tokens(ids, 53, seed=0)
    with torch.no_grad():
        out = model(masked, labels=labels)
    assert out.logits.shape == (2, 20, 53)
    want = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, want)
    assert out.token_nll is not None
    assert torch.equal(out.token_nll != 0, labels != -100)


def test_it_neither_generates_nor_has_a_perplexity() -> None:
    model = encoder(layers=["mamba"])
    with pytest.raises(CausalityError, match="both sides"):
        model.generate(text(1, 4))
    with pytest.raises(CausalityError, match="both sides"):
        audit_causality(model)  # type: ignore[arg-type]
    with pytest.raises(CausalityError, match="scored"):
        score_windows(
            model, text(1, 90)[0].numpy(), seq_len=8, batch_size=2, recall_window=2  # type: ignore[arg-type]
        )  # fmt: skip


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="SOSMEncoder"):
        SOSM(MASKED)
    with pytest.raises(ConfigError, match="objective"):
        SOSMEncoder(SOSMConfig.preset("default"))
    with pytest.raises(ConfigError, match=r"graph\.causal = false"):
        MASKED.override({"graph.causal": True})
    with pytest.raises(ConfigError, match=r"pointer\.enabled"):
        MASKED.override({"pointer.enabled": True})
    model = encoder(layers=["mamba"])
    with pytest.raises(InputError, match="ids 0 to 53"):
        model(torch.tensor([[54]]))
    with pytest.raises(InputError, match="below 53"):
        model(text(1, 3), labels=torch.full((1, 3), 53))
    with pytest.raises(InputError, match="labels must be int64"):
        model(text(1, 3), labels=text(1, 2))


def test_it_is_saved_and_loaded_as_what_it_is(tmp_path: Path) -> None:
    model, ids = encoder(layers=["mamba"]), text(1, 9)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(
            SOSMEncoder.from_pretrained(tmp_path)(ids).logits, model(ids).logits, rtol=0, atol=0
        )
    with pytest.raises(CheckpointError, match="encoder"):
        SOSM.from_pretrained(tmp_path)
