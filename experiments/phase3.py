"""Phase 3, scale: its arms, and what its claims promise, measured.

Arms are the baseline, a transformer of six layers, phase 2 with one change each, and the phase as a
whole; all have the baseline's parameters (±2 %) but the two that tell what factorised embeddings
cost, of which having fewer is the point.

    python -m experiments.phase3 --steps 150 --seeds 3 --jobs 2

B texts, T tokens, H heads, D head width, E edges of a token.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import recipe
from experiments.ledger import Measured, Setting
from experiments.measures import (
    CPU,
    Runs,
    Step,
    Thunk,
    memory_ratio,
    of_size,
    peak_bytes,
    perplexity_ratio,
    speedup,
    texts,
    time_ratio,
    trained,
)
from experiments.pseudowords import percent, points_gained, tell_senses
from state_core import ops
from state_core.bench.inputs import normal, spread_rows, with_gradients
from state_core.config import SOSMConfig
from state_core.graph.graph_cache import GraphCache
from state_core.layers.embedding import FactorisedEmbedding
from state_core.pipeline import SOSM

# What the seed counts: GPT-2's vocabulary, and the widths of its model and of its factors.
VOCABULARY, WIDTH, RANK = 50_257, 768, 128
FACTOR = 6  # how many times fewer parameters the embedding shall have
HEADS, HEAD_WIDTH, EDGES = 8, 64, 32
SHORT = 512
LENGTHS = {"quick": (512, 2048, 8192), "standard": (512, 2048, 8192, 32768)}
STEPS_AT_A_LENGTH = 3
PROMPTS, QUESTION, ANSWER = 6, 32, 16  # prompts, and tokens of a question and of its answer
QKV = ("q", "k", "v")


def arms() -> dict[str, SOSMConfig]:
    """What is trained: the baseline, one change at a time, and the phase."""
    baseline = SOSMConfig.preset("baseline")
    phase2 = of_size(SOSMConfig.preset("phase2"), baseline)
    phase3 = of_size(SOSMConfig.preset("phase3"), baseline)
    shortcuts = phase2.override({"graph.shortcuts": "betweenness"})
    gate = of_size(phase2.override({"graph.temporal_gate": True}), baseline)
    width = phase3.d_model
    return {
        "baseline": baseline,
        "phase2": phase2,
        "phase2 with TEMPORAL gate": gate,
        "phase2 with shortcuts": shortcuts,
        "phase2 with random shortcuts": phase2.override({"graph.shortcuts": "random"}),
        "phase3": phase3,
        "phase3, whole embedding": phase3.override({"embed_rank": width}),
        f"phase3, embedding of rank {width // FACTOR}": phase3.override(
            {"embed_rank": width // FACTOR}
        ),
    }


def runs(setting: Setting, *names: str) -> Runs:
    """The arms of those names, trained."""
    every = arms()
    return trained(setting, {name: every[name] for name in names})


# --- the phase as a whole --------------------------------------------------------------------

_PAIR = ("phase3", "baseline")


def total_speed(setting: Setting) -> Measured:
    """A training step at equal parameters."""
    found = [Step(arms()[name], texts(arms()[name], setting.tokens)) for name in _PAIR]
    return {"training speed / baseline": speedup(setting, *found)}


def total_memory(setting: Setting) -> Measured:
    ours, peer = (arms()[name] for name in _PAIR)
    return {"peak memory of a step / baseline": memory_ratio(setting, ours, peer)}


def total_perplexity(setting: Setting) -> Measured:
    return {"perplexity / baseline": perplexity_ratio(runs(setting, *_PAIR), *_PAIR)}


def longest_trained(config: SOSMConfig, lengths: tuple[int, ...]) -> int:
    """The last of ascending lengths at which the loss falls over a few steps on one text; 0 if it
    does at none."""
    longest = 0
    for length in lengths:
        step = Step(config, texts(config, length, length))
        losses = [step() for _ in range(STEPS_AT_A_LENGTH)]
        if not losses[-1] < losses[0]:
            break
        longest = length
    return longest


def total_length(setting: Setting) -> Measured:
    """Not how long a text could be, but which lengths were trained on here."""
    lengths = LENGTHS.get(setting.budget, LENGTHS["standard"])
    config = arms()["phase3"].override({"train.warmup": 1})
    return {"longest T trained": [float(longest_trained(config, lengths))]}


# --- 3.1 TEMPORAL gate -----------------------------------------------------------------------


def temporal_gate(setting: Setting) -> Measured:
    """Senses of pseudowords told by a linear probe on hidden states, in percentage points."""
    pair = ("senses, phase2 with TEMPORAL gate", "senses, phase2")
    chosen = {name: arms()[name.removeprefix("senses, ")] for name in pair}
    gated, plain = trained(setting, chosen, work=tell_senses).values()
    return {
        "accuracy gained": points_gained(gated, plain),
        "accuracy with the gate": percent(gated, "accuracy"),
        "the same before training": percent(gated, "untrained"),
        "accuracy without the gate": percent(plain, "accuracy"),
        "without it, before training": percent(plain, "untrained"),
    }


# --- 3.2 deterministic shortcuts -------------------------------------------------------------


@torch.no_grad()
def edges(config: SOSMConfig, ids: Tensor) -> set[tuple[int, ...]]:
    """The edges of texts [B,T] and their kinds, in a new model of the seed."""
    torch.manual_seed(config.train.seed)
    graph = SOSM(config).eval()(ids, return_graph=True).graph
    assert graph is not None
    return set(map(tuple, torch.vstack([graph.edge_index, graph.kind]).T.tolist()))


def shortcuts(setting: Setting) -> Measured:
    """Twice the same graph, and what the choice of shortcuts is worth beside random ones."""
    config = arms()["phase2 with shortcuts"]
    ids = texts(config, setting.tokens)
    same = []
    for seed in setting.seeds:
        once, again = (edges(config.override({"train.seed": seed}), ids) for _ in range(2))
        same.append(len(once & again) / len(once | again))
    pair = ("phase2 with shortcuts", "phase2 with random shortcuts")
    return {
        "same edges twice": same,
        "perplexity / random shortcuts": perplexity_ratio(runs(setting, *pair), *pair),
    }


# --- 3.3 sparse attention --------------------------------------------------------------------


def attention_inputs(length: int, device: torch.device = CPU) -> dict[str, Tensor]:
    """q, k, v and a gradient [1,H,T,D], and rows of edges all over the past."""
    neighbors, counts = spread_rows(1, length, EDGES, device)
    size = (1, HEADS, length, HEAD_WIDTH)
    tensors = {name: normal(i, device, *size) for i, name in enumerate((*QKV, "grad"))}
    return {**tensors, "neighbors": neighbors, "counts": counts}


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to all earlier tokens, as torch's fused kernel does it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by its formula, with the [T,T] matrix of each head."""
    length = q.shape[2]
    future = q.new_ones(length, length, dtype=torch.bool).triu_(1)
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(future, -torch.inf)
    return scores.softmax(-1) @ v


