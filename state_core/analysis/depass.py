"""DePass: a prediction as the sum of what each part of the model or of the text gives to it.

    parts = decompose(model, ids, by="token", position=40)
    parts.logits(word)                             # [N]: they add up to the word's logit
    parts.table(word)

A decomposed forward pass (Hong et al. 2025, arXiv 2510.18462): the first residual stream is split
into components, and each goes through all layers by itself, with attention patterns, gates, Δ, B
and C, routing and norms frozen at what the real run had. Every layer is linear then, so that the
components add up to the last hidden state and, by the head, to the logits; `error` measures how far
off they are. What is exact about that and what a convention, `analysis.frozen` says of each layer.

    token      where content entered the text. A token's embedding and all of its state is its own,
               also what its state gathered from earlier tokens
    block      what content began as: the word's embedding, a block of its state, the graph encoding
    edge_kind  by which kind of edge content came last; an edge to oneself and Mamba, which has no
               edges, leave its name as it is
    expert     which expert wrote it last
    memory     which item of memory it was read from, by a graph attention layer
    layer      which mixer or feed-forward wrote it last
    head       which head of a mixer wrote it last

Of edges, experts, layers and heads a component is all that is written there, followed through the
layers above until something of the same sort reads it and writes anew; with `layer=n` only what
that layer writes gets such names, as in the paper. Two components belong to nothing that is read:
`bias` of what the model's biases write, and `memory` (or each item) of what came from another text.

The pointer head is no part of this: its votes do not run through the residual stream, and
`out.explain_prediction` and `attribute` name them. `logits` are those of the vocabulary head.

N components, T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from state_core.analysis.frozen import STAYS, Frozen, Seen, freeze, frozen_scale
from state_core.analysis.internals import Cache, mixer_name, run_with_cache
from state_core.errors import InputError, nearest
from state_core.layers.graph_attention import memory_layer
from state_core.layers.norm import RMSNorm
from state_core.memory.text_memory import TextMemory
from state_core.output import SOSMOutput
from state_core.pipeline import SOSM, Block
from state_core.state import BLOCK_WIDTH

if TYPE_CHECKING:
    from rich.table import Table

BEGINS = {"edge_kind": "no edge", "expert": "no expert", "memory": "text", "layer": "embed",
          "head": "no head"}  # fmt: skip
WAYS = ("token", "block", *BEGINS)
WORKING_NUMBERS = 1 << 23
"""How many numbers the components under way may have in one layer, some 32 MB of float32."""

Write = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """components [N,D], or [N,T,D] of every position, which add up to `hidden` [D] or [T,D]."""

    by: str
    names: tuple[str, ...]
    components: Tensor
    hidden: Tensor
    vocabulary_logits: Callable[[Tensor], Tensor] = field(repr=False)

    @property
    def error(self) -> float:
        """How far the sum is from the hidden state of the real run, relative to its size."""
        missed = self.components.sum(0) - self.hidden
        return float(missed.norm() / self.hidden.norm())

    @torch.no_grad()
    def logits(self, token: int) -> Tensor:
        """What each component gives to a word's logit in the vocabulary head, [N] or [N,T].
        InputError for a word that is none."""
        logits = self.vocabulary_logits(self.components)
        if not 0 <= token < logits.shape[-1]:
            raise InputError(f"token {token} is out of range: the vocabulary has "
                             f"{logits.shape[-1]}")  # fmt: skip
        return logits[..., token]

    def find(self, name: str) -> Tensor:
        """One component, [D] or [T,D]; InputError names the nearest."""
        if name not in self.names:
            raise InputError(f"no component is {name!r}: {nearest(name, self.names)}")
        return self.components[self.names.index(name)]

    def table(self, token: int, tokens: list[str] | None = None, count: int = 12) -> Table:
        """The components that say most for or against a word. tokens [T]: their texts, to name
        components by. InputError for a decomposition of every position."""
        from rich.table import Table

        if self.components.dim() == 3:
            raise InputError("a table is of one position: call decompose(..., position=…)")
        logits = self.logits(token)
        table = Table("component", title_justify="left", box=None, pad_edge=False)
        table.title = f"logit {float(logits.sum()):+.3f}, by {self.by}"
        table.add_column("logit", justify="right")
        for n in logits.abs().argsort(descending=True, stable=True)[:count].tolist():
            name = self.names[n]
            if tokens is not None and name.startswith("token "):
                name += f" {tokens[int(name.removeprefix('token '))]!r}"
            table.add_row(name, f"{float(logits[n]):+.3f}")
        return table


@torch.no_grad()
def decompose(
    model: SOSM,
    ids: Tensor,
    by: str = "token",
    position: int | None = None,
    *,
    text: int = 0,
    layer: int | None = None,
    memory: TextMemory | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Decomposition:
    """What `model` made of one text of ids [B,T], split by `by`.

    position: of one token, which is quicker and needs N·D numbers in place of N·T·D; components go
    through the layers a few at a time, so that no more is held than that. layer: name what this
    layer alone writes. progress: told how many components are done, and of how many.
    InputError for what is not there, or a model in training.
    """
    _check(model, ids, by, position, text, layer, memory)
    ids = ids[text : text + 1, : None if position is None else position + 1]
    own_memory = None if memory is None else memory.row(text)
    options: dict[str, Any] = {"return_graph": True, "return_state": True, "memory": own_memory}
    out, cache = run_with_cache(model, ids, ["embed", "blocks.*"], **options)
    stages = list(_stages(model, out, cache, by, layer))
    begins = _begins(model, ids, out, cache, by)
    names = list(dict.fromkeys([*begins, *(name for stage in stages for name in stage.writes)]))
    if by in BEGINS and by != "memory" and not any(stage.named for stage in stages):
        raise InputError(f"nothing in this model, or in this layer, is named by {by!r}")
    last = frozen_scale(model.norm, cache[f"blocks.{len(model.blocks) - 1}.output"][0])
    at = slice(None) if position is None else slice(position, position + 1)
    done: list[Tensor] = []
    at_once = max(1, WORKING_NUMBERS // (ids.shape[1] * _widest(model, out)))
    for first in range(0, len(names), at_once):
        chunk = names[first : first + at_once]
        done.append(_propagate(chunk, begins, stages, last)[:, at])
        progress(min(first + at_once, len(names)), len(names))
    components, hidden = torch.cat(done), out.hidden[0, at]
    if position is not None:
        components, hidden = components[:, 0], hidden[0]
    return Decomposition(by, tuple(names), components, hidden, model.embedding.logits)


@dataclass(frozen=True)
class _Stage:
    """A mixer or a feed-forward: the norm's scale [T,D], what carries components on under their
    names, and what is written under names of its own; named: whether `by` has names here."""

    scale: Tensor
    carry: Frozen | None
    writes: Mapping[str, Write]
    named: bool


def _propagate(
    names: list[str], begins: Mapping[str, Write], stages: Iterable[_Stage], last: Tensor
) -> Tensor:
    """The components of these names after the last norm, [N,T,D]."""
    zero = torch.zeros_like(last)
    x = torch.stack([begins[name]() if name in begins else zero for name in names])
    for stage in stages:
        y = torch.zeros_like(x) if stage.carry is None else stage.carry(x * stage.scale)
        for n, name in enumerate(names):
            if name in stage.writes:
                y[n] += stage.writes[name]()
        x = x + y
    return x * last


def _stages(
    model: SOSM, out: SOSMOutput, cache: Cache, by: str, layer: int | None
) -> Iterable[_Stage]:
    """Every mixer and feed-forward, in the order in which the residual stream passes them."""
    for i, module in enumerate(model.blocks):
        block, prefix = cast(Block, module), f"blocks.{i}"
        chosen = by if layer in (None, i) else ""
        x = cache[f"{prefix}.input"][0]
        mixer = mixer_name(model, i)
        points = {
            name.removeprefix(f"{prefix}.{mixer}."): value
            for name, value in cache.items()
            if name.startswith(f"{prefix}.{mixer}.")
        }
        recalled = out.recalled if i == memory_layer(model.config) else None
        seen = Seen(points, out.graph, recalled)
        yield _stage(block.mixer_norm, block.mixer, x, seen, f"{prefix}.{mixer}", by, chosen)
        fed = _feed_forward(block)
        if fed is None:
            continue
        x = x + cache[f"{prefix}.mixer"][0]
        yield _stage(*fed, x, Seen({}, out.graph, None), f"{prefix}.mlp", by, chosen)


def _feed_forward(block: Block) -> tuple[RMSNorm, nn.Module] | None:
    """Its norm and what comes after that, where a block has one."""
    if block.mlp is not None:
        norm, inner = block.mlp
        return cast(RMSNorm, norm), inner
    return None if block.routed is None else (block.routed.norm, block.routed.router)


def _stage(
    norm: RMSNorm, module: nn.Module, x: Tensor, seen: Seen, path: str, by: str, chosen: str
) -> _Stage:
    """x [T,D]: the residual stream before it; chosen: what its parts are named by, "" for not."""
    scale = frozen_scale(norm, x)
    given = x * scale
    frozen = freeze(module, given, seen)
    parts = {path: frozen} if chosen == "layer" else dict(frozen.parts(chosen))
    carry = parts.pop(STAYS, None)
    # Edges of a kind are the same in every layer; heads, experts and layers are each their own.
    inside = chosen in ("head", "expert")
    writes: dict[str, Write] = {
        f"{path}/{name}" if inside else name: _written(part, given) for name, part in parts.items()
    }
    return _Stage(scale, carry, {**writes, **frozen.constants(by)}, bool(parts))


def _written(part: Frozen, given: Tensor) -> Write:
    return lambda: part(given[None])[0]


def _begins(
    model: SOSM, ids: Tensor, out: SOSMOutput, cache: Cache, by: str
) -> Mapping[str, Write]:
    """The components of the first residual stream."""
    x = cache["embed"][0]
    if by == "token":
        return {f"token {t}": _row_alone(x, t) for t in range(len(x))}
    if by != "block":
        return {BEGINS[by]: lambda: x}
    found: dict[str, Tensor] = {"token": model.embedding(ids)[1][0]}
    state = out.state
    if state is not None:
        widths = [BLOCK_WIDTH] * len(state.layout) + [model.config.state.temporal_dim]
        columns = model.read_state.weight.split(widths, dim=1)
        values = [*state.semantic[0].unbind(1), state.temporal[0]]
        names = [f"state.{name}" for name in (*state.layout, "temporal")]
        found |= {n: v @ c.T for n, v, c in zip(names, values, columns, strict=True)}
        if model.encoding is not None:
            found["graph.encoding"] = model.encoding(out.graph)[0]
    return {name: _constant(value) for name, value in found.items()}


def _row_alone(x: Tensor, t: int) -> Write:
    def write() -> Tensor:
        alone = torch.zeros_like(x)
        alone[t] = x[t]
        return alone

    return write


def _constant(value: Tensor) -> Write:
    return lambda: value


def _widest(model: SOSM, out: SOSMOutput) -> int:
    """Numbers of a token and component in the widest place of a layer: values on the edges of a
    head, or the channels of Mamba, or of the feed-forward."""
    config = model.config
    widths = [4 * config.d_model, 2 * config.mlp_hidden, 2 * config.moe.hidden]
    if "mamba" in config.layers:
        widths.append(3 * int(config.mamba.expand * config.d_model))
    if "graph_attention" in config.layers and out.graph is not None:
        head_width = config.d_model // config.attention.n_heads
        maps = 2 if config.attention.differential else 1
        widths.append(out.graph.neighbors.shape[-1] * maps * head_width)
    return max(widths)


def _check(
    model: SOSM,
    ids: Tensor,
    by: str,
    position: int | None,
    text: int,
    layer: int | None,
    memory: TextMemory | None,
) -> None:
    if by not in WAYS:
        raise InputError(f"nothing is decomposed by {by!r}: {nearest(by, WAYS)}")
    if model.training:
        raise InputError("dropout cannot be decomposed: call model.eval() first")
    found: dict[str, tuple[Any, int]] = {
        "text": (text, len(ids)),
        "position": (position, ids.shape[-1]),
        "layer": (layer, len(model.blocks)),
    }
    for what, (number, count) in found.items():
        if number is not None and not 0 <= number < count:
            raise InputError(f"{what} {number} is out of range: there are {count}, from 0")
    if layer is not None and by in ("token", "block", "memory"):
        raise InputError(f"layer = {layer} says where content is named, but by = {by!r} names it "
                         "where it enters: leave it out")  # fmt: skip
    if by == "memory" and memory is None:
        raise InputError("by = 'memory' needs the memory that was read: decompose(…, memory=…)")
    if by == "block" and not model.config.graph.enabled:
        raise InputError("by = 'block' needs a model with a state: graph.enabled is false")
