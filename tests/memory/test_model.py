"""Any sequence of changes, saves and reopenings against a plain dictionary."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_core import memory
from state_core.errors import InputError
from state_core.memory import Store

DIM = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.integers(0, 3)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 60), max_size=20, unique=True)),
        st.tuples(st.just("evict"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["compact", "save", "reopen"])),
    ),
    max_size=12,
)
Item = tuple[np.ndarray, int, int]


def vectors(count: int, seed: int, ties: bool) -> np.ndarray:
    """Small integers, whose products are exact and often equal, or numbers that never tie."""
    random = np.random.default_rng(seed)
    if ties:
        return random.integers(-2, 3, (count, DIM)).astype(np.float32)
    return random.standard_normal((count, DIM), np.float32)


def nearest(model: dict[int, Item], query: np.ndarray, k: int, document: int | None) -> list[int]:
    of = [i for i in model if document is None or model[i][1] == document]
    return sorted(of, key=lambda i: (-float(model[i][0].astype(float) @ query), -i))[:k]


def agree(store: Store, model: dict[int, Item], ties: bool) -> None:
    assert len(store) == len(model)
    found = store.locate(list(model))
    assert list(zip(*(f.tolist() for f in found))) == [(d, p) for _, d, p in model.values()]
    queries = vectors(4, 99, ties)
    for document in (None, 1):
        hits = store.search(queries, 5, documents=None if document is None else [document])
        for query, ids, scores in zip(queries, hits.ids.tolist(), hits.similarities):
            expected = nearest(model, query, 5, document)
            assert ids == expected + [-1] * (5 - len(expected))
            exact = [float(model[i][0] @ query) for i in expected]
            assert np.allclose(scores[: len(exact)], exact, atol=1e-5)


def apply(store: Store, model: dict[int, Item], step: tuple, ties: bool) -> None:
    operation, *arguments = step
    if operation == "add":
        count, document = arguments
        new = vectors(count, store.generation, ties)
        ids = store.add(new, document, np.arange(count))
        model.update({int(i): (v, document, n) for n, (i, v) in enumerate(zip(ids, new))})
    elif operation == "delete":
        (ids,) = arguments
        if set(ids) <= set(model):
            store.delete(ids)
            for i in ids:
                del model[i]
        else:
            with pytest.raises(InputError):
                store.delete(ids)
    elif operation == "evict":
        gone = sorted(model)[: max(0, len(model) - arguments[0])]
        assert store.evict(arguments[0], "age").tolist() == gone
        for i in gone:
            del model[i]
    else:
        getattr(store, operation)()


@settings(max_examples=20)
@given(steps=STEPS)
def test_a_memory_is_a_dictionary_that_searches(way, steps: list[tuple]):
    kind, options = way
    ties = kind == "exact" or not options  # an index may prefer any of some equals
    model: dict[int, Item] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = memory.open(kind, folder, DIM, **options)
        for step in steps:
            if step == ("reopen",):
                store.close()
                store = memory.open(kind, folder, **options)
            else:
                apply(store, model, step, ties)
        agree(store, model, ties)
        store.close()
