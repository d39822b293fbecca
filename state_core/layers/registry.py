"""The mixers that a layer can be made of, by name.

A mixer is a module built as `Mixer(config, index)` and called as
`mixer(x [B,T,D], view, state) -> (y [B,T,D], state)`: `view` is what the layers see of the graph
and of the tokens' positions (`layers.view.LayerView`), `state` is what the mixer carries from token
to token (None at the start of a text): tensors, lists or dataclasses of them that are never changed
in place, or an object with `stack` and `snapshot`. A registered mixer joins the configuration, the
invariant tests and the causality audit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from state_core.errors import ConfigError, nearest


@dataclass(frozen=True)
class MixerSpec:
    """Where a mixer comes from: a class, or "module:Class" imported on first use."""

    target: str | Callable[..., nn.Module]
    needs_graph: bool


_MIXERS: dict[str, MixerSpec] = {
    "mamba": MixerSpec("state_core.layers.mamba_mixer:MambaMixer", needs_graph=False),
    "graph_attention": MixerSpec("state_core.layers.graph_attention:GraphAttention", True),
    "attention": MixerSpec("state_core.layers.attention:DenseAttention", needs_graph=False),
}


def register_mixer(name: str, target: Callable[..., nn.Module], *, needs_graph: bool) -> None:
    """Make `name` a valid entry of `config.layers`; ConfigError if the name is taken."""
    if name in _MIXERS:
        raise ConfigError(f"a mixer named {name!r} is registered already")
    _MIXERS[name] = MixerSpec(target, needs_graph)


def mixer_names() -> list[str]:
    return list(_MIXERS)


def needs_graph(name: str) -> bool:
    return _MIXERS[name].needs_graph


def build_mixer(name: str, config: Any, index: int) -> nn.Module:
    """The mixer of layer `index` (0 at the bottom)."""
    if name not in _MIXERS:
        raise ConfigError(f"unknown mixer {name!r}: {nearest(name, _MIXERS)}")
    target = _MIXERS[name].target
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        target = getattr(importlib.import_module(module), attribute)
    return target(config, index)
