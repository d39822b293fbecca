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
