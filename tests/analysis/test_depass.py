"""Components say what a change of the model would do, and what cannot be split is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from state_core import SOSM, SOSMConfig
from state_core.analysis import depass, intervene, patch, run_with_cache, zero
from state_core.analysis.attribution import attribute
from state_core.analysis.depass import decompose
from state_core.analysis.frozen import Frozen, Seen, freeze
from state_core.errors import InputError
from state_core.layers import registry
from tests.invariants.variants import SMALL, VARIANTS, build, text


def one_attention(**more: Any) -> SOSM:
    """A model in which nothing but values moves: what a token gives can be taken away exactly."""
    config = SOSMConfig.preset("default").override(
        {**SMALL, "layers": ["graph_attention"], "mlp_hidden": 0, "pointer.enabled": False, **more}
    )
    return SOSM(config).eval()


@pytest.mark.parametrize("more", [{}, {"layers": ["attention"]}])
def test_a_token_gives_what_is_lost_without_its_values(more: dict[str, Any]) -> None:
    model, ids = one_attention(**more), text(1, 30)
    parts = decompose(model, ids, "token", position=25)
    for j in (0, 3, 24):
        with torch.no_grad():
            _, whole = run_with_cache(model, ids, "blocks.0.output")
            with intervene(model, zero("blocks.0.attn.v", tokens=[j])):
                _, less = run_with_cache(model, ids, "blocks.0.output")
        lost = (whole["blocks.0.output"] - less["blocks.0.output"])[0, 25]
        scale = parts.hidden / whole["blocks.0.output"][0, 25]
        torch.testing.assert_close(parts.find(f"token {j}"), lost * scale, rtol=1e-4, atol=1e-6)


def test_kinds_of_edges_give_what_is_lost_without_their_shares() -> None:
    model, ids = one_attention(), text(1, 30)
    parts = decompose(model, ids, "edge_kind", position=25)
    with torch.no_grad():
        out, cache = run_with_cache(model, ids, "blocks.0.attn.pattern", return_graph=True)
        pattern = cache["blocks.0.attn.pattern"].clone()
        semantic = (out.graph.kinds == 1) & (out.graph.neighbors >= 0)
        with intervene(model, patch("blocks.0.attn.pattern", pattern * ~semantic[:, None])):
            _, less = run_with_cache(model, ids, "blocks.0.output")
        _, whole = run_with_cache(model, ids, "blocks.0.output")
    lost = (whole["blocks.0.output"] - less["blocks.0.output"])[0, 25]
    scale = parts.hidden / whole["blocks.0.output"][0, 25]
    torch.testing.assert_close(parts.find("semantic"), lost * scale, rtol=1e-4, atol=1e-6)
    assert set(parts.names) == {"no edge", "sequential", "semantic", "sink"}


@pytest.mark.parametrize("name", ["as recommended", "phase6", "token choice"])
def test_layers_and_heads_agree_with_attribution(name: str) -> None:
    """What a layer writes goes to the head as it is: `attribute` says the same on its own way."""
    model, ids = build(name), text(1, 30)
    by_head = decompose(model, ids, "head", 20)
    by_layer = decompose(model, ids, "layer", 20)
    tree = attribute(model, ids, 20, token=7).find("vocabulary")

    @torch.no_grad()
    def share(part: Tensor) -> float:
        logits, whole = (
            by_layer.vocabulary_logits(part),
            by_layer.vocabulary_logits(by_layer.hidden),
        )
        return float((logits[7] - logits.mean()) / (whole[7] - whole.mean())) * tree.share

    size = sum(abs(part.share) for part in tree.parts)
    for i, mixer in enumerate(model.config.layers):
        where = f"blocks.{i}.{'attn' if 'attention' in mixer else mixer}"
        bias = share(by_layer.find("bias")) if mixer == "mamba" else 0.0
        whole = share(by_layer.find(where)) + bias
        assert whole == pytest.approx(tree.find(f"vocabulary/{where}").share, abs=1e-5 * size)
        fed = share(by_layer.find(f"blocks.{i}.mlp"))
        assert fed == pytest.approx(tree.find(f"vocabulary/blocks.{i}.mlp").share, abs=1e-5 * size)
    top = f"blocks.{len(model.blocks) - 1}.attn/head 0"
    in_tree = tree.find(f"vocabulary/{top}").share
    # Heads are followed through the feed-forward above them, layers are not.
    assert share(decompose(model, ids, "head", 20).find(top)) != pytest.approx(in_tree, abs=1e-7)
    assert by_head.error < 1e-6


def test_what_says_nothing_gives_nothing() -> None:
    model, ids = build("as recommended"), text(1, 30)
    at = model.mu.layout.index("K")
    with torch.no_grad():
        model.read_state.weight[:, 4 * at : 4 * at + 4] = 0
    parts = decompose(model, ids, "block", 20)
    assert not parts.find("state.K").any()
    assert parts.find("state.S").any()
    with torch.no_grad():
        model.blocks[1].mixer.out.weight.zero_()
    kinds = decompose(model, ids, "edge_kind", 20)
    assert not kinds.find("semantic").any()
    assert kinds.find("no edge").any()


def test_nothing_comes_from_later_tokens() -> None:
    parts = decompose(build("phase6"), text(1, 20))
    assert parts.components.shape == (21, 20, 32)
    for t in range(20):
        assert not parts.find(f"token {t}")[:t].any()
        assert parts.find(f"token {t}")[t].any()


def test_one_position_is_that_of_all_and_a_text_of_its_batch() -> None:
    model, ids = build("as recommended"), text(3, 30)
    everywhere = decompose(model, ids, "block", text=2)
    here = decompose(model, ids, "block", 17, text=2)
    assert here.names == everywhere.names
    expected = everywhere.components[:, 17]
    torch.testing.assert_close(here.components, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(here.logits(5), everywhere.logits(5)[:, 17], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["memory", "phase6"])
def test_items_of_memory_are_components(name: str) -> None:
    model, ids = build(name), text(1, 40)
    memory = model.new_memory()
    with torch.no_grad():
        memory.append(ids, model(ids, memory=memory).keepsake)
    ids = text(1, 20, seed=2)
    items = decompose(model, ids, "memory", 15, memory=memory)
    together = decompose(model, ids, "token", 15, memory=memory)
    assert items.error < 1e-6
    assert together.error < 1e-6
    remembered = [n for n, name in enumerate(items.names) if name.startswith("memory of")]
    assert len(remembered) > 3
    torch.testing.assert_close(
        items.components[remembered].sum(0), together.find("memory"), rtol=1e-4, atol=1e-6
    )
    assert float(together.find("memory").norm()) > 1e-3


def test_a_layer_alone_is_followed_to_the_end() -> None:
    model, ids = build("mixer graph_attention"), text(1, 30)
    first, last = (decompose(model, ids, "head", 20, layer=n) for n in (0, 1))
    assert set(first.names) == {"no head", "blocks.0.attn/head 0", "blocks.0.attn/head 1"}
    assert max(first.error, last.error) < 1e-6
    whole = decompose(model, ids, "layer", 20, layer=0)
    both = first.find("blocks.0.attn/head 0") + first.find("blocks.0.attn/head 1")
    follows = whole.find("blocks.0.attn") + whole.find("blocks.0.mlp")
    assert not torch.allclose(both, follows)  # the feed-forward of that layer reads its heads
    assert whole.error < 1e-6


def test_components_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else (result,):
                if isinstance(value, Tensor):
                    self.numbers = max(self.numbers, value.numel())
            return result

    model, ids = build("as recommended"), text(1, 96)
    at_once = decompose(model, ids, position=95)
    with Largest() as free:
        decompose(model, ids, position=95)
    monkeypatch.setattr(depass, "WORKING_NUMBERS", 1 << 16)
    told: list[tuple[int, int]] = []
    with Largest() as bounded:
        few = decompose(model, ids, position=95, progress=lambda *done: told.append(done))
    torch.testing.assert_close(few.components, at_once.components, rtol=1e-4, atol=1e-6)
    assert bounded.numbers <= 1 << 16 < free.numbers
    assert len(told) > 4
    assert told[-1] == (97, 97)


def copies(batch: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Texts whose last token asks for their one word above 9: ids [B,T], and where it is [B]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, (batch, length), generator=generator)
    at = torch.randint(1, length - 1, (batch,), generator=generator)
    ids[torch.arange(batch), at] = torch.randint(10, 20, (batch,), generator=generator)
    ids[:, -1] = 20
    return ids, at


def test_the_copied_word_is_named() -> None:
    """A model that learnt to copy a word owes its logit to the token that it copies."""
    model = one_attention(vocab_size=21, mlp_hidden=48, **{"graph.window": 16})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(150):
        ids, at = copies(32, 12, seed=step)
        word = ids.gather(1, at[:, None])[:, 0]
        loss = nn.functional.cross_entropy(model(ids).last_logits, word)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids, at = copies(20, 12, seed=999)
    word = ids.gather(1, at[:, None])[:, 0]
    with torch.no_grad():
        right = model(ids).last_logits.argmax(-1) == word
    assert right.float().mean() > 0.9, "the model did not learn to copy"
    named = [
        int(decompose(model, ids, position=11, text=n).logits(int(word[n])).argmax()) == int(at[n])
        for n in range(20)
    ]
    assert sum(named) >= 18


def test_a_table_names_what_says_most() -> None:
    parts = decompose(build("as recommended"), text(1, 20), position=15)
    table = parts.table(6, [f"w{n}" for n in range(20)], count=3)
    assert table.row_count == 3
    best = parts.names[int(parts.logits(6).abs().argmax())]
    assert str(next(iter(table.columns[0].cells))).startswith(best)
    with pytest.raises(InputError, match="position="):
        decompose(build("as recommended"), text(1, 9)).table(6)


def test_a_mixer_without_a_frozen_form_is_told_and_one_can_be_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Doubling(nn.Module):
        def __init__(self, config: SOSMConfig, index: int) -> None:
            super().__init__()

        def forward(self, x: Tensor, view: Any, state: Any) -> tuple[Tensor, None]:
            return 2 * x, None

    monkeypatch.setattr(registry, "_MIXERS", dict(registry._MIXERS))
    registry.register_mixer("doubling", Doubling, needs_graph=False)
    config = VARIANTS["as recommended"].override({"layers": ["doubling", "graph_attention"]})
    model = SOSM(config).eval()
    with pytest.raises(InputError, match=r"Doubling has no frozen form.*freeze\.register"):
        decompose(model, text(1, 9), position=5)

    class Twice(Frozen):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * x

    @freeze.register(Doubling)
    def _(module: Doubling, given: Tensor, seen: Seen) -> Frozen:
        return Twice()

    assert decompose(model, text(1, 9), position=5).error < 1e-6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": "tokens"}, "'token'"),
        ({"position": 99}, "position 99"),
        ({"text": 3}, "text 3"),
        ({"by": "head", "layer": 7}, "layer 7"),
        ({"by": "token", "layer": 1}, "leave it out"),
        ({"by": "memory"}, "memory=…"),
        ({"by": "expert"}, "'expert'"),
        ({"by": "edge_kind", "layer": 0}, "'edge_kind'"),
    ],
)
def test_what_is_not_there_is_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        decompose(build("as recommended"), text(1, 20), **options)


def test_other_mistakes() -> None:
    model = build("as recommended")
    parts = decompose(model, text(1, 20), "block", 3)
    with pytest.raises(InputError, match=r"state\.R2"):
        parts.find("state.R3")
    with pytest.raises(InputError, match="token 99"):
        parts.logits(99)
    with pytest.raises(InputError, match=r"model\.eval"):
        decompose(model.train(), text(1, 20))
    with pytest.raises(InputError, match=r"graph\.enabled"):
        decompose(build("mixer mamba, no graph"), text(1, 20), "block")
