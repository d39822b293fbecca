"""Phase 2, quality and interpretability: its arms, and what its claims promise, measured.

Arms are the baseline, a transformer of six layers, phase 1 with one change each, and the phase as a
whole; all have the baseline's parameters (±2 %).

    python -m experiments.phase2 --steps 150 --seeds 3 --jobs 2

T tokens, K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experiments import recipe
from experiments.ledger import Measured, Setting
from experiments.measures import (
    Runs,
    Step,
    Thunk,
    models,
    of_size,
    perplexity_ratio,
    speedup,
    texts,
    time_ratio,
    trained,
)
from experiments.pseudowords import percent, points_gained, tell_senses
from state_core import ops
from state_core.analysis.attribution import Part, attribute
from state_core.config import SOSMConfig
from state_core.graph.graph_builder import GraphBuilder
from state_core.graph.similarity import build_similarity
from state_core.pipeline import SOSM
from state_core.state import State
from state_core.training.run import load_text

WORDS_EXPLAINED = 8  # predictions attributed of each model
PASSAGE = 256  # tokens of the text that they stand in


def arms() -> dict[str, SOSMConfig]:
    """What is trained: the baseline, phase 1 with one change at a time, and the phase."""
    baseline = SOSMConfig.preset("baseline")
    phase1, phase2 = (of_size(SOSMConfig.preset(p), baseline) for p in ("phase1", "phase2"))
    return {
        "baseline": baseline,
        "phase1": phase1,
        "phase1 with blockwise similarity": phase1.override({"graph.similarity": "blockwise"}),
        "phase1 with adaptive K": phase1.override({"graph.adaptive_k": True}),
        "phase1 with projection": phase1.override({"graph.similarity": "projection"}),
        "phase2": phase2,
    }


def runs(setting: Setting, *names: str) -> Runs:
    """The arms of those names, trained."""
    every = arms()
    return trained(setting, {name: every[name] for name in names})


def passage(length: int) -> Tensor:
    """The first tokens of the held-out text, ids [1,T]."""
    return torch.from_numpy(load_text(arms()["phase2"]).test[:length])[None]


# --- the phase as a whole --------------------------------------------------------------------


def senses(setting: Setting) -> Runs:
    """The baseline and the phase, trained on pseudowords and asked for their senses."""
    chosen = {f"senses, {name}": arms()[name] for name in ("baseline", "phase2")}
    return trained(setting, chosen, work=tell_senses)


def total_accuracy(setting: Setting) -> Measured:
    """Senses of pseudowords told by a linear probe on hidden states, in percentage points."""
    found = senses(setting)
    ours, peer = found["senses, phase2"], found["senses, baseline"]
    return {
        "accuracy - baseline": points_gained(ours, peer),
        "accuracy, phase 2": percent(ours, "accuracy"),
        "the same before training": percent(ours, "untrained"),
        "accuracy, baseline": percent(peer, "accuracy"),
        "baseline before training": percent(peer, "untrained"),
    }


def total_graph_time(setting: Setting) -> Measured:
    """The graph of one text, from the same state: of phase 1, whole states, against phase 2."""
    state = untrained_state(setting.tokens)
    peer, ours = (builder(name, state) for name in ("phase1", "phase2"))
    return {"graph construction, phase 1 / phase 2": speedup(setting, ours, peer)}


def total_perplexity(setting: Setting) -> Measured:
    """On held-out text, at equal parameters and after the same text."""
    found = runs(setting, "phase2", "phase1", "baseline")
    return {
        "perplexity / baseline": perplexity_ratio(found, "phase2", "baseline"),
        "perplexity / phase 1": perplexity_ratio(found, "phase2", "phase1"),
    }


def untrained_state(length: int) -> State:
    """The state [1,T] of held-out text at initialisation: how long a graph takes depends on no
    training."""
    torch.manual_seed(0)
    model = SOSM(arms()["phase2"]).eval()
    with torch.no_grad():
        state: State = model(passage(length), return_state=True).state
    return state


def builder(arm: str, state: State) -> Thunk:
    """A call that builds an arm's graph."""
    build = GraphBuilder(arms()[arm].graph, state.layout, state.temporal.shape[-1]).eval()

    @torch.no_grad()
    def call() -> object:
        return build(state)

    return call


