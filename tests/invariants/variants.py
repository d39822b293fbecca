"""The models that every invariant is held to: each registered mixer, each field of the graph.

A mixer and an edge rule join by being registered, a field by a line in `FIELDS`. What is registered
in a module of your own joins with `pytest -p your_module tests/invariants`.
"""

from __future__ import annotations

from typing import Any

import torch

from state_core import SOSM, SOSMConfig
from state_core.graph.rules import rule_names
from state_core.layers.registry import mixer_names, needs_graph

SMALL: dict[str, Any] = {
    "vocab_size": 53,
    "d_model": 32,
    "embed_rank": 12,
    "mlp_hidden": 24,
    "attention.n_heads": 2,
    "mamba.headdim": 16,
    "mamba.d_state": 8,
    "mamba.chunk_size": 16,
    "graph.window": 3,
    "state.temporal_rank": 4,
    "pointer.dim": 8,
}

MOE: dict[str, Any] = {"moe.n_experts": 4, "moe.hidden": 12}

FIELDS: dict[str, dict[str, Any]] = {
    "as recommended": {},
    "mutual": {"graph.mutual": True},
    "mutual, fixed K": {"graph.mutual": True, "graph.adaptive_k": False},
    "successors": {"graph.successor": True},
    "successors, mutual": {"graph.successor": True, "graph.mutual": True},
    "no semantic edges": {"graph.semantic": False},
    "no window, no sinks": {"graph.window": 0, "graph.sinks": 0},
    "fixed K": {"graph.adaptive_k": False},
    "ambiguity of block norms": {"graph.ambiguity": "block_norms"},
    "full similarity": {"graph.similarity": "full"},
    "projected similarity": {"graph.similarity": "projection"},
    "learned block weights": {"graph.learn_weights": True},
    "buckets": {"graph.source": "lsh", "graph.lsh_bits": 3},
    "buckets, small": {"graph.source": "lsh", "graph.lsh_tables": 2, "graph.lsh_bucket": 2},
    "other blocks": {"graph.block_weights": {"S": 0.6, "P": 0.2, "X": 0.2}},
    "low rank": {"linear_rank": 4},
    "no pointer": {"pointer.enabled": False},
    "no positions": {"attention.positions": "none"},
    "alibi": {"attention.positions": "alibi"},
    "differential": {"attention.differential": True},
    "multi-block heads": {"attention.multi_block": True, "graph.successor": True},
    "multi-block differential heads": {
        "attention.multi_block": True,
        "attention.differential": True,
        "attention.n_heads": 4,
    },
    "learned mask": {"attention.learned_mask": True},
    "topological Mamba": {"mamba.topological": True},
    "token choice": {**MOE, "moe.routing": "token_choice", "moe.from_layer": 1},
    "expert threshold": {**MOE, "moe.routing": "expert_threshold"},
    "checkpointed": {"train.activation_checkpointing": True},
    "dropout": {"dropout": 0.1},
    # Text of few words is more alike than most: the gate's say begins higher.
    "temporal gate": {"graph.temporal_gate": True, "graph.tau_high": 0.97, "graph.tau_temp": 0.5},
    "bridges": {"graph.shortcuts": "betweenness", "graph.shortcut_count": 3, "graph.chunk": 8},
    "random shortcuts": {"graph.shortcuts": "random"},
    "fibonacci shortcuts": {"graph.shortcuts": "fibonacci"},
    "landmarks": {"graph.landmarks": 9, "graph.chunk": 8},
    "graph ALiBi": {
        "attention.positions": "graph_alibi",
        "graph.landmarks": 9,
        "graph.chunk": 8,
    },
    "graph RoPE": {"attention.positions": "graph_rope", "graph.landmarks": 9, "graph.chunk": 8},
    "topological Mamba, landmarks": {
        "mamba.topological": True,
        "graph.landmarks": 9,
        "graph.chunk": 8,
    },
    "gated heads of blocks": {
        "graph.temporal_gate": True,
        "graph.tau_high": 0.97,
        "attention.multi_block": True,
        "attention.learned_mask": True,
        "attention.positions": "graph_alibi",
        "graph.landmarks": 9,
        "graph.chunk": 8,
    },
    "memory": {"memory.enabled": True, "memory.k": 3, "train.consecutive": True},
    "degree encoding": {"graph.encoding": "degree"},
    "random walk encoding": {"graph.encoding": "random_walk"},
    "all of the graph": {
        "graph.temporal_gate": True,
        "graph.tau_high": 0.97,
        "graph.mutual": True,
        "graph.successor": True,
        "graph.shortcuts": "betweenness",
        "graph.landmarks": 9,
        "graph.chunk": 8,
        "graph.encoding": "random_walk",
    },
}


def variants() -> dict[str, SOSMConfig]:
    """A small configuration per mixer, per field and per preset."""
    small = SOSMConfig.preset("default").override(SMALL)
    found = {}
    for mixer in mixer_names():
        found[f"mixer {mixer}"] = small.override({"layers": [mixer, mixer]})
        if not needs_graph(mixer):
            alone = {"graph.enabled": False, "pointer.enabled": False}
            found[f"mixer {mixer}, no graph"] = found[f"mixer {mixer}"].override(alone)
    mixed = small.override({"layers": ["mamba", "graph_attention"]})
    for name in rule_names():
        found[f"rule {name}"] = mixed.override({"graph.rule": name})
    for name, values in FIELDS.items():
        found[name] = mixed.override(values)
    for preset in ("phase1", "phase2", "phase3", "phase4", "phase6"):
        found[preset] = SOSMConfig.preset(preset).override(
            {**SMALL, "attention.n_heads": 4, "layers": mixed.layers}
        )
    return found


VARIANTS = variants()


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> SOSM:
    """The variant with weights large enough that no part is silent, ready to evaluate."""
    torch.manual_seed(seed)
    model = SOSM(VARIANTS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if model.pointer is not None:
            model.pointer.vocabulary.bias.zero_()
    return model.to(dtype).eval()


def text(batch: int, length: int, seed: int = 0, words: int = 12) -> torch.Tensor:
    """Random ids [B,T] with many repetitions, so that edges and pointers have work."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(words, (batch, length), generator=generator) * 3
