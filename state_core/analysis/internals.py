"""The names of a model's internals, and a forward pass that keeps those asked for.

    internals(model)                           # {"blocks.3.attn.pattern": "[B,H,T,E]", …}
    out, cache = run_with_cache(model, ids, names=["state.R2", "blocks.*.mamba.delta"])

What is read is the model itself: a run that keeps something computes, bit for bit, what it would
have computed anyway. Only what is asked for is kept.

Letters: B texts, T tokens, S tokens known, D model width, H heads, E edges of a row, K items
recalled; in Mamba E inner width, P channels of a head, G groups, N state size.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from state_core.errors import InputError, nearest
from state_core.layers.point import Point
from state_core.output import SOSMOutput
from state_core.pipeline import Backbone
from state_core.state import State

Cache = dict[str, Tensor]
# Where the tree says how a block is built, the name says what it is.
RENAMED = {"mixed": "mixer", "fed_forward": "mlp"}
GRAPH = {
    "neighbors": "[B,T,E]",
    "counts": "[B,T]",
    "kinds": "[B,T,E]",
    "weights": "[B,T,E]",
    "log_gates": "[B,T,E]",
    "coordinates": "[B,S,L]",
    "degree": "[B,T,2]",
    "walk": "[B,T,steps]",
}


@dataclass(frozen=True)
class Internal:
    """A tensor of a model that has a name: where it runs through, and what of that it is."""

    name: str
    shape: str
    point: Point
    read: Callable[[Any], Tensor | None]
    write: Callable[[Any, Tensor], Any]

    @property
    def letters(self) -> list[str]:
        """What each axis is."""
        return self.shape.strip("[]").split(",")


def internals(model: Backbone) -> dict[str, str]:
    """Every name with the shape of what it names."""
    return {internal.name: internal.shape for internal in _internals(model)}


def find(model: Backbone, names: str | Iterable[str]) -> list[Internal]:
    """The internals of names, in which * stands for anything. InputError, naming the nearest, if a
    name is none."""
    known = {internal.name: internal for internal in _internals(model)}
    wanted = [names] if isinstance(names, str) else list(names)
    found: dict[str, Internal] = {}
    for name in wanted:
        matching = fnmatch.filter(known, name) if "*" in name else [n for n in known if n == name]
        if not matching:
            raise InputError(f"this model has no internal {name!r}: {nearest(name, known)}")
        found |= {n: known[n] for n in matching}
    return list(found.values())


def run_with_cache(
    model: Backbone, ids: Tensor, names: str | Iterable[str], **options: Any
) -> tuple[SOSMOutput, Cache]:
    """Read ids [B,T], and keep the internals of `names`; options as for the model.

    What is kept carries gradients if the run does. An internal that the run did not come by, as the
    gates of a graph without any, is not in the cache.
    """
    cache: Cache = {}
    with keeping(model, names, cache):
        out: SOSMOutput = model(ids, **options)
    return out, cache


@contextmanager
def keeping(model: Backbone, names: str | Iterable[str], cache: Cache) -> Iterator[Cache]:
    """While it lasts, every forward pass puts the internals of `names` into `cache`."""
    with ExitStack() as stack:
        for internal in find(model, names):
            hook = internal.point.register_forward_hook(_keep(internal, cache))
            stack.callback(hook.remove)
        yield cache


def _keep(internal: Internal, cache: Cache) -> Callable[..., None]:
    def hook(_module: nn.Module, _given: Any, value: Any) -> None:
        found = internal.read(value)
        if found is not None:
            cache[internal.name] = _alone(found)

    return hook


def _alone(value: Tensor) -> Tensor:
    """Without what it was cut from, which a view would keep; with gradients that is kept anyhow,
    and the value itself is what they are taken by."""
    cut = value.untyped_storage().nbytes() > value.numel() * value.element_size()
    return value.clone() if cut and not value.requires_grad else value


def _internals(model: Backbone) -> Iterator[Internal]:
    for path, module in model.named_modules():
        if not isinstance(module, Point):
            continue
        if module.shape == "State":
            yield from _of_state(model, module)
        elif module.shape == "TokenGraph":
            yield from _of_graph(module)
        else:
            name = _name(model, path)
            yield Internal(name, module.shape, module, _itself, _instead)


def _of_state(model: Backbone, point: Point) -> Iterator[Internal]:
    for n, block in enumerate(model.mu.layout):
        write = partial(_with_block, n=n)
        yield Internal(f"state.{block}", "[B,T,4]", point, partial(_block, n=n), write)
    yield _field("state", "temporal", "[B,T,P]", point)


def _of_graph(point: Point) -> Iterator[Internal]:
    for field, shape in GRAPH.items():
        yield _field("graph", field, shape, point)


def _field(of: str, field: str, shape: str, point: Point) -> Internal:
    """A tensor that a dataclass holds."""
    write = partial(_with_field, field=field)
    return Internal(f"{of}.{field}", shape, point, attrgetter(field), write)


def _block(state: State, n: int) -> Tensor:
    return state.semantic[:, :, n]


def _with_block(state: State, new: Tensor, n: int) -> State:
    blocks = [*state.semantic.unbind(2)]
    blocks[n] = new
    return replace(state, semantic=torch.stack(blocks, dim=2))


def _with_field(whole: Any, new: Tensor, field: str) -> Any:
    return replace(whole, **{field: new})


def _itself(value: Tensor) -> Tensor:
    return value


def _instead(_: Tensor, new: Tensor) -> Tensor:
    return new


def _name(model: Backbone, path: str) -> str:
    """`blocks.3.mixer.q` → `blocks.3.attn.q`."""
    parts = [RENAMED.get(part, part) for part in path.split(".")]
    if len(parts) > 3 and parts[0] == "blocks" and parts[2] == "mixer":
        parts[2] = mixer_name(model, int(parts[1]))
    return ".".join(parts)


def mixer_name(model: Backbone, layer: int) -> str:
    """What names call the mixer of a layer: `attn` for any attention, else as it is registered."""
    mixer = model.config.layers[layer]
    return "attn" if mixer.endswith("attention") else mixer