# --- 2.1 blockwise similarity, 2.4 projection ------------------------------------------------


def blockwise_time(setting: Setting) -> Measured:
    """Features and the K most similar of every token: 12 numbers of a token against 64."""
    return {"full / blockwise": _similarity_speedup(setting, "blockwise")}


def projection_time(setting: Setting) -> Measured:
    """The same with 16 numbers of a token, projected."""
    return {"full / projection": _similarity_speedup(setting, "projection")}


def _similarity_speedup(setting: Setting, kind: str) -> list[float]:
    state = untrained_state(setting.tokens)
    ours, full = (lambda k=k: neighbours(state, k) for k in (kind, "full"))
    return speedup(setting, ours, full)


@torch.no_grad()
def neighbours(state: State, similarity: str) -> Tensor:
    """The K most similar earlier tokens outside the window, [B,T,K], by a kind of similarity."""
    graph = arms()["phase1"].graph.model_copy(update={"similarity": similarity})
    u = build_similarity(graph, state.layout).features(state.semantic)
    found, _ = ops.causal_topk(u, graph.k_base, graph.window + 1)
    return found


def projection_recall(setting: Setting) -> Measured:
    """How many of the K nearest by 64 numbers are among the K nearest by 16, in states of held-out
    text; and of perplexity, what training with the projection costs."""
    found = runs(setting, "phase1", "phase1 with projection")
    ids, recalls = passage(setting.tokens), []
    for model in models(found, "phase1"):
        with torch.no_grad():
            state = model(ids, return_state=True).state
        full, projected = (neighbours(state, kind) for kind in ("full", "projection"))
        hits = (full[..., None] == projected[..., None, :]).any(-1) & (full >= 0)
        recalls.append(float(hits.sum() / (full >= 0).sum()))
    ratio = perplexity_ratio(found, "phase1 with projection", "phase1")
    return {"neighbour recall": recalls, "perplexity / full": ratio}


# --- 2.2 adaptive K --------------------------------------------------------------------------


def adaptive_k_ambiguity(setting: Setting) -> Measured:
    """Spearman's correlation of the edges that a token asks for with whether it has two senses:
    over pseudowords, and words as frequent."""
    found = senses(setting)["senses, phase2"]
    return {"rank correlation": [r["ambiguity_of_k"] for r in found]}


def adaptive_k_time(setting: Setting) -> Measured:
    """A training step with adaptive K against one where every token has the average K, and one
    where every token has the largest."""
    adaptive = arms()["phase1 with adaptive K"]
    ids = texts(adaptive, setting.tokens)
    found: Measured = {}
    for name, k in (("average", adaptive.graph.k_base), ("largest", adaptive.graph.k_max)):
        fixed = adaptive.override({"graph.adaptive_k": False, "graph.k_base": k})
        ratio = time_ratio(setting, Step(adaptive, ids), Step(fixed, ids))
        found[f"time of a step / every token the {name} K"] = ratio
    return found


# --- 2.3 provenance, 2.5 forward attribution -------------------------------------------------


def provenance(setting: Setting) -> Measured:
    """The largest difference between an edge's weight and the sum of its blocks' contributions."""
    ids, errors = passage(setting.tokens), []
    for model in models(runs(setting, "phase2"), "phase2"):
        with torch.no_grad():
            graph = model(ids, return_graph=True).graph
        difference = graph.contributions.double().sum(-1) - graph.weight.double()
        errors.append(float(difference.abs().max()))
    return {"largest difference": errors}


def forward_attribution(setting: Setting) -> Measured:
    """The largest difference between a part of a prediction and the sum of its parts, the whole
    being 1, over words of a held-out text."""
    ids, errors = passage(PASSAGE), []
    step = PASSAGE // WORDS_EXPLAINED
    for model in models(runs(setting, "phase2"), "phase2"):
        trees = [attribute(model, ids, position) for position in range(step - 1, PASSAGE, step)]
        errors.append(max(difference(tree) for tree in trees))
    return {"largest difference": errors}


def difference(tree: Part) -> float:
    """How far a tree of shares is from adding up, at any level, and its root from 1."""
    gaps = [abs(part.share - sum(p.share for p in part.parts)) for part in tree if part.parts]
    return max([abs(tree.share - 1), *gaps])


if __name__ == "__main__":
    recipe.main("phase2", __doc__, arms())
