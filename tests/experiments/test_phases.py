"""Every claim of phases 3, 4 and 6 at the smallest size: what it measures is what its row asks for,
and finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import measures, phase3, phase4, phase6, pseudowords, routing, small_tasks
from experiments.ledger import Claim, NotMeasurableError, Setting, load_claims
from experiments.measures import Thunk
from state_core import config
from state_core.config import SOSMConfig
from state_core.layers.moe import Routing
from state_core.training.baselines import count_parameters
from tests.texts import sentences

SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "d_model": 32,
    "embed_rank": 16,
    "mlp_hidden": 64,
    "attention": {"n_heads": 4},
    "pointer": {"dim": 8},
    "mamba": {"d_state": 8, "headdim": 16, "chunk_size": 16},
    "memory": {"capacity": 64},
}
ROWS = [c for c in load_claims().values() if c.phase in (3, 4, 6) and c.needs is None]


def once(setting: Setting, prepare: Callable[..., Thunk], *args: Any, warm: list[Any]) -> int:
    """In place of a process for each peak of a training step: the step, in this one."""
    prepare(*args)()
    return 1


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Presets of the smallest size, over a small text, so that rows share what is trained."""
    folder = tmp_path_factory.mktemp("phases")
    source = folder / "texts"
    source.mkdir()
    for seed in range(3):
        (source / f"{seed}.txt").write_text(sentences(150, seed), encoding="utf-8")
    train = {"seq_len": 32, "eval_batches": 1}
    lengths = {"standard": (16, 32)}
    small = {**SMALL, "train": train, "data": {"source": str(source)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_CORE_CACHE", str(folder / "cache"))
        for name, values in config.PRESETS.items():
            patch.setitem(config.PRESETS, name, config._merge(values, small))
        patch.setattr(measures, "peak_bytes", once)
        patch.setattr(pseudowords, "PAIRS", 2)
        patch.setattr(pseudowords, "EACH", 4)
        patch.setattr(phase3, "PROMPTS", 2)
        patch.setattr(phase4, "LARGE", {})
        patch.setattr(phase4, "ITEMS", {"standard": (200, 400)})
        patch.setattr(phase4, "QUERIES", 20)
        patch.setattr(phase4, "WRITTEN", 4)
        patch.setattr(phase3, "LENGTHS", lengths)
        patch.setattr(phase6, "LENGTHS", lengths)
        patch.setattr(phase6, "GROWTH", lengths)
        patch.setattr(phase6, "NODES", 500)
        patch.setattr(phase6, "ALL_PAIRS", 200)
        patch.setattr(phase6, "SCIPY_PAIRS", 200)
        patch.setattr(phase6, "LONG_DOCUMENTS", str(source))
        patch.setattr(phase6, "TRAINED", 16)
        patch.setattr(phase6, "FACTOR_RANK", {"small": 8, "large": 8})
        patch.setattr(small_tasks, "STEPS", 1)
        patch.setattr(routing, "ENCODER", {**routing.ENCODER, "train.seq_len": 16})
        patch.setattr(Setting, "seconds", 0.0)
        yield Setting("tiny", (0,), 2, 128, folder / "runs", torch.get_num_threads())


@pytest.mark.slow
@pytest.mark.parametrize("claim", ROWS, ids=lambda claim: claim.id)
def test_a_row_measures_what_it_asks_for(claim: Claim, setting: Setting) -> None:
    claim.check(claim.function()(setting))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_needs_a_gpu_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotMeasurableError, match="CUDA"):
        phase6.block_sparse_memory(Setting.of("quick", tmp_path, 1))


@pytest.mark.gpu
def test_block_sparse_memory(tmp_path: Path) -> None:
    claim = load_claims()["sosm-6.2t"]
    claim.check(phase6.block_sparse_memory(Setting("quick", (0,), 2, 64, tmp_path, 1)))


@pytest.mark.parametrize("phase", [phase3, phase4, phase6], ids=lambda phase: phase.__name__)
def test_arms_are_of_one_size_and_read_the_same(phase: Any) -> None:
    arms: dict[str, SOSMConfig] = phase.arms()
    size = count_parameters(arms["baseline"])
    for name, arm in arms.items():
        assert arm.data == arms["baseline"].data
        assert arm.train.consecutive == arms["baseline"].train.consecutive
        if "embedding" not in name:
            assert abs(count_parameters(arm) - size) <= 0.02 * size, name


def test_a_text_is_trained_on_only_if_the_loss_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.5, 2.0, 3.0, math.nan, math.nan])
    monkeypatch.setattr(phase3, "Step", lambda *_: lambda: next(losses))
    assert phase3.longest_trained(SOSMConfig.preset("phase3"), (16, 32, 64)) == 16


