"""Baselines that differ from a SOSM in nothing but the architecture."""

from __future__ import annotations

from typing import Literal

import torch

from state_core.config import SOSMConfig
from state_core.errors import ConfigError, nearest
from state_core.pipeline import SOSM

MIXERS = {"transformer": "attention", "mamba2": "mamba"}
TOLERANCE = 0.02
STEP = 4  # hidden widths are multiples of this

Baseline = Literal["transformer", "mamba2"]


def matched_baseline(config: SOSMConfig, kind: Baseline) -> SOSMConfig:
    """A Llama-style transformer or a pure Mamba-2 of as many parameters (±2 %) as `config`.

    Vocabulary, widths, text and training stay; graph and pointer go. The width of the MLPs takes up
    the difference, and layers are added or removed where it would leave one to four times d_model.
    ConfigError if no such width exists.
    """
    if kind not in MIXERS:
        raise ConfigError(f"unknown baseline {kind!r}: {nearest(kind, MIXERS)}")
    target = count_parameters(config)
    n = len(config.layers)
    depths = sorted(range(1, 4 * n + 1), key=lambda depth: (abs(depth - n), -depth))
    matched: SOSMConfig | None = None
    for depth in depths:
        candidate = _fit(config, MIXERS[kind], depth, target)
        if candidate is None or not _close(count_parameters(candidate), target):
            continue
        if config.d_model <= candidate.mlp_hidden <= 4 * config.d_model:
            return candidate
        matched = matched or candidate
    if matched is None:
        raise ConfigError(f"no {kind} of d_model {config.d_model} has {target:,} parameters (±2 %)")
    return matched


def widened(config: SOSMConfig, parameters: int) -> SOSMConfig:
    """`config` with MLPs so wide, or narrow, that it has so many parameters (±2 %).

    For comparing architectures at equal size. ConfigError if no width does it.
    """
    found = _of_size(config, parameters)
    if found is None or not _close(count_parameters(found), parameters):
        raise ConfigError(
            f"no width of the MLPs gives {parameters:,} parameters (±2 %): the configuration has "
            f"{count_parameters(config):,} with mlp_hidden {config.mlp_hidden}"
        )
    return found


def count_parameters(config: SOSMConfig) -> int:
    """How many parameters a model has, without allocating them."""
    with torch.device("meta"):
        return SOSM(config).num_parameters()


def _fit(config: SOSMConfig, mixer: str, depth: int, target: int) -> SOSMConfig | None:
    """The widest MLP that `depth` layers of a mixer can have, None if there is no room for one."""
    plain = config.override(
        {
            "layers": [mixer] * depth,
            "graph.enabled": False,
            "pointer.enabled": False,
            "attention.positions": config.attention.positions.removeprefix("graph_"),
            "attention.differential": False,
            "attention.multi_block": False,
            "mamba.topological": False,
            "memory.enabled": False,
            "moe.routing": "none",
        }
    )
    return _of_size(plain, target)


def _of_size(config: SOSMConfig, target: int) -> SOSMConfig | None:
    """`config` with the width of the MLPs that comes closest, None if there is no room for any."""
    narrow = config.override({"mlp_hidden": STEP})
    one = count_parameters(narrow)
    slope = count_parameters(narrow.override({"mlp_hidden": 2 * STEP})) - one
    steps = 1 + round((target - one) / slope)
    return narrow.override({"mlp_hidden": STEP * steps}) if steps > 0 else None


def _close(count: int, target: int) -> bool:
    return abs(count - target) <= TOLERANCE * target
