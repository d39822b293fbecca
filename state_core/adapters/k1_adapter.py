"""K-1: which part of the model does the loss hold responsible, and who is to change for it?

Responsibility is read off the gradients that a backward pass left, before the optimizer steps, and
laid over the model's own tree of modules. A node has two shares, and the children's shares of
either kind add up to their parent's:

    raw         ‖g_p‖² of the parameters below it, over that of all parameters: large parts weigh in
                by their size
    normalised  rms(g_p) = ‖g_p‖ / √n_p summed likewise: what a single number of the part feels

To read them changes nothing about training (analysis mode). `update_scales` turns them into how far
each parameter may move (intervention mode, `train.k1_strength`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from state_core.errors import InputError, nearest


@dataclass
class Responsibility:
    """The share of one module or parameter, named by its path; the root's path is empty."""

    path: str
    raw: float = 0.0
    normalised: float = 0.0
    parameters: int = 0
    children: dict[str, Responsibility] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Responsibility]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child

    def find(self, path: str) -> Responsibility:
        """The node at a path such as `blocks.0.mixer`; InputError names the nearest."""
        nodes = {node.path: node for node in self}
        if path not in nodes:
            raise InputError(f"no part of the model is at {path!r}: {nearest(path, nodes)}")
        return nodes[path]

    def to_dict(self, depth: int | None = None) -> dict[str, Any]:
        """Path → [raw, normalised], down to `depth` levels below the root."""
        levels = math.inf if depth is None else depth
        return {
            node.path: [node.raw, node.normalised]
            for node in self
            if node.path.count(".") + bool(node.path) <= levels
        }


def responsibility(model: nn.Module) -> Responsibility:
    """The tree of shares for the gradients that `model` holds now.

    A parameter without a gradient has share 0. InputError if no parameter has one: call it between
    the backward pass and the optimizer's step.
    """
    root = Responsibility("")
    for name, parameter in model.named_parameters():
        norm = 0.0 if parameter.grad is None else float(parameter.grad.detach().double().norm())
        leaf = _leaf(root, name)
        leaf.parameters = parameter.numel()
        leaf.raw, leaf.normalised = norm**2, norm / math.sqrt(max(1, parameter.numel()))
    if all(parameter.grad is None for parameter in model.parameters()):
        raise InputError(
            "no parameter has a gradient: read responsibilities after loss.backward() and before "
            "the optimizer's step"
        )
    _sum_up(root)
    raw, normalised = root.raw or 1.0, root.normalised or 1.0
    for node in root:
        node.raw, node.normalised = node.raw / raw, node.normalised / normalised
    return root


def update_scales(root: Responsibility, strength: float) -> dict[str, float]:
    """By how much K-1 scales the update of each parameter, by its name: in [0, 1].

    From the root down, each child is scaled by its normalised share over the largest among its
    siblings, to the power of `strength`, on top of its parent. The path of the most responsible
    parts moves freely, everything else the less, the further off it lies; at strength 0 all is 1.

    It is the update that must be scaled: Adam divides by the size of the gradients, so that
    parameters with scaled gradients move as far as before.
    """
    scales: dict[str, float] = {}
    _descend(root, 1.0, strength, scales)
    return scales


def _descend(node: Responsibility, scale: float, strength: float, scales: dict[str, float]) -> None:
    if not node.children:
        scales[node.path] = scale
        return
    most = max(child.normalised for child in node.children.values())
    for child in node.children.values():
        beside = (child.normalised / most) ** strength if most else 1.0
        _descend(child, scale * beside, strength, scales)


def mean_scale(root: Responsibility, scales: dict[str, float]) -> float:
    """What is left of the learning rate, on average over all numbers of the model."""
    return math.fsum(scales[n.path] * n.parameters for n in root if n.path in scales) / max(
        1, root.parameters
    )


def _leaf(root: Responsibility, name: str) -> Responsibility:
    node = root
    for part in name.split("."):
        path = f"{node.path}.{part}" if node.path else part
        node = node.children.setdefault(part, Responsibility(path))
    return node


def _sum_up(node: Responsibility) -> None:
    for child in node.children.values():
        _sum_up(child)
    if node.children:
        node.raw = math.fsum(child.raw for child in node.children.values())
        node.normalised = math.fsum(child.normalised for child in node.children.values())
        node.parameters = sum(child.parameters for child in node.children.values())
