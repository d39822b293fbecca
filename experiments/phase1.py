"""Phase 1, quick wins: its arms, and what its claims promise, measured.

Arms are the baseline, a transformer of six layers, with one change each, and the phase as a whole;
all have the baseline's parameters (±2 %), which wider MLPs make up for where layers go.

    python -m experiments.phase1 --steps 150 --seeds 3 --jobs 2

T tokens, K neighbours, d width of what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments import recipe
from experiments.ledger import Measured, Setting
from experiments.measures import (
    Runs,
    Step,
    Thunk,
    memory_ratio,
    models,
    of_size,
    peak_bytes,
    perplexity_ratio,
    planned,
    speedup,
    texts,
    time_ratio,
    trained,
)
from state_core import ops
from state_core.adapters.k1_adapter import responsibility
from state_core.bench.inputs import normal
from state_core.bench.timing import growth_exponent
from state_core.config import GraphConfig, SOSMConfig
from state_core.graph.graph_builder import build_graph
from state_core.pipeline import SOSM
from state_core.state import State
from state_core.training.run import load_text

WIDTH, NEIGHBOURS = 64, 8  # of the state, and edges of a token
LENGTHS = {"quick": (8192, 32768), "standard": (8192, 16384, 32768)}
SHORTER = (3, 4, 5)  # layers, beside the baseline's six
SAMPLED = 10  # steps between K-1 attributions, as the preset has it
PAIR = ("phase1", "baseline")
STEPS_WATCHED = 10  # for gradients that are not finite


def arms() -> dict[str, SOSMConfig]:
    """What is trained: the baseline, one change at a time, and the phase."""
    baseline = SOSMConfig.preset("baseline")
    phase1 = of_size(SOSMConfig.preset("phase1"), baseline)
    shorter = {
        f"{n} layers": of_size(baseline.override({"layers": ["attention"] * n}), baseline)
        for n in SHORTER
    }
    return {
        "baseline": baseline,
        **shorter,
        "bf16": baseline.override({"train.precision": "bf16"}),
        "phase1": phase1,
        "phase1 with K-1 every step": phase1.override({"train.k1_every": 1}),
        "phase1 without mutual": phase1.override({"graph.mutual": False}),
    }


def runs(setting: Setting, *names: str) -> Runs:
    """The arms of those names, trained."""
    every = arms()
    return trained(setting, {name: every[name] for name in names})


# --- the phase as a whole --------------------------------------------------------------------


def total_speed(setting: Setting) -> Measured:
    """A training step at equal parameters, without K-1, whose share 1.3 measures."""
    found = [Step(arms()[name], texts(arms()[name], setting.tokens)) for name in PAIR]
    return {"training speed / baseline": speedup(setting, *found)}


def total_memory(setting: Setting) -> Measured:
    """A training step at equal parameters, in a process of its own."""
    ours, peer = (arms()[name] for name in PAIR)
    return {"peak memory of a step / baseline": memory_ratio(setting, ours, peer)}


def total_perplexity(setting: Setting) -> Measured:
    """On held-out text, at equal parameters and after the same text."""
    found = runs(setting, *PAIR)
    return {"perplexity / baseline": perplexity_ratio(found, *PAIR)}


# --- 1.1 streaming top-K ---------------------------------------------------------------------


def full_matrix(u: Tensor, k: int) -> Tensor:
    """The neighbours [T,K] of normalised rows u [T,d] by the whole matrix of similarities: what
    streaming stands in for; −1 where there is none. Which of equals is first is left to torch."""
    length = len(u)
    scores = (u @ u.T).masked_fill_(
        u.new_ones(length, length, dtype=torch.bool).triu_(), -torch.inf
    )
    found = scores.topk(min(k, length), dim=1)
    return torch.where(found.values.isfinite(), found.indices, -1)


def unit_rows(length: int, seed: int = 0) -> Tensor:
    """Random directions [T,d]."""
    rows = normal(seed, torch.device("cpu"), length, WIDTH).detach()
    return nn.functional.normalize(rows, dim=1)


def prepare_streaming(length: int) -> Thunk:
    u = unit_rows(length)[None]
    return lambda: ops.causal_topk(u, NEIGHBOURS)


def prepare_full_matrix(length: int) -> Thunk:
    u = unit_rows(length)
    return lambda: full_matrix(u, NEIGHBOURS)


def streaming_top_k_memory(setting: Setting) -> Measured:
    """Peaks of processes of their own, over lengths from 8192 tokens; the full matrix, which would
    need 4 GiB for the longest, over half of each."""
    lengths = LENGTHS.get(setting.budget, LENGTHS["standard"])
    shorter = [length // 2 for length in lengths]

    def exponent(prepare: Callable[[int], Thunk], sizes: Sequence[int]) -> float:
        peaks = [peak_bytes(setting, prepare, size, warm=[64]) for size in sizes]
        return growth_exponent(sizes, peaks)

    return {
        "growth exponent, streaming": [exponent(prepare_streaming, lengths) for _ in setting.seeds],
        "growth exponent, full matrix": [
            exponent(prepare_full_matrix, shorter) for _ in setting.seeds
        ],
    }


def streaming_top_k_time(setting: Setting) -> Measured:
    """Both ways to the same neighbours of one text."""
    ratio = time_ratio(
        setting, prepare_streaming(setting.tokens), prepare_full_matrix(setting.tokens)
    )
    return {"time / full matrix": ratio}


def streaming_top_k_edges(setting: Setting) -> Measured:
    """Edges of states of held-out text, in float64, so that rounding decides between no two."""
    shares = []
    for state in text_states(setting):
        u = nn.functional.normalize(state.semantic.double().flatten(2), dim=-1)
        ours, _ = ops.causal_topk(u, NEIGHBOURS)
        theirs = full_matrix(u[0], NEIGHBOURS)
        same = ours[0].sort(1).values == theirs.sort(1).values
        shares.append(float(same.all(1).double().mean()))
    return {"rows with the same edges": shares}


def text_states(setting: Setting) -> list[State]:
    """What the trained phase 1 of each seed makes of a held-out text."""
    found = runs(setting, "phase1")
    ids = load_text(arms()["phase1"]).test[: setting.tokens]
    batch = torch.from_numpy(ids)[None]
    with torch.no_grad():
        return [model(batch, return_state=True).state for model in models(found, "phase1")]


# --- 1.2 mutual k-NN -------------------------------------------------------------------------


def mutual_edges(setting: Setting) -> Measured:
    """Semantic edges that stay, in the causal graph and, as first thought of, in one that looks
    both ways."""
    found: Measured = {"edges kept, causal": [], "edges kept, bidirectional": []}
    for state in text_states(setting):
        for name, values in found.items():
            plain, mutual = (
                build_graph(state, config).stats().kinds["semantic"]
                for config in with_and_without_mutual(causal=name.endswith(" causal"))
            )
            values.append(mutual / plain)
    return found


def mutual_hubs(setting: Setting) -> Measured:
    """Skewness of how many semantic edges lead to a token."""
    differences, with_it, without = [], [], []
    for state in text_states(setting):
        plain, mutual = (
            build_graph(state, config).stats().in_degree_skewness
            for config in with_and_without_mutual(causal=True)
        )
        differences.append(mutual - plain)
        with_it.append(mutual)
        without.append(plain)
    return {
        "skewness with - without": differences,
        "skewness with": with_it,
        "skewness without": without,
    }


def with_and_without_mutual(causal: bool) -> list[GraphConfig]:
    """Without, then with; a language model's configuration has no bidirectional graph."""
    graph = arms()["phase1"].graph
    return [graph.model_copy(update={"mutual": m, "causal": causal}) for m in (False, True)]


