"""Edge rules that a researcher adds by name: what else should a token look at?

A rule is a function `rule(known, config) -> targets [B,T,M]`: for each new token the positions of
those it should look at, −1 where there is none; M does not depend on the text. `known` is what the
graph knows (`graph_stream.Known`): positions [B,T] of the new tokens, and the features, states and
temporal states of all of them, up to the newest. A rule is asked for new tokens alone, with a text
given at once or token by token, so a row must not depend on how many tokens came with it, nor on
later ones. The graph drops targets that a row may not look at; a rule that peeks in choosing is
found by the causality audit and by the invariant tests, which every registered rule joins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from state_core.errors import ConfigError, InputError, nearest

if TYPE_CHECKING:
    from state_core.config import GraphConfig
    from state_core.graph.graph_stream import Known

Rule: TypeAlias = "Callable[[Known, GraphConfig], Tensor]"

_RULES: dict[str, Rule] = {}


def register_rule(name: str, rule: Rule) -> None:
    """Make `name` a valid `graph.rule`; ConfigError if the name is taken."""
    if name in _RULES or name == "none":
        raise ConfigError(f"an edge rule named {name!r} is registered already")
    _RULES[name] = rule


def rule_names() -> list[str]:
    return list(_RULES)


def get_rule(name: str) -> Rule:
    """ConfigError, naming the nearest, if there is none of that name."""
    if name not in _RULES:
        known = ["none", *_RULES]
        raise ConfigError(f"unknown edge rule {name!r}: {nearest(name, known)}")
    return _RULES[name]


@torch.no_grad()
def apply_rule(known: Known, config: GraphConfig) -> Tensor:
    """The targets [B,T,M] int32 of the configuration's rule; InputError if it gives anything else.

    Targets that are no earlier token are the graph's to drop.
    """
    targets = get_rule(config.rule)(known, config)
    batch_and_length = known.positions.shape
    if targets.dim() != 3 or targets.shape[:2] != batch_and_length or targets.is_floating_point():
        raise InputError(
            f"the edge rule {config.rule!r} must give integers of shape "
            f"[{batch_and_length[0]}, {batch_and_length[1]}, M], "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    return targets.to(torch.int32)
