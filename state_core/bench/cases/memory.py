"""Long-range memory: what a store that loses nothing costs over a bare index.

Items are the semantic states of a text, of the model in the run named by $STATE_CORE_BENCH_RUN, or
of an untrained one. Its first N states are stored; the queries come after them. So few that nothing
but the benchmark is tested are states of random ids.

Shapes: N items, Q queries, d width, K neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from state_core import memory
from state_core.adapters.recency import recency
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Shape, Thunk, compare
from state_core.bench.cases.model import text_like_ids
from state_core.bench.timing import Spread, interleave, ratios
from state_core.config import SOSMConfig
from state_core.memory.protocol import Floats, Ints
from state_core.memory.tuning import recall_of
from state_core.pipeline import SOSM
from state_core.training.run import load_run, load_text

RUN_VARIABLE = "STATE_CORE_BENCH_RUN"
ITEMS_VARIABLE = "STATE_CORE_BENCH_ITEMS"  # 1000000 for the large one, which takes half an hour
ITEMS = int(os.environ.get(ITEMS_VARIABLE, 100_000))
REAL_FROM = 10_000  # items
CONTEXT = 4096  # tokens that are read at once
M, EF_CONSTRUCTION = 16, 200
RECALL, MARGIN = 0.95, 0.01
Search = Callable[[Floats, int], Ints]


@dataclass
class Library:
    """Items [N,d] and queries [Q,d] of length 1, the K nearest ids [Q,K], and our tuned store."""

    items: Floats
    queries: Floats
    k: int
    store: memory.Store
    exact: Ints
    searches: dict[str, Search] = field(default_factory=dict)
    """Built when first asked for: it takes longer than anything that is timed."""

    def search(self, name: str) -> Search:
        if name not in self.searches:
            self.searches[name] = BUILDERS[name](self)
        return self.searches[name]

    def recall(self, name: str) -> float:
        return recall_of(self.search(name)(self.queries, self.k), self.exact)


def _library(shape: Shape, device: torch.device) -> Library:
    return build_library(shape["N"], shape["Q"], shape["K"])


def build_library(count: int, queries: int, k: int) -> Library:
    """Our store, tuned on as many queries as it is then measured on, but others."""
    states = _states(count + 2 * queries)
    items, tuning, asked = np.split(states, [count, count + queries])
    options: dict[str, Any] = {"m": M, "ef_construction": EF_CONSTRUCTION, "exact_below": 0}
    store = memory.open("hnsw", dim=states.shape[1], space="cosine", **options)
    store.add(items, 0, np.arange(count))
    store.tune(tuning, k, RECALL + MARGIN)
    with memory.open("exact", dim=states.shape[1], space="cosine") as reference:
        reference.add(items, 0, np.arange(count))
        return Library(items, asked, k, store, reference.search(asked, k).ids)


def _states(count: int) -> Floats:
    """States [count,d] of a text, normalised."""
    model, ids = _model_and_ids(count)
    found = [_read(model, ids[None, start : start + CONTEXT]) for start in range(0, count, CONTEXT)]
    states: Floats = torch.nn.functional.normalize(torch.cat(found)).numpy()
    return states


def _model_and_ids(count: int) -> tuple[SOSM, Tensor]:
    torch.manual_seed(0)
    config = SOSMConfig.preset("default")
    if count < REAL_FROM:
        ids = text_like_ids(1, count, config.vocab_size, torch.device("cpu"))
        return SOSM(config).eval(), ids[0]
    run, tokenizer = os.environ.get(RUN_VARIABLE), None
    if run:
        model, tokenizer = load_run(run)
    else:
        model = SOSM(config).eval()
    text = torch.from_numpy(load_text(model.config, tokenizer).train)
    return model, text.repeat(-(-count // len(text)))[:count]


@torch.inference_mode()
def _read(model: SOSM, ids: Tensor) -> Tensor:
    """Semantic states [T,d] of ids [1,T]: the graph and the layers have no part in them."""
    positions = torch.arange(ids.shape[1])[None]
    codes, _ = model.embedding(ids)
    semantic, _ = model.mu(codes, recency(ids, positions), None)
    states: Tensor = semantic[0].flatten(1).clone()
    return states


# --- the peers, with the same parameters and threads ------------------------------------------


def _ours(library: Library) -> Search:
    return lambda queries, k: library.store.search(queries, k).ids


def _hnswlib(library: Library) -> Search:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=library.items.shape[1])
    index.init_index(len(library.items), M, EF_CONSTRUCTION)
    index.add_items(library.items)
    index.set_ef(_ef(library))
    return lambda queries, k: _labels(
        index.knn_query(queries, k, num_threads=torch.get_num_threads())[0]
    )


def _faiss(library: Library) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexHNSWFlat(library.items.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(library.items)
    index.hnsw.efSearch = _ef(library)
    return lambda queries, k: _labels(index.search(queries, k)[1])


def _usearch(library: Library) -> Search:
    from usearch.index import Index

    index = Index(
        ndim=library.items.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=M,
        expansion_add=EF_CONSTRUCTION,
        expansion_search=_ef(library),
    )
    index.add(np.arange(len(library.items)), library.items)
    threads = torch.get_num_threads()
    return lambda queries, k: _labels(index.search(queries, k, threads=threads).keys)


def _exact(library: Library) -> Search:
    store = memory.open("exact", dim=library.items.shape[1], space="cosine")
    store.add(library.items, 0, 0)
    return lambda queries, k: store.search(queries, k).ids


BUILDERS: dict[str, Callable[[Library], Search]] = {
    OURS: _ours,
    "hnswlib": _hnswlib,
    "faiss": _faiss,
    "usearch": _usearch,
    "exact": _exact,
}


def _ef(library: Library) -> int:
    return library.store.stats().ef


def _labels(found: Any) -> Ints:
    return np.asarray(found).astype(np.int64)


def _prepare(name: str, library: Library) -> Thunk:
    search = library.search(name)
    return lambda: search(library.queries, library.k)


# --- what is checked and told -----------------------------------------------------------------


def _check(device: torch.device) -> list[Comparison]:
    """Our hits are real ones with their true similarities, and no fewer are right than promised."""
    library = build_library(3000, 100, 10)
    hits = library.store.search(library.queries, 10)
    near = torch.from_numpy(library.items[hits.ids])
    true = torch.einsum("qd,qkd->qk", torch.from_numpy(library.queries), near)
    lacking = max(0.0, RECALL - recall_of(hits.ids, library.exact))
    return [
        Comparison(f"exact: recall@10 short of {RECALL}", lacking, 0.0),
        compare("similarities", (torch.from_numpy(hits.similarities),), (true,)),
    ]


def _figures(library: Library) -> dict[str, float]:
    """Recall of everybody at our ef, our queries per second, and our time over bare hnswlib's."""
    cpu = torch.device("cpu")
    built = [name for name in BUILDERS if name in library.searches]
    seconds = interleave({name: _prepare(name, library) for name in built}, cpu, budget=3.0)
    rate = {n: len(library.queries) / Spread.of(s).median for n, s in seconds.items()}
    figures = {"recall": library.recall(OURS), "ef": float(_ef(library))}
    figures |= {f"{name} recall": library.recall(name) for name in built if name != OURS}
    figures |= {f"{name} queries/s": value for name, value in rate.items()}
    if "hnswlib" in seconds:
        over = ratios(seconds["hnswlib"], seconds[OURS])
        figures["× bare hnswlib"] = Spread.of(over).median
    return figures


Case(
    name="memory",
    group="model",
    about="the 10 stored states nearest to each of 1000, by a graph search of recall 0.95",
    sizes=({"N": ITEMS, "Q": 1000, "K": 10},),
    quick=({"N": 1500, "Q": 50, "K": 10}, {"N": 3000, "Q": 50, "K": 10}),
    inputs=_library,
    contenders=(
        Contender(OURS, partial(_prepare, OURS), "hnswlib", ("cpu",)),
        *(
            Contender(name, partial(_prepare, name), package, ("cpu",))
            for name, package in [
                ("hnswlib", "hnswlib"),
                ("faiss", "faiss"),
                ("usearch", "usearch"),
                ("exact", None),
            ]
        ),
    ),
    check=_check,
    axis="N",
    figures=_figures,
    goals=(Goal("recall", least=RECALL), Goal("× bare hnswlib", most=1.2)),
)