# --- 1.3 K-1 sampling ------------------------------------------------------------------------


def k1_sampling(setting: Setting) -> Measured:
    """With r the time of a step with K-1 over one without, every step against every tenth is
    r / (1 + (r − 1) / 10)."""
    config = arms()["phase1"]
    ids = texts(config, setting.tokens)
    attributed = Step(config, ids, before_update=lambda m: responsibility(m).to_dict(4))
    every = speedup(setting, Step(config, ids), attributed)
    names = "phase1", "phase1 with K-1 every step"
    return {
        "training speed / K-1 every step": [r / (1 + (r - 1) / SAMPLED) for r in every],
        "perplexity / K-1 every step": perplexity_ratio(runs(setting, *names), *names),
    }


# --- 1.4 six to four layers ------------------------------------------------------------------


def cut(layers: int) -> SOSMConfig:
    """The baseline with fewer layers, and nothing to make up for them."""
    return SOSMConfig.preset("baseline", layers=["attention"] * layers)


def fewer_layers_work(setting: Setting) -> Measured:
    """Floating-point operations of a forward pass; the same in any repeat."""

    def flops(layers: int) -> int:
        model = SOSM(cut(layers)).eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            _ = model(texts(model.config, setting.tokens)).logits
        total: int = counter.get_total_flops()
        return total

    return {"operations of four layers / six": [flops(4) / flops(6)]}


def fewer_layers_memory(setting: Setting) -> Measured:
    """Memory where layers are cut; perplexity where wider MLPs make up for them, so that all have
    as many parameters."""
    names = [f"{n} layers" for n in SHORTER]
    found = runs(setting, "baseline", *names)
    return {
        "peak memory of four layers / six": memory_ratio(setting, cut(4), cut(6)),
        **{
            f"perplexity of {name} / 6": perplexity_ratio(found, name, "baseline") for name in names
        },
    }


# --- 1.5 mixed precision ---------------------------------------------------------------------


def mixed_precision_speed(setting: Setting) -> Measured:
    """A training step in bf16 against float32: the transformer's, and phase 1's."""
    found: Measured = {}
    for name, config in _by_precision().items():
        half, full = (
            Step(config.override({"train.precision": p}), texts(config, setting.tokens))
            for p in ("bf16", "fp32")
        )
        found[f"training speed / float32, {name}"] = speedup(setting, half, full)
    return found


def mixed_precision_memory(setting: Setting) -> Measured:
    """Peak memory of a step, and how many entries of gradients are not finite in the first steps
    on the corpus."""
    found: Measured = {}
    for name, config in _by_precision().items():
        half, full = (config.override({"train.precision": p}) for p in ("bf16", "fp32"))
        found[f"peak memory / float32, {name}"] = memory_ratio(setting, half, full)
    found["entries of gradients not finite"] = [
        _not_finite(planned(setting, arms()["bf16"], seed)) for seed in setting.seeds
    ]
    return found


def _by_precision() -> dict[str, SOSMConfig]:
    return {"transformer": arms()["baseline"], "phase 1": arms()["phase1"]}


def _not_finite(config: SOSMConfig) -> float:
    batches = load_text(config).batches(config.train)
    bad = 0

    def count(model: nn.Module) -> None:
        nonlocal bad
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        bad += sum(int((~grad.isfinite()).sum()) for grad in grads)

    step = Step(config, batches.next(), before_update=count)
    for _ in range(STEPS_WATCHED):
        step()
        step.ids = batches.next()
    return float(bad)


if __name__ == "__main__":
    recipe.main("phase1", __doc__, arms())
