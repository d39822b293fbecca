"""AdamW with weight decay on matrices only, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from state_core.config import TrainConfig
from state_core.errors import CheckpointError


def decayed_parameters(model: nn.Module) -> list[str]:
    """Names of the weights that decay: matrices, but no embedding tables.

    Norms, biases, convolution kernels and the SSM's A_log, D and dt_bias keep their size: to shrink
    them changes what they mean rather than how much they say.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "bias" not in name and id(parameter) not in tables
    ]


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 1711.05101), fused; the rate is set before each step.

    Where K-1 scales updates, every parameter is a group, with a rate of its own.
    """
    named = dict(model.named_parameters())
    decayed = set(decayed_parameters(model))
    if train.k1_strength:
        alone = [
            {"params": [p], "name": n, "weight_decay": train.weight_decay if n in decayed else 0.0}
            for n, p in named.items()
        ]
        return torch.optim.AdamW(alone, lr=train.lr, betas=train.betas, fused=True)
    groups = [
        {"params": [named[n] for n in named if n in decayed], "weight_decay": train.weight_decay},
        {"params": [named[n] for n in named if n not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scale_learning_rates(optimizer: torch.optim.Optimizer, scales: Mapping[str, float]) -> None:
    """Scale the rates of groups that are one parameter each, by its name."""
    for group in optimizer.param_groups:
        group["lr"] *= scales[group["name"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `parameter|entry` → tensor."""
    return {
        f"{name}|{entry}": value.detach()
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("|")
        if name not in parameters:
            raise CheckpointError(f"the optimizer's state names no parameter of the model: {name}")
        parameter = parameters[name]
        optimizer.state[parameter][entry] = tensor.to(parameter.device, copy=True)
