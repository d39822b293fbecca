"""Phase 6, Mamba, landmarks and experts: its arms, and what its claims promise, measured.

Arms are the baseline, phase 4 with one change each, and the phase as a whole; all have the
baseline's parameters (±2 %) and read the same consecutive segments, as a memory needs. The table of
the command scores them without memories; `remembering` with them.

    python -m experiments.phase6 --steps 150 --seeds 3 --jobs 2

B texts, T tokens, H heads, E edges of a token, N nodes of a graph.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from experiments import extrapolation, recipe
from experiments.ledger import Measured, NotMeasurableError, Setting
from experiments.long_windows import long_windows, target_losses
from experiments.measures import (
    CPU,
    Runs,
    Step,
    Thunk,
    models,
    of_size,
    speedup,
    texts,
    trained,
)
from experiments.phase3 import (
    QKV,
    fused,
    longest_trained,
    over,
    prepare_explicit,
    prepare_fused,
    prepare_sparse,
)
from experiments.phase4 import LARGE
from experiments.remembering import remembering_ratio
from experiments.routing import specialisation, token_class, train_encoder
from experiments.small_tasks import NEEDLE, RECALL, accuracies, small
from state_core import ops
from state_core.adapters.factorise import factorize
from state_core.analysis.depass import WAYS, decompose
from state_core.analysis.internals import run_with_cache
from state_core.bench.cases.landmark_distances import LANDMARKS
from state_core.bench.cases.model import decode_after
from state_core.bench.graph_peers import to_scipy
from state_core.bench.graphs import Graph, random_graph, token_graph
from state_core.bench.inputs import normal, with_gradients
from state_core.bench.memory import measure
from state_core.bench.timing import Spread, growth_exponent, interleave
from state_core.config import SOSMConfig
from state_core.graph.landmarks import choose_landmarks
from state_core.pipeline import SOSM
from state_core.training.baselines import matched_baseline
from state_core.training.batches import windows
from state_core.training.evaluate import evaluate
from state_core.training.run import load_run, load_text

NODES, DEGREE = 100_000, 16
ALL_PAIRS = 20_000  # nodes from each of which our own kernel searches
SCIPY_PAIRS = 3_000  # the same for SciPy, which takes seconds
ROW = 16  # edges of the rows whose entropy is told: shorter ones have little choice
TEXTS = 4  # of held-out text
REMEMBERED = 8192
LENGTHS = {"quick": (512, 16384), "standard": (512, 4096, 16384, 65536)}
GROWTH = {"quick": (1024, 8192), "standard": (1024, 4096, 16384)}
LONG_DOCUMENTS = "sotu"
TRAINED, FURTHER = 128, 4  # tokens of a window, and how many times as many are read at last
LONG_TEXTS = 16
EXPERTS = 8
FACTOR_RANK = {"small": 32, "large": 128}
PASSAGE = 64  # tokens that are decomposed


def arms() -> dict[str, SOSMConfig]:
    """What is trained: the baseline, one change at a time, and the phase."""
    baseline = SOSMConfig.preset("baseline").override({"train.consecutive": True})
    phase4 = of_size(SOSMConfig.preset("phase4"), baseline)
    experts = {"moe.n_experts": EXPERTS, "moe.hidden": phase4.mlp_hidden // EXPERTS}
    landmarks = {"graph.landmarks": 16}
    changes = {
        "pointer head": {"pointer.enabled": True},
        "differential attention": {"attention.differential": True},
        "Graph-RoPE": {"attention.positions": "graph_rope", **landmarks},
        "topological Mamba": {"mamba.topological": True, **landmarks},
        "five layers": {"layers": SOSMConfig.preset("phase6").layers},
    }
    changed = {
        f"phase4 with {name}": of_size(phase4.override(change), baseline)
        for name, change in changes.items()
    }
    return {
        "baseline": baseline,
        "phase4": phase4,
        **changed,
        "phase4 with experts": phase4.override({"moe.routing": "token_choice", **experts}),
        "phase6": of_size(SOSMConfig.preset("phase6"), baseline),
    }


def runs(setting: Setting, *names: str) -> Runs:
    """The arms of those names, trained."""
    every = arms()
    return trained(setting, {name: every[name] for name in names})


# --- the phase as a whole --------------------------------------------------------------------

_PAIR = ("phase6", "phase4")


def total_speed(setting: Setting) -> Measured:
    """Against phase 4, since phase 5 computes what phase 4 does; memories fill up meanwhile."""
    found = [arms()[name] for name in _PAIR]
    ids = texts(found[0], setting.tokens)
    return {
        "training speed / phase 4": speedup(setting, *(Step(config, ids) for config in found)),
        "reading speed / phase 4": speedup(setting, *(_reader(config, ids) for config in found)),
    }


def _reader(config: SOSMConfig, ids: Tensor) -> Thunk:
    torch.manual_seed(0)
    model = SOSM(config).eval()
    return torch.inference_mode()(lambda: model(ids).logits)


def total_perplexity(setting: Setting) -> Measured:
    """Held-out text in order, both with their memories."""
    found = runs(setting, *_PAIR)
    return {"perplexity / phase 4": remembering_ratio(setting, found, *_PAIR, REMEMBERED)}


def total_length(setting: Setting) -> Measured:
    """Not how long a text could be, but which lengths were trained on and gone on from here."""
    lengths = LENGTHS.get(setting.budget, LENGTHS["standard"])
    config = arms()["phase6"].override({"train.warmup": 1})
    longest = longest_trained(config, lengths)
    torch.manual_seed(0)
    decode = decode_after(SOSM(config).eval(), texts(config, longest, longest))
    decoded = all(bool(decode().isfinite().all()) for _ in range(TEXTS))
    return {"longest T trained and decoded": [float(longest * decoded)]}


# --- 6.1 landmark distances ------------------------------------------------------------------


def encode(graph: Graph) -> Tensor:
    """Hops of every node [N,L] to landmarks that are chosen first."""
    return ops.landmark_distances(*graph, choose_landmarks(*graph, LANDMARKS))


def all_pairs(graph: Graph) -> None:
    """Hops between all nodes by the same kernel, a word of sources at a time; none are kept, which
    would take more time."""
    for sources in torch.arange(len(graph[0]) - 1).split(64):
        ops.landmark_distances(*graph, sources)


def landmark_seconds(setting: Setting) -> Measured:
    """A random graph, and one of a text's shape, a value per round."""
    graphs = {"random graph": random_graph(NODES, DEGREE), "text's graph": token_graph(NODES)}
    thunks = {name: partial(encode, graph) for name, graph in graphs.items()}
    seconds = interleave(thunks, CPU, setting.seconds)
    return {f"seconds, {name}": seconds[name] for name in graphs}


