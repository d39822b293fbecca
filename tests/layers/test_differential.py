"""Differential attention against the formulae of the paper (arXiv 2410.05258), written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from state_core import SOSM, SOSMConfig
from state_core.errors import ConfigError
from state_core.layers.differential import DifferentialHeads
from tests.invariants.variants import build, text

EVERY_CAUSAL_EDGE = {
    "layers": ["graph_attention"],
    "attention.differential": True,
    "attention.n_heads": 4,
    "attention.positions": "none",
    "graph.window": 64,
    "graph.sinks": 0,
    "graph.semantic": False,
    "pointer.enabled": False,
}


def by_the_paper(x: Tensor, w: dict[str, Tensor], heads: int, layer: int) -> Tensor:
    """MultiHead(X) of section 2.1 for one text x [T,D]: a loop over differential heads.

    `w` holds W_Q, W_K, W_V [D,D] (columns of head h: its first map, its second map), W_O, the four
    λ vectors and the head norm's scale; layer counts from 1 as in the paper.
    """
    length, width = x.shape
    d = width // heads // 2
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
    weight = w["q1"].dot(w["k1"]).exp() - w["q2"].dot(w["k2"]).exp() + lambda_init
    outputs = []
    for h in range(heads):
        columns = slice(2 * d * h, 2 * d * (h + 1))
        q1, q2 = (x @ w["Q"][:, columns]).split(d, dim=1)
        k1, k2 = (x @ w["K"][:, columns]).split(d, dim=1)
        v = x @ w["V"][:, columns]
        maps = []
        for q, k in ((q1, k1), (q2, k2)):
            scores = (q @ k.T / math.sqrt(d)).masked_fill(future, -math.inf)
            maps.append(scores.exp() / scores.exp().sum(1, keepdim=True))
        head = (maps[0] - weight * maps[1]) @ v
        normed = head / (head.square().mean(1, keepdim=True) + 1e-5).sqrt() * w["norm"]
        outputs.append((1 - lambda_init) * normed)
    return torch.cat(outputs, dim=1) @ w["O"]


@pytest.mark.parametrize("mixer", ["graph_attention", "attention"])
@pytest.mark.parametrize("index", [0, 3])
def test_it_is_the_papers_when_every_causal_edge_is_there(mixer: str, index: int) -> None:
    config = build("as recommended").config.override(
        {**EVERY_CAUSAL_EDGE, "layers": [*["mamba"] * index, mixer]}
    )
    torch.manual_seed(1)
    model = SOSM(config).double().eval()
    layer = model.blocks[index].mixer
    with torch.no_grad():
        layer.heads.differential.norm.weight.uniform_(0.5, 1.5)
        if mixer == "graph_attention":
            layer.similarity_scale.zero_()
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out[0])))
    with torch.no_grad():
        model(text(2, 23))
    x, got = seen[0]
    q, k, v = layer.qkv.weight.T.chunk(3, dim=1)
    inner = layer.heads.differential
    weights = {
        "Q": q, "K": k, "V": v, "O": layer.out.weight.T, "norm": inner.norm.weight,
        "q1": inner.lambda_q[0], "k1": inner.lambda_k[0],
        "q2": inner.lambda_q[1], "k2": inner.lambda_k[1],
    }  # fmt: skip
    for b in range(2):
        want = by_the_paper(x[b], weights, heads=2, layer=index + 1)
        torch.testing.assert_close(got[b], want, rtol=1e-9, atol=1e-12)


def test_it_has_the_parameters_of_plain_attention_but_for_lambda_and_norm() -> None:
    config = build("as recommended").config.override({"layers": ["graph_attention"]})
    plain = SOSM(config).num_parameters()
    differential = SOSM(config.override({"attention.differential": True})).num_parameters()
    head_dim = config.d_model // config.attention.n_heads
    assert differential - plain == 4 * head_dim + 2 * head_dim


def test_lambda_starts_near_its_initial_value_of_the_layer() -> None:
    torch.manual_seed(0)
    starts = [float(DifferentialHeads(64, index).weight().detach()) for index in (0, 1, 20)]
    assert starts == pytest.approx([0.2, 0.8 - 0.6 * math.exp(-0.3), 0.8], abs=0.4)


def test_an_odd_number_of_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        SOSMConfig.preset("default").override(
            {"d_model": 96, "attention.n_heads": 3, "attention.differential": True}
        )
