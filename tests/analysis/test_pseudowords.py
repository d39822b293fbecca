"""Pseudowords hide which word stood there from all but the context."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from state_core.analysis import pseudowords as module
from state_core.analysis.pseudowords import PseudowordTask
from state_core.errors import DataError, MissingExtraError
from state_core.training.tokenizer import Tokenizer
from tests.invariants.variants import build

CUES = {" harbour": " sea", " forest": " oak", " kitchen": " pan", " garden": " bud"}
EACH = 12


def make_text(seed: int, length: int = 4000) -> str:
    """Noise, in which each word is often preceded by its cue, three words before."""
    rng = np.random.default_rng(seed)
    words = []
    while len(words) < length:
        word = list(CUES)[rng.integers(4)]
        cue = CUES[word] if rng.random() < 0.9 else " odd"
        words += [cue, " of", " the", word, *rng.choice([" so", " it", " was"], 12)]
    return "".join(words)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([make_text(0)], 400)


@pytest.fixture(scope="module")
def task(tokenizer: Tokenizer) -> PseudowordTask:
    rows = [np.array(tokenizer.encode(make_text(seed))) for seed in (1, 2)]
    return PseudowordTask.of(tokenizer, *rows, pairs=2, each=EACH)


def test_the_two_words_of_a_pair_look_alike_and_are_balanced(
    task: PseudowordTask, tokenizer: Tokenizer
) -> None:
    at = task.windows[:, module.BEFORE]
    for p, names in enumerate(task.names):
        mine = task.pair == p
        assert len(at[mine].unique()) == 1
        hidden = tokenizer.encode(f" {names[1]}")[0]
        assert not (task.windows[mine] == hidden).any()
        for learnt in (True, False):
            meant = task.meant[mine & (task.learnt == learnt)]
            assert meant.bincount().tolist() == [EACH, EACH]


def test_a_merged_text_has_the_first_word_of_each_pair_only(
    task: PseudowordTask, tokenizer: Tokenizer
) -> None:
    ids = np.array(tokenizer.encode(make_text(3)))
    merged = task.merged(ids)
    second = np.isin(ids, task.words[:, 1])
    assert second.any()
    assert (merged[~second] == ids[~second]).all()
    assert not np.isin(merged, task.words[:, 1]).any()
    for first, other in task.words:
        assert (merged[ids == other] == first).all()


def test_context_tells_which_was_meant(task: PseudowordTask) -> None:
    """Bags of words and the words in common find the cue; labels give all, noise gives nothing."""
    assert task.accuracy(task.at_random()) > 0.7
    assert task.by_overlap() > 0.7
    known = task.meant[:, None] + 0.01 * torch.randn(len(task.meant), 3)
    assert task.accuracy(known) == 1
    noise = torch.randn(len(task.meant), 8, generator=torch.Generator().manual_seed(0))
    assert 0.25 < task.accuracy(noise) < 0.75


def test_a_model_is_read_at_the_pseudoword(task: PseudowordTask) -> None:
    """What comes later is not seen by a causal model, and what stands there is."""
    model = build("as recommended")
    windows = task.windows % model.config.vocab_size
    small = replace(task, windows=windows)
    later = windows.clone()
    later[:, module.BEFORE + 1 :] = 1
    changed = replace(task, windows=later)
    told: list[int] = []
    found = small.read(model, told.append)
    assert sum(told) == len(windows)
    for kind, vectors in changed.read(model).items():
        torch.testing.assert_close(found[kind], vectors)
    state = model(windows[:1], return_state=True).hidden[0, module.BEFORE]
    torch.testing.assert_close(found["hidden"][0], state)


def test_too_little_text_is_an_error(tokenizer: Tokenizer) -> None:
    row = np.array(tokenizer.encode(make_text(1)))
    with pytest.raises(DataError, match="need 20 words, and the text has 4"):
        PseudowordTask.of(tokenizer, row, row, pairs=10, each=EACH)


def test_without_scikit_learn_the_extra_is_named(
    task: PseudowordTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"state-core\[analysis\]"):
        task.accuracy(task.at_random())
