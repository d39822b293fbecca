"""Phase 4, long range and efficiency: its arms, and what its claims promise, measured.

Arms are the baseline, phase 3 with one change each, and the phase as a whole; all have the
baseline's parameters (±2 %) and read the same consecutive segments, as a memory needs. The table of
the command scores them without memories; `remembering` with them.

    python -m experiments.phase4 --steps 150 --seeds 3 --jobs 2

B texts, T tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from experiments import recipe
from experiments.ledger import Measured, Setting
from experiments.measures import (
    CPU,
    Runs,
    Step,
    memory_ratio,
    of_size,
    texts,
    time_ratio,
    trained,
)
from experiments.remembering import perplexities, remembering_ratio
from state_core.adapters.lora import Lora
from state_core.bench.cases.memory import OURS, Library, build_library
from state_core.bench.timing import Spread, growth_exponent, interleave, ratios
from state_core.config import SOSMConfig
from state_core.pipeline import SOSM

CHECKPOINTING = {"train.activation_checkpointing": True}
REMEMBERED = (0, 512, 2048, 8192)  # tokens
ITEMS = {"quick": (10_000, 40_000), "standard": (10_000, 30_000, 90_000)}
QUERIES, NEAREST = 500, 10
RANK = 8
# The size of the seed's model, which has four layers, as phase 4 has.
LARGE: dict[str, Any] = {
    "vocab_size": 50_257,
    "d_model": 768,
    "embed_rank": 128,
    "mlp_hidden": 2048,
    "attention.n_heads": 12,
}
WRITTEN, PROMPTS = 100, {"short": 28, "long": 412}  # tokens; the longer ends where a window does


def arms() -> dict[str, SOSMConfig]:
    """What is trained: the baseline, one change at a time, and the phase."""
    baseline = SOSMConfig.preset("baseline").override({"train.consecutive": True})
    phase3 = of_size(SOSMConfig.preset("phase3").override({"train.consecutive": True}), baseline)
    return {
        "baseline": baseline,
        "phase3": phase3,
        "phase3 with multi-block heads": phase3.override({"attention.multi_block": True}),
        "phase3 with memory": phase3.override({"memory.enabled": True}),
        "phase4": of_size(SOSMConfig.preset("phase4"), baseline),
    }


def runs(setting: Setting, *names: str) -> Runs:
    """The arms of those names, trained."""
    every = arms()
    return trained(setting, {name: every[name] for name in names})


# --- the phase as a whole --------------------------------------------------------------------


def total_context(setting: Setting) -> Measured:
    """Held-out text in order, with memories of growing size, found through HNSW graphs."""
    found = perplexities(setting, runs(setting, "phase4"), "phase4", REMEMBERED, kind="hnsw")
    largest = f"perplexity, {REMEMBERED[-1]:,} tokens remembered / none"
    return {
        "worst step to a larger memory": [max(b / a for a, b in pairwise(row)) for row in found],
        largest: [row[-1] / row[0] for row in found],
    }


def total_memory(setting: Setting) -> Measured:
    """With its layers recomputed, as the phase has it."""
    found = arms()
    ours = found["phase4"].override(CHECKPOINTING)
    return {"peak memory of a step / baseline": memory_ratio(setting, ours, found["baseline"])}


# --- 4.1 HNSW memory -------------------------------------------------------------------------


def hnsw_growth(setting: Setting) -> Measured:
    """Time of the same queries as items grow in number, each store tuned to find 95 % of the
    nearest; and of comparing with all."""
    sizes = ITEMS.get(setting.budget, ITEMS["standard"])
    torch.set_num_threads(setting.threads)
    libraries = [build_library(size, QUERIES, NEAREST) for size in sizes]
    return {
        "growth exponent of a query, HNSW": _growth(setting, libraries, OURS),
        "growth exponent of a query, exact": _growth(setting, libraries, "exact"),
        "recall": [library.recall(OURS) for library in libraries],
    }


def _growth(setting: Setting, libraries: list[Library], name: str) -> list[float]:
    """An exponent per repeat, of the median time of all queries."""

    def ask(library: Library) -> object:
        return library.search(name)(library.queries, library.k)

    sizes = [len(library.items) for library in libraries]
    thunks = {str(len(a.items)): lambda a=a: ask(a) for a in libraries}
    found = []
    for _ in setting.seeds:
        seconds = interleave(thunks, CPU, setting.seconds)
        medians = [Spread.of(seconds[str(size)]).median for size in sizes]
        found.append(growth_exponent(sizes, medians))
    return found


# --- 4.2 LoRA --------------------------------------------------------------------------------


def lora_parameters(setting: Setting) -> Measured:
    """All parameters over those that are trained, of adapters beside every matrix of the layers."""
    ours = SOSMConfig.preset("phase4")
    return {
        "all / trained, the seed's size": [_over_trained(ours.override(LARGE))],
        "all / trained, ours": [_over_trained(ours)],
    }


def _over_trained(config: SOSMConfig) -> float:
    model = SOSM(config)
    everything = model.num_parameters()
    return everything / sum(p.numel() for p in Lora(model, rank=RANK).parameters())


# --- 4.3 KV cache ----------------------------------------------------------------------------


@torch.no_grad()
def write_anew(model: SOSM, prompt: Tensor, count: int) -> Tensor:
    """The likeliest continuation of a prompt [1,T], all of it read again for each token."""
    ids = prompt
    for _ in range(count):
        ids = torch.cat([ids, model(ids).last_logits.argmax(-1, keepdim=True)], dim=1)
    return ids


def kv_cache(setting: Setting) -> Measured:
    """A hundred tokens, with the cache and without, a value per round."""
    torch.manual_seed(0)
    config = arms()["phase4"]
    model = SOSM(config).eval()
    found: Measured = {}
    for name, length in PROMPTS.items():
        prompt = texts(config, length, length)
        written = {
            "cached": lambda p=prompt: model.generate(p, WRITTEN, temperature=0),
            "anew": lambda p=prompt: write_anew(model, p, WRITTEN),
        }
        seconds = interleave(written, CPU, setting.seconds)
        found[f"tokens/s over no cache, {name} prompt"] = ratios(seconds["cached"], seconds["anew"])
    return found


# --- 4.4 gradient checkpointing --------------------------------------------------------------


def checkpointing_memory(setting: Setting) -> Measured:
    plain = arms()["phase4"]
    ours = plain.override(CHECKPOINTING)
    return {"peak memory of a step / without": memory_ratio(setting, ours, plain)}


def checkpointing_time(setting: Setting) -> Measured:
    plain = arms()["phase4"]
    ids = texts(plain, setting.tokens)
    steps = Step(plain.override(CHECKPOINTING), ids), Step(plain, ids)
    return {"time of a step / without": time_ratio(setting, *steps)}


# --- 4.5 multi-block heads -------------------------------------------------------------------


def multi_block(setting: Setting) -> Measured:
    """Heads that see one block's edges against heads that see all, both with their memories."""
    pair = ("phase4", "phase3 with memory")
    ratio = remembering_ratio(setting, runs(setting, *pair), *pair, REMEMBERED[-1])
    return {"perplexity / standard heads": ratio}


if __name__ == "__main__":
    recipe.main("phase4", __doc__, arms())