def test_explicit_attention_is_attention() -> None:
    q, k, v = torch.randn(3, 1, 2, 65, 8).unbind()
    torch.testing.assert_close(phase3.explicit(q, k, v), phase3.fused(q, k, v))


def test_shared_prompts_share_their_passage_only() -> None:
    settings = SOSMConfig.preset("phase3")
    same, other = (torch.stack(phase3.prompts(settings, 40, shared)) for shared in (True, False))
    assert (same[:, :40] == same[0, :40]).all()
    assert len(same[:, 40:].unique(dim=0)) == len(other[:, :40].unique(dim=0)) == len(same)


def test_writing_anew_is_what_the_cache_writes() -> None:
    small = {"d_model": 32, "mlp_hidden": 64, "attention.n_heads": 4, "vocab_size": 64}
    model = phase4.SOSM(SOSMConfig.preset("phase4").override(small)).eval()
    prompt = torch.randint(0, 64, (1, 30))
    anew = phase4.write_anew(model, prompt, 6)
    assert torch.equal(anew, model.generate(prompt, 6, temperature=0))


def test_entropy_of_attention_that_is_even_and_of_one_that_is_sharp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"d_model": 32, "mlp_hidden": 64, "attention.n_heads": 2, "vocab_size": 64}
    model = phase6.SOSM(SOSMConfig.preset("default").override(small)).eval()
    ids = torch.randint(0, 64, (2, 64))
    monkeypatch.setattr(phase6, "held_out", lambda *_: ids)
    attention = model.blocks[2].mixer
    torch.nn.init.zeros_(attention.qkv.weight)
    torch.nn.init.zeros_(attention.similarity_scale)
    counts = model(ids, return_graph=True).graph.counts
    even = counts[counts >= phase6.ROW].double().log().mean()
    assert phase6.entropy(model) == pytest.approx(float(even), rel=1e-5)
    torch.nn.init.constant_(attention.similarity_scale, 50.0)
    assert phase6.entropy(model) < 0.8 * float(even)


def test_information_is_what_experts_tell_of_classes() -> None:
    classes = torch.arange(4).repeat(500)
    assert routing.mutual_information(classes, classes) == pytest.approx(2, abs=0.02)
    drawn = torch.randint(0, 4, (2000,))
    assert abs(routing.mutual_information(drawn, classes)) < 0.02


def test_variation_of_even_and_uneven_loads() -> None:
    even = torch.eye(4).repeat(1, 3, 1)
    uneven = torch.zeros(1, 8, 4)
    uneven[..., 0] = 1
    zero = torch.zeros(())
    assert routing.variation([Routing(even, zero)]) == 0
    assert routing.variation([Routing(uneven, zero)]) == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        (" king", "word"), ("ing", "continuation"), (" Rome", "capitalised"), (",", "punctuation"),
        ("\n", "space"), (" 3", "other"), ("'d", "other"),
    ],
)  # fmt: skip
def test_classes_of_pieces(piece: str, kind: str) -> None:
    assert routing.CLASSES[routing.token_class(piece)] == kind
