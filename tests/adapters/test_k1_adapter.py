from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from state_core import SOSM, SOSMConfig
from state_core.adapters.k1_adapter import mean_scale, responsibility, update_scales
from state_core.errors import InputError


@pytest.fixture
def model() -> SOSM:
    config = SOSMConfig.preset("default", vocab_size=40).override(
        {"d_model": 16, "embed_rank": 8, "layers": ["mamba", "graph_attention"], "mlp_hidden": 8,
         "attention.n_heads": 2, "mamba.headdim": 8, "mamba.d_state": 4}
    )  # fmt: skip
    model = SOSM(config)
    ids = torch.randint(40, (2, 30))
    loss = model(ids, labels=ids).loss
    loss.backward()
    return model


def test_shares_are_of_the_gradients(model: SOSM) -> None:
    root = responsibility(model)
    grads = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    total = sum(float(g.square().sum()) for g in grads.values())
    rms = {n: float(g.square().mean().sqrt()) for n, g in grads.items()}
    for name, grad in grads.items():
        node = root.find(name)
        assert node.raw == pytest.approx(float(grad.square().sum()) / total, rel=1e-9, abs=1e-15)
        expected = rms[name] / sum(rms.values())
        assert node.normalised == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_children_add_up_to_their_parent(model: SOSM) -> None:
    root = responsibility(model)
    assert root.raw == root.normalised == 1
    assert root.parameters == model.num_parameters()
    inner = [node for node in root if node.children]
    assert len(inner) > 10
    for node in inner:
        children = node.children.values()
        assert math.fsum(c.raw for c in children) == pytest.approx(node.raw, abs=1e-14)
        assert math.fsum(c.normalised for c in children) == pytest.approx(
            node.normalised, abs=1e-14
        )


def test_it_is_deterministic_and_changes_nothing(model: SOSM) -> None:
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    random = torch.get_rng_state()
    assert responsibility(model).to_dict() == responsibility(model).to_dict()
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert all(torch.equal(model.get_parameter(n).grad, g) for n, g in grads.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_size_weighs_in_one_share_only() -> None:
    model = nn.ModuleDict({"small": nn.Linear(1, 1, bias=False), "large": nn.Linear(9, 1, False)})
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    root = responsibility(model)
    assert root.find("large").raw == pytest.approx(0.9)
    assert root.find("large").normalised == pytest.approx(0.5)


def test_a_part_without_gradient_has_no_share(model: SOSM) -> None:
    model.norm.weight.grad = None
    assert responsibility(model).find("norm").raw == 0


def test_depth_limits_what_is_logged(model: SOSM) -> None:
    root = responsibility(model)
    assert set(root.to_dict(0)) == {""}
    assert "blocks" in root.to_dict(1)
    assert "blocks.0" not in root.to_dict(1)
    assert len(root.to_dict()) == len(list(root))


def test_bad_use_is_an_error(model: SOSM) -> None:
    with pytest.raises(InputError, match=r"blocks\.0\.mixer"):
        responsibility(model).find("blocks.0.mixr")
    model.zero_grad(set_to_none=True)
    with pytest.raises(InputError, match="before the optimizer's step"):
        responsibility(model)


def test_updates_are_scaled_along_the_path_of_responsibility() -> None:
    model = nn.ModuleDict(
        {
            "guilty": nn.ModuleDict(
                {"most": nn.Linear(4, 4, False), "less": nn.Linear(4, 4, False)}
            ),
            "other": nn.ModuleDict({"most": nn.Linear(4, 4, False)}),
            "none": nn.Linear(4, 4, False),
        }
    )
    grads = {"guilty.most": 6.0, "guilty.less": 2.0, "other.most": 4.0, "none": 0.0}
    for name, size in grads.items():
        weight = model.get_submodule(name).weight
        weight.grad = torch.full_like(weight, size)
    root = responsibility(model)
    expected = {"guilty.most": 1.0, "guilty.less": 2 / 6, "other.most": 4 / 8, "none": 0.0}
    for strength in (0.5, 1.0, 2.0):
        scales = update_scales(root, strength)
        for name, share in expected.items():
            assert scales[f"{name}.weight"] == pytest.approx(share**strength)
    assert mean_scale(root, update_scales(root, 1.0)) == pytest.approx((1 + 1 / 3 + 0.5) / 4)
    assert set(update_scales(root, 0.0).values()) == {1.0}


def test_the_most_responsible_path_moves_freely(model: SOSM) -> None:
    root = responsibility(model)
    scales = update_scales(root, 0.5)
    assert set(scales) == {name for name, _ in model.named_parameters()}
    assert all(0 <= scale <= 1 for scale in scales.values())
    node = root
    while node.children:
        node = max(node.children.values(), key=lambda child: child.normalised)
    assert scales[node.path] == 1
    assert min(scales.values()) < 0.5
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    assert set(update_scales(responsibility(model), 1.0).values()) == {1.0}
