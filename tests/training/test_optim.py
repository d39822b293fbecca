from __future__ import annotations

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.errors import CheckpointError
from state_core.training.optim import (
    build_optimizer,
    decayed_parameters,
    load_optimizer,
    optimizer_tensors,
    scale_learning_rates,
    set_learning_rate,
)


def test_only_matrices_decay(tiny: SOSMConfig) -> None:
    model = SOSM(tiny)
    decayed = decayed_parameters(model)
    kept = {n for n, _ in model.named_parameters()} - set(decayed)
    assert "embedding.expand.weight" in decayed
    assert "embedding.codes.weight" in kept
    for word in ("norm", "bias", "A_log", "dt_bias", "conv1d", ".D"):
        assert not [name for name in decayed if word in name], word
    assert all(model.get_parameter(name).ndim == 2 for name in decayed)
    groups = build_optimizer(model, tiny.train).param_groups
    assert [g["weight_decay"] for g in groups] == [tiny.train.weight_decay, 0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_its_state_survives_as_tensors(tiny: SOSMConfig) -> None:
    models = [SOSM(tiny), SOSM(tiny)]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (build_optimizer(m, tiny.train) for m in models)

    def step(model: SOSM, optimizer: torch.optim.Optimizer) -> None:
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * i)
        optimizer.step()

    step(models[0], first)
    models[1].load_state_dict(models[0].state_dict())
    load_optimizer(second, models[1], optimizer_tensors(first, models[0]))
    for model, optimizer in zip(models, (first, second)):
        step(model, optimizer)
    pairs = zip(models[0].parameters(), models[1].parameters())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_foreign_state_is_refused(tiny: SOSMConfig) -> None:
    model = SOSM(tiny)
    with pytest.raises(CheckpointError, match=r"no parameter of the model: other\.weight"):
        load_optimizer(
            build_optimizer(model, tiny.train), model, {"other.weight|exp_avg": torch.zeros(1)}
        )


def test_scaled_rates_scale_the_update_which_scaled_gradients_would_not(tiny: SOSMConfig) -> None:
    config = tiny.override({"train.k1_strength": 0.5, "train.weight_decay": 0.0})
    model = SOSM(config)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, config.train)
    names = [name for name, _ in model.named_parameters()]
    scales = {name: 1 / (1 + n) for n, name in enumerate(names)}
    for n, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 1.0 + n)
    set_learning_rate(optimizer, 1e-2)
    scale_learning_rates(optimizer, scales)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter.detach()).mean().item()
        assert moved == pytest.approx(1e-2 * scales[name], rel=1e-2)
