"""Rotations and biases: what a score knows of position, distance and landmarks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from state_core import SOSM, SOSMConfig
from state_core.layers.positions import (
    alibi_slopes,
    landmark_gap,
    landmark_rotations,
    rotate,
    rotations,
)
from state_core.layers.view import LayerView, edge_gaps
from tests.invariants.variants import build, text


def test_rotation_depends_on_the_distance_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> float:
        rotated_q = rotate(q, rotations(torch.tensor([[i]]), 16, 10_000.0))
        rotated_k = rotate(k, rotations(torch.tensor([[j]]), 16, 10_000.0))
        return float((rotated_q * rotated_k).sum())

    torch.testing.assert_close(product(7, 3), product(107, 103), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product(0, 0), float((q * k).sum()), rtol=1e-5, atol=1e-6)
    assert abs(product(7, 3) - product(7, 5)) > 1e-3


def test_far_positions_keep_their_precision() -> None:
    x = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    here, there = (rotations(torch.tensor([[p]]), 8, 10_000.0) for p in (1, 1_000_001))
    near, far = rotate(x, here), rotate(x, there)
    single = rotate(x.float(), there)
    torch.testing.assert_close(single.double(), far, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(near, far)


def test_graph_rotation_depends_on_the_differences_of_coordinates() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def product(i: list[int], j: list[int]) -> float:
        turned = [
            rotate(x, landmark_rotations(torch.tensor([[c]]), 8)) for x, c in ((q, i), (k, j))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product([3, 5], [1, 1]) == pytest.approx(product([4, 9], [2, 5]))
    assert product([2, 2], [2, 2]) == pytest.approx(float((q * k).sum()))
    assert abs(product([3, 5], [1, 1]) - product([3, 5], [1, 2])) > 1e-3


def test_graph_rotation_reads_half_a_head_of_landmarks_and_passes_the_unreached_by() -> None:
    x = torch.randn(1, 3, 2, 8)
    many = torch.randint(9, (1, 3, 64))
    torch.testing.assert_close(
        rotate(x, landmark_rotations(many, 8)), rotate(x, landmark_rotations(many[..., :4], 8))
    )
    for unreached in (torch.full((1, 3, 5), -1), torch.empty(1, 3, 0, dtype=torch.int32)):
        torch.testing.assert_close(rotate(x, landmark_rotations(unreached, 8)), x)


def test_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]
    # 12 heads: those of 8, then the first four odd ones of 16 (2^(-1/2), 2^(-3/2), …).
    extra = [2 ** (-h / 2) for h in (1, 3, 5, 7)]
    assert alibi_slopes(12).tolist() == pytest.approx([2.0**-h for h in range(1, 9)] + extra)


def test_the_gap_is_the_largest_over_landmarks_known_to_both() -> None:
    here = torch.tensor([[3, -1, 10], [-1, 2, 0], [5, 5, 5]])
    there = torch.tensor([[1, 50, 4], [7, -1, -1], [5, 5, 5]])
    assert landmark_gap(here, there).tolist() == [6, 0, 0]
    assert landmark_gap(here[:, :0], there[:, :0]).tolist() == [0, 0, 0]


def test_the_gap_bounds_the_distance_on_a_path() -> None:
    """The seed's sum over 64 landmarks called a distance of 10 on a path of 128 tokens 616."""
    path, landmarks = torch.arange(128), torch.arange(0, 128, 2)
    coordinates = (path[:, None] - landmarks).abs()
    gaps = landmark_gap(coordinates[:, None], coordinates)
    distance = (path[:, None] - path).abs()
    assert (gaps <= distance).all()
    assert gaps[20, 30] == 10


def _attention_inputs(model: SOSM, ids: Tensor) -> tuple[LayerView, Tensor]:
    """What the last layer gets: its view and its input."""
    got: list[tuple[LayerView, Tensor]] = []
    hook = model.blocks[-1].mixer.register_forward_pre_hook(
        lambda _, inputs: got.append((inputs[1], inputs[0]))
    )
    with torch.no_grad():
        model(ids)
    hook.remove()
    return got[0]


def test_alibi_over_edges_is_alibi_when_every_edge_is_there() -> None:
    values = {"graph.window": 64, "graph.semantic": False, "attention.positions": "alibi"}
    model = build("as recommended")
    model = SOSM(model.config.override(values)).double().eval()
    layer = model.blocks[-1].mixer
    view, x = _attention_inputs(model, text(1, 30))
    with torch.no_grad():
        layer.similarity_scale.zero_()
        got, _ = layer(x, view, None)
        q, k, v = layer.qkv(x).view(1, 30, 6, -1).transpose(1, 2).chunk(3, dim=1)
        i = torch.arange(30)
        bias = -torch.tensor([2.0**-4, 2.0**-8])[:, None, None] * (i[:, None] - i)
        bias = bias.masked_fill(i > i[:, None], -torch.inf).double()
        want = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        torch.testing.assert_close(got, layer.out(want.transpose(1, 2).flatten(2)))


def test_graph_alibi_takes_the_bound_from_each_edge() -> None:
    model = build("as recommended")
    model = SOSM(model.config.override({"attention.positions": "none"})).eval()
    layer, ids = model.blocks[-1].mixer, text(2, 30)
    view, _ = _attention_inputs(model, ids)
    assert view.graph is not None
    coordinates = torch.randint(-1, 6, (2, 30, 5), dtype=torch.int32)
    view = replace(view, edge_gaps=edge_gaps(replace(view.graph, coordinates=coordinates)))
    plain = layer.edge_bias(view)
    layer.positions, layer.heads.biased = "graph_alibi", True
    taken = (plain - layer.edge_bias(view)).detach()
    slopes = [2.0**-4, 2.0**-8]
    for b, i, e in ((0, 0, 0), (0, 12, 3), (1, 29, 5), (1, 20, 1)):
        j = int(view.graph.neighbors[b, i, e])
        both = [(int(m), int(n)) for m, n in zip(coordinates[b, i], coordinates[b, j])]
        gap = max((abs(m - n) for m, n in both if m >= 0 and n >= 0), default=0)
        assert taken[b, :, i, e].tolist() == pytest.approx([s * gap for s in slopes], abs=1e-6)


def test_old_configurations_say_rope() -> None:
    tree = SOSMConfig.preset("default").to_dict()
    del tree["attention"]["positions"]
    for old, new in ((True, "rope"), (False, "none")):
        tree["attention"]["rope"] = old
        assert SOSMConfig.from_dict(tree).attention.positions == new
