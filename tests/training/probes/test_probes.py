"""What holds for every probe, and labels checked by slow readers that share no code with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from state_core.errors import ConfigError, InputError
from state_core.training.probes import MQAR, PROBES, Induction, ListOps, Needle, Probe, Senses
from state_core.training.probes.batch import generator
from state_core.training.probes.listops import NAMES, PAD

IGNORED = -100
CORPUS = np.random.default_rng(5).integers(0, 40, 500)
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mqar": ("mqar", {"length": 48, "pairs": 6, "vocab_size": 32}),
    "mqar, full": ("mqar", {"length": 32, "pairs": 8, "vocab_size": 16, "power": 1.0}),
    "induction": ("induction", {"length": 60, "prefixes": 4, "repeats": 3, "vocab_size": 20}),
    "induction, special": (
        "induction",
        {"length": 40, "prefixes": 1, "repeats": 1, "vocab_size": 5, "special": True},
    ),
    "induction, full": ("induction", {"length": 24, "prefixes": 3, "repeats": 3, "vocab_size": 9}),
    "listops": ("listops", {"length": 60}),
    "listops, tight": ("listops", {"length": 9, "nesting": 1.0}),
    "listops, deep": ("listops", {"length": 90, "depth": 20, "arguments": 3, "nesting": 0.6}),
    "needle": ("needle", {"length": 50, "distance": 30, "vocab_size": 12}),
    "needle, nearest": ("needle", {"length": 9, "distance": 3, "vocab_size": 3}),
    "needle, farthest": (
        "needle",
        {"length": 64, "distance": 62, "key_tokens": 1, "corpus": CORPUS, "vocab_size": 40},
    ),
    "senses": ("senses", {"length": 40, "distance": 20, "pseudowords": 6, "vocab_size": 60}),
    "senses, tight": (
        "senses",
        {
            "length": 16,
            "distance": 8,
            "pseudowords": 4,
            "cues": 1,
            "vocab_size": 44,
            "corpus": CORPUS,
        },
    ),
}


def build(task: str) -> tuple[str, Probe]:
    name, parameters = TASKS[task]
    return name, PROBES[name](**parameters)


every_task = pytest.mark.parametrize("task", TASKS)


@every_task
def test_a_batch_is_what_the_model_reads(task: str) -> None:
    _, probe = build(task)
    batch = probe.batch(7, seed=3)
    for part in (batch.ids, batch.labels, batch.distance):
        assert part.dtype == torch.int64
        assert part.shape == (7, probe.length)
    assert 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < probe.vocab_size
    asked = batch.labels != IGNORED
    assert asked.any(dim=1).all()
    assert torch.equal(batch.labels[asked], batch.ids[asked])
    assert torch.equal(asked, batch.distance > 0)
    reach = torch.arange(probe.length) - batch.distance
    assert (reach[asked] >= 0).all()


@every_task
def test_the_seed_fixes_the_texts(task: str) -> None:
    _, probe = build(task)
    _, twin = build(task)
    first = probe.batch(5, seed=1)
    probe.batch(3, seed=9)
    np.random.seed(4)
    again, other = twin.batch(5, seed=1), twin.batch(5, seed=2)
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.ids, other.ids)


def test_tasks_do_not_share_random_numbers() -> None:
    """Two tasks of one seed would otherwise be correlated."""
    drawn = {generator(task, 1, 0).random() for task in (*PROBES, "senses table")}
    assert len(drawn) == len(PROBES) + 1


Reader = Callable[[Probe, list[int], int], tuple[int, int]]


@every_task
def test_labels_follow_from_what_stands_before_them(task: str) -> None:
    """A reader sees the tokens before an asked one, and says it and where it has that from."""
    name, probe = build(task)
    batch = probe.batch(25, seed=11)
    read = READERS[name]
    for ids, labels, distance in zip(*(t.tolist() for t in vars(batch).values()), strict=True):
        for t in range(probe.length):
            if labels[t] != IGNORED:
                assert read(probe, ids[:t], t) == (labels[t], distance[t])


def read_mqar(probe: Probe, past: list[int], t: int) -> tuple[int, int]:
    assert isinstance(probe, MQAR)
    (found,) = (i for i in range(t - 1) if past[i] == past[-1])
    assert found < 2 * probe.pairs
    return past[found + 1], t - 1 - found


def read_induction(probe: Probe, past: list[int], t: int) -> tuple[int, int]:
    followed = [i for i in range(t - 1) if past[i] == past[-1]]
    assert len({past[i + 1] for i in followed}) == 1
    return past[followed[-1] + 1], t - 1 - followed[-1]


def read_needle(probe: Probe, past: list[int], t: int) -> tuple[int, int]:
    assert isinstance(probe, Needle)
    key = past[t - probe.key_tokens :]
    (found,) = (i for i in range(t - 1) if past[i] == key[-1])
    assert past[found + 1 - len(key) : found + 1] == key
    return past[found + 1], t - 1 - found


def read_senses(probe: Probe, past: list[int], t: int) -> tuple[int, int]:
    """The one cue of either word that the text holds."""
    assert isinstance(probe, Senses)
    words = probe.table[past[-1] - probe.words].tolist()
    ((where, meant),) = (
        (i, word) for word, *cues in words for i, token in enumerate(past) if token in cues
    )
    return meant, t - where


def read_listops(probe: Probe, past: list[int], t: int) -> tuple[int, int]:
    """Written as a Python expression and evaluated by Python."""
    start = past.count(PAD)
    assert PAD not in past[start:]
    calls = {"[MAX": "max_([", "[MIN": "min_([", "[MED": "med_([", "[SM": "sm_([", "]": "]),"}
    *code, equals = (calls.get(NAMES[i], NAMES[i] + ",") for i in past[start:])
    assert equals == "=,"
    operations = {
        "max_": max,
        "min_": min,
        "med_": lambda v: int(np.median(v)),
        "sm_": lambda v: sum(v) % 10,
    }
    (value,) = eval("".join(code), operations)
    return value, t - start


READERS: dict[str, Reader] = {
    "mqar": read_mqar,
    "induction": read_induction,
    "listops": read_listops,
    "needle": read_needle,
    "senses": read_senses,
}


def test_every_probe_has_a_reader() -> None:
    assert set(READERS) == set(PROBES) == {name for name, _ in TASKS.values()}


def test_each_question_is_asked() -> None:
    def questions(probe: Probe) -> list[int]:
        return sorted({int(row.sum()) for row in probe.batch(20, 0).labels != IGNORED})

    assert questions(MQAR(length=64, pairs=9, vocab_size=32)) == [9]
    assert questions(Induction(length=90, prefixes=5, repeats=4)) == [20]
    assert questions(Needle()) == questions(ListOps()) == [1]
    assert questions(Senses(questions=3)) == [3]


def test_gaps_follow_a_power_law() -> None:
    """The first slot is the likelier, the smaller the power; with 1, all are alike."""

    def mean_slot(power: float) -> float:
        probe = MQAR(length=256, pairs=4, vocab_size=32, power=power)
        asked = (probe.batch(400, 0).labels != IGNORED).nonzero()[:, 1]
        return float((asked - 2 * probe.pairs).float().mean() / 2)

    slots = 128 - 4
    assert mean_slot(1.0) == pytest.approx(slots / 2, rel=0.05)
    expected = slots / sum(1 / s for s in range(1, slots + 1))
    assert expected < mean_slot(0.001) < 1.6 * expected  # without replacement: somewhat later


def test_a_fact_stands_at_the_stated_distance() -> None:
    for distance in (3, 500, 32765):
        batch = Needle(length=32768, distance=distance, vocab_size=512).batch(2, seed=0)
        assert batch.distance[:, -1].tolist() == [distance] * 2
        source = batch.ids[:, 32767 - distance]
        assert torch.equal(source, batch.labels[:, -1])


def test_the_haystack_is_the_corpus() -> None:
    corpus = np.arange(1000) % 97
    ids = Needle(length=200, distance=100, vocab_size=100, corpus=corpus).batch(3, 0).ids
    steps = (ids[:, 1:] - ids[:, :-1]) % 97
    assert (steps == 1).float().mean() > 0.9


def test_senses_are_balanced_and_keep_their_words() -> None:
    probe = Senses(length=40, distance=20)
    batch = probe.batch(300, seed=0)
    words = batch.ids[batch.labels != IGNORED].numpy()
    share = np.isin(words, probe.table[:, 0, 0]).mean()
    assert share == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(probe.table, Senses(length=60, distance=20).table)
    assert len(np.unique(probe.table)) == probe.table.size


def test_listops_nest_and_fill_their_length() -> None:
    batch = ListOps(length=128, nesting=0.6).batch(200, seed=0)
    size = batch.distance[:, -1]
    assert int(size.min()) >= 5
    assert int(size.max()) > 100
    values = torch.bincount(batch.ids[:, -1], minlength=10)
    assert (values > 0).all()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("mqar", {"length": 511}, "even"),
        ("mqar", {"length": 64, "pairs": 17}, "need a length of 68"),
        ("mqar", {"pairs": 0}, "at least 1"),
        ("mqar", {"vocab_size": 100}, "half of vocab_size are keys"),
        ("mqar", {"power": 0}, "power"),
        ("induction", {"prefixes": 63}, "two ids must remain"),
        ("induction", {"length": 159}, "need a length of 160"),
        ("induction", {"repeats": 0}, "repeats"),
        ("induction", {"prefixes": 0}, "prefixes"),
        ("listops", {"length": 8}, "need a length of 9"),
        ("listops", {"depth": 0}, "depth"),
        ("listops", {"arguments": 1}, "arguments"),
        ("listops", {"nesting": 1.5}, "probability"),
        ("needle", {"distance": 2}, "3 to 1021"),
        ("needle", {"distance": 1022}, "3 to 1021"),
        ("needle", {"key_tokens": 0}, "key_tokens"),
        ("needle", {"vocab_size": 2}, "vocab_size"),
        ("needle", {"corpus": CORPUS}, "500 tokens, a text needs 1024"),
        ("needle", {"corpus": CORPUS.astype(float)}, "integer ids"),
        ("needle", {"corpus": CORPUS, "length": 99, "distance": 9, "vocab_size": 9}, "outside 0"),
        ("senses", {"distance": 7}, "8 to 120"),
        ("senses", {"distance": 121}, "8 to 120"),
        ("senses", {"questions": 17}, "1 to 16"),
        ("senses", {"vocab_size": 112}, "vocab_size above 112"),
        ("senses", {"cues": 0}, "cues"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"probe {name}: .*{message}"):
        PROBES[name](**parameters)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (1, -1)])
@pytest.mark.parametrize("name", PROBES)
def test_bad_batches_are_refused(name: str, n: int, seed: int) -> None:
    with pytest.raises(InputError, match="n ≥ 1 texts and a seed ≥ 0"):
        PROBES[name]().batch(n, seed)