def landmark_ratio(setting: Setting) -> Measured:
    """Landmarks against exact distances between all pairs, by the same kernel and by SciPy."""
    from scipy.sparse.csgraph import dijkstra

    large, small_graph = random_graph(ALL_PAIRS, DEGREE), random_graph(SCIPY_PAIRS, DEGREE)
    matrix = to_scipy(small_graph)
    return {
        "all pairs / landmarks, same kernel": speedup(
            setting, partial(encode, large), partial(all_pairs, large)
        ),
        "all pairs by SciPy / landmarks": speedup(
            setting, partial(encode, small_graph), partial(dijkstra, matrix, unweighted=True)
        ),
    }


# --- 6.2 attention ---------------------------------------------------------------------------


def differential_attention(setting: Setting) -> Measured:
    """Entropy on held-out text in order; needles by small models that must attend to find them:
    without a pointer head, and with edges to what followed."""
    pair = ("phase4 with differential attention", "phase4")
    found = runs(setting, *pair)
    ours, plain = ([entropy(model) for model in models(found, arm)] for arm in pair)
    attends = small("default", NEEDLE, {"pointer.enabled": False, "graph.successor": True})
    differs = of_size(attends.override({"attention.differential": True}), attends)
    right = accuracies(setting, NEEDLE, {"plain": attends, "differential": differs})
    pairs = zip(right["differential"], right["plain"], strict=True)
    return {
        "attention entropy less plain": [a - b for a, b in zip(ours, plain, strict=True)],
        "needle accuracy less plain": [a - b for a, b in pairs],
        "attention entropy, plain": plain,
        "needle accuracy, plain": right["plain"],
    }


@torch.no_grad()
def entropy(model: SOSM) -> float:
    """Nats of a row of attention [E], of a differential head those of |its two maps' difference|,
    as a distribution; the mean over heads and the rows of ROW edges or more."""
    index = model.config.layers.index("graph_attention")
    ids = held_out(model, TEXTS)
    name = f"blocks.{index}.attn.pattern"
    out, cache = run_with_cache(model, ids, name, return_graph=True)
    assert out.graph is not None
    shares = cache[name].double()
    differential = model.blocks[index].mixer.heads.differential  # type: ignore[union-attr]
    if differential is not None:
        signal, noise = shares[:, 0::2], shares[:, 1::2]
        shares = (signal - differential.weight() * noise).abs()
    p = shares / shares.sum(-1, keepdim=True)
    nats = -torch.special.xlogy(p, p).sum(-1)
    long = (out.graph.counts >= ROW)[:, None].expand_as(nats)
    return float(nats[long].mean())