def prepare_sparse(length: int, device: torch.device = CPU) -> Thunk:
    inputs = attention_inputs(length, device)
    names = (*QKV, "neighbors", "counts")
    return lambda: with_gradients(ops.graph_attention, inputs, names, QKV)


def prepare_fused(length: int, device: torch.device = CPU) -> Thunk:
    inputs = attention_inputs(length, device)
    return lambda: with_gradients(fused, inputs, QKV, QKV)


def prepare_explicit(length: int, device: torch.device = CPU) -> Thunk:
    inputs = attention_inputs(length, device)
    return lambda: with_gradients(explicit, inputs, QKV, QKV)


def sparse_attention_memory(setting: Setting) -> Measured:
    """Forward and backward, inputs included, each in a process of its own."""
    sparse, whole, formula = (
        [peak_bytes(setting, prepare, setting.tokens, warm=[64]) for _ in setting.seeds]
        for prepare in (prepare_sparse, prepare_fused, prepare_explicit)
    )
    return {
        "peak memory / explicit attention": over(sparse, formula),
        "peak memory / fused attention": over(sparse, whole),
    }


def sparse_attention_time(setting: Setting) -> Measured:
    """Forward and backward, against the fused kernel."""
    longer = 2 * setting.tokens
    return {
        f"time / fused attention, T = {SHORT}": time_ratio(
            setting, prepare_sparse(SHORT), prepare_fused(SHORT)
        ),
        "time / fused attention, long": time_ratio(
            setting, prepare_sparse(longer), prepare_fused(longer)
        ),
    }


def over(ours: list[int], theirs: list[int]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


# --- 3.4 graph cache -------------------------------------------------------------------------


def prompts(config: SOSMConfig, passage: int, shared: bool) -> list[Tensor]:
    """Prompts of a passage and a question; the passage is the same for all, or each has its own."""
    length = passage + QUESTION
    ids = texts(config, PROMPTS * length, length)
    if shared:
        ids[:, :passage] = ids[0, :passage]
    return list(ids)


def answer_all(model: SOSM, asked: list[Tensor], count: int, cache: GraphCache | None) -> None:
    """Answer prompts one after the other, each with `count` tokens."""
    for prompt in asked:
        model.generate(prompt[None], max_new_tokens=count, temperature=0, prefixes=cache)


def graph_cache(setting: Setting) -> Measured:
    """Questions on one passage, up to the first token of the answers and to their end; and prompts
    that share nothing."""
    torch.manual_seed(0)
    config = arms()["phase3"]
    model = SOSM(config).eval()
    same, other = (prompts(config, setting.tokens // 2, shared) for shared in (True, False))

    def gain(asked: list[Tensor], count: int) -> list[float]:
        answer = partial(answer_all, model, asked, count)
        return speedup(setting, lambda: answer(GraphCache()), lambda: answer(None))

    cache = GraphCache()
    answer_all(model, same, 1, cache)
    return {
        "tokens/s over no cache, first token": gain(same, 1),
        f"tokens/s over no cache, {ANSWER} tokens": gain(same, ANSWER),
        "tokens/s over no cache, unrelated prompts": gain(other, 1),
        "hit rate": [cache.stats.hit_rate],
    }


# --- 3.5 factorised embeddings ---------------------------------------------------------------


def embedding_parameters(setting: Setting) -> Measured:
    """At the size the seed counts; nothing is allocated."""
    with torch.device("meta"):
        whole = nn.Embedding(VOCABULARY, WIDTH)
        ours = FactorisedEmbedding(VOCABULARY, RANK, WIDTH)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (whole, ours)]
    return {"parameters, whole / factorised": [sizes[0] / sizes[1]]}


def embedding_quality(setting: Setting) -> Measured:
    """An embedding of a sixth of the parameters against a whole one."""
    whole, factorised = list(arms())[-2:]
    found = runs(setting, factorised, whole)
    sizes = [found[arm][0]["parameters"] for arm in (factorised, whole)]
    return {
        "perplexity / whole embedding": perplexity_ratio(found, factorised, whole),
        "parameters of the model / whole embedding": [sizes[0] / sizes[1]],
    }


if __name__ == "__main__":
    recipe.main("phase3", __doc__, arms())