def held_out(model: SOSM, count: int) -> Tensor:
    """The first windows [B,T] of the test text that a model's training knows of."""
    length = model.config.train.seq_len
    return next(windows(load_text(model.config).test, length, count))


def nearest_neighbour_attention(setting: Setting) -> Measured:
    """Edges by LSH and attention over them, forward and backward, against all pairs, at the
    model's own heads."""
    length = 8 * setting.tokens
    ours, shorter = prepare_lsh(length), prepare_lsh(length // 4)
    seconds = interleave({"long": ours, "short": shorter}, CPU, setting.seconds)
    times = [Spread.of(seconds[name]).median for name in ("short", "long")]
    inputs = _queries(length)
    whole = partial(with_gradients, fused, inputs, QKV, QKV)
    found = interleave({"ours": ours, "whole": whole}, CPU, setting.seconds)
    return {
        "time of dense attention / ours": [
            theirs / own for own, theirs in zip(found["ours"], found["whole"], strict=True)
        ],
        "growth exponent": [growth_exponent((length // 4, length), times)],
    }


def prepare_lsh(length: int) -> Thunk:
    """The rows of a text's graph by LSH, from its state, and attention over them."""
    torch.manual_seed(0)
    config = SOSMConfig.preset("default").override({"graph.source": "lsh"})
    model = SOSM(config).eval()
    with torch.no_grad():
        state = model(texts(config, length, length), return_state=True).state
    inputs = _queries(length)

    def call() -> object:
        with torch.no_grad():
            graph = model.graph_builder(state)
        rows = {"neighbors": graph.neighbors, "counts": graph.counts}
        return with_gradients(ops.graph_attention, {**inputs, **rows}, (*QKV, *rows), QKV)

    return call


def _queries(length: int) -> dict[str, Tensor]:
    """q, k, v and a gradient, [1,H,T,D/H] as the default model has them."""
    config = SOSMConfig.preset("default")
    heads = config.attention.n_heads
    size = (1, heads, length, config.d_model // heads)
    return {name: normal(i, CPU, *size) for i, name in enumerate((*QKV, "grad"))}


def block_sparse_memory(setting: Setting) -> Measured:
    """The Triton kernels on a GPU: bytes beyond the inputs, forward and backward."""
    if not torch.cuda.is_available():
        raise NotMeasurableError("the block-sparse Triton kernels need a CUDA device")
    device, length = torch.device("cuda"), 4 * setting.tokens
    prepared = [p(length, device) for p in (prepare_sparse, prepare_explicit, prepare_fused)]
    for thunk in prepared:
        thunk()  # compiles
    sparse, formula, whole = ([measure(thunk, device) for _ in setting.seeds] for thunk in prepared)
    return {
        "peak memory / explicit attention": over(sparse, formula),
        "peak memory / fused attention": over(sparse, whole),
    }


# --- 6.3 Graph-Mamba hybrid ------------------------------------------------------------------


def hybrid(setting: Setting) -> Measured:
    """A training step on one text of growing length, and recall beside pure Mamba-2."""
    lengths = GROWTH.get(setting.budget, GROWTH["standard"])
    config = arms()["phase6"]
    steps = {str(n): Step(config, texts(config, n, n)) for n in lengths}
    exponents = []
    for _ in setting.seeds:
        seconds = interleave(steps, CPU, setting.seconds)
        medians = [Spread.of(seconds[str(n)]).median for n in lengths]
        exponents.append(growth_exponent(lengths, medians))
    ours = small("phase6", RECALL, {"memory.enabled": False})
    right = accuracies(
        setting, RECALL, {"phase6": ours, "mamba2": matched_baseline(ours, "mamba2")}
    )
    pairs = zip(right["phase6"], right["mamba2"], strict=True)
    return {
        "growth exponent of a training step": exponents,
        "recall accuracy less Mamba-2's": [a - b for a, b in pairs],
        "recall accuracy": right["phase6"],
    }


# --- 6.4 positions ---------------------------------------------------------------------------


def positions(setting: Setting) -> Measured:
    """Trained on short windows, scored on the same targets after four times as much text."""
    change = {"data.source": LONG_DOCUMENTS, "train.seq_len": TRAINED}
    every = extrapolation.arms(SOSMConfig.preset("default").override(change))
    names = {kind: f"SOSM {kind}" for kind in ("rope", "graph_rope", "graph_alibi")}
    found = trained(setting, {name: every[name] for name in names.values()})
    losses = {kind: [_far(result) for result in found[name]] for kind, name in names.items()}

    def over_rope(kind: str) -> list[float]:
        gaps = [ours - rope for ours, rope in zip(losses[kind], losses["rope"], strict=True)]
        return torch.tensor(gaps).exp().tolist()

    return {
        f"perplexity at {FURTHER}x, Graph-RoPE / RoPE": over_rope("graph_rope"),
        f"perplexity at {FURTHER}x, Graph-ALiBi / RoPE": over_rope("graph_alibi"),
    }


def _far(result: dict[str, object]) -> float:
    """Nats a target after FURTHER · T tokens, of a model that its training audited."""
    model, tokenizer = load_run(str(result["folder"]))
    documents = load_text(model.config, tokenizer).corpus.require("test")
    ids = [tokenizer.encode_documents([document]) for document in documents]
    rows = long_windows(ids, TRAINED, LONG_TEXTS)
    return float(target_losses(model.eval(), rows, TRAINED, FURTHER).mean())


# --- 6.5 experts -----------------------------------------------------------------------------


def balance(setting: Setting) -> Measured:
    """Encoders, which may see a whole text; and what a language model may use in their place."""
    kinds = {"Expert Choice": "expert_choice", "Soft MoE": "soft"}
    causal = {"token choice": "token_choice", "expert threshold": "expert_threshold"}
    found = {
        name: [train_encoder(setting, routing, seed) for seed in setting.seeds]
        for name, routing in {**kinds, **causal}.items()
    }
    return {
        **{f"variation of load, {name}": [t.variation for t in found[name]] for name in found},
        **{f"loss, last / first tenth, {name}": [t.fall for t in found[name]] for name in kinds},
    }


def semantic_routing(setting: Setting) -> Measured:
    """Bits that the first expert of a token tells of its class, beyond chance, on held-out text."""
    found = runs(setting, "phase4 with experts")
    after, before = [], []
    for result in found["phase4 with experts"]:
        model, tokenizer = load_run(result["folder"])
        ids = held_out(model, TEXTS)
        classes = [[token_class(piece) for piece in tokenizer.pieces(row)] for row in ids.tolist()]
        torch.manual_seed(result["seed"])
        for bits, reader in ((after, model), (before, SOSM(model.config))):
            with torch.no_grad():
                routing = reader.eval()(ids).routing
            bits.append(specialisation(routing, torch.tensor(classes)))
    return {
        "mutual information": after,
        "gained by training": [a - b for a, b in zip(after, before, strict=True)],
    }


# --- 6.6 factorised projections --------------------------------------------------------------


def factorised(setting: Setting) -> Measured:
    """Parameters of the layers at the seed's width and rank; and what halving a trained model's
    matrices costs it."""
    large = SOSMConfig.preset("phase6").override(LARGE)
    small_rank = FACTOR_RANK["small"]
    costs = []
    for model in models(runs(setting, "phase6"), "phase6"):
        ids = load_text(model.config).test
        whole, cut = (
            evaluate(m, ids, max_batches=TEXTS).overall.perplexity
            for m in (model, factorize(model, small_rank))
        )
        costs.append(cut / whole)
    return {
        "parameters of the layers / whole": [
            _layers(large.override({"linear_rank": FACTOR_RANK["large"]})) / _layers(large)
        ],
        "perplexity of a trained model / whole": costs,
    }


def _layers(config: SOSMConfig) -> int:
    """Parameters of a model's layers; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in SOSM(config).blocks.parameters())


# --- 6.7 DePass ------------------------------------------------------------------------------


def decomposition(setting: Setting) -> Measured:
    """The largest difference between a logit and the sum of its components, over every way to
    split a passage that was read with a memory."""
    found: Measured = {"largest difference, float32": [], "largest difference, float64": []}
    for model in models(runs(setting, "phase6"), "phase6"):
        ids = held_out(model, 1)[:, : 2 * PASSAGE]
        found["largest difference, float32"].append(depass_error(model, ids))
        found["largest difference, float64"].append(depass_error(model.double(), ids))
    return found


@torch.no_grad()
def depass_error(model: SOSM, ids: Tensor) -> float:
    """Of the second half of a text [1,T]; the first is remembered."""
    memory, half = model.new_memory(), ids.shape[1] // 2
    memory.append(ids[:, :half], model(ids[:, :half], memory=memory).keepsake)
    errors = []
    for way in (way for way in WAYS if way != "expert"):  # phase 6 has none
        parts = decompose(model, ids[:, half:], way, memory=memory)
        logits = parts.vocabulary_logits
        errors.append(float((logits(parts.components.sum(0)) - logits(parts.hidden)).abs().max()))
    return max(errors)


if __name__ == "__main__":
    recipe.main("phase6", __doc__, arms())
