"""Changes to a model's internals while it reads: by layer, head, token, state block and edge.

    with intervene(model, zero("blocks.2.attn.z", heads=[1]), mean("state.K")):
        out = model(ids)
    with intervene(model, patch("blocks.1.output", cache["blocks.1.output"], tokens=[5])): …
    with cut_edges(model, kinds=[EdgeKind.SEMANTIC]): …

Names are those of `internals(model)`. When the context ends, by an exception too, the model is as
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from state_core.analysis.internals import Internal, find
from state_core.errors import InputError
from state_core.graph.neighbors import EdgeKind
from state_core.graph.token_graph import TokenGraph
from state_core.pipeline import Backbone

Edit = Callable[[Tensor, Internal], Tensor]


@dataclass(frozen=True)
class Change:
    """What becomes of the internals of a name: of all of them, or of some heads or tokens."""

    name: str
    edit: Edit
    heads: Sequence[int] | None = None
    tokens: Sequence[int] | None = None


def zero(
    name: str, *, heads: Sequence[int] | None = None, tokens: Sequence[int] | None = None
) -> Change:
    """Nothing in its place."""
    return Change(name, lambda x, _: torch.zeros_like(x), heads, tokens)


def mean(
    name: str, *, heads: Sequence[int] | None = None, tokens: Sequence[int] | None = None
) -> Change:
    """Its mean over texts and tokens: what it says of every token alike stays."""
    return Change(name, _token_mean, heads, tokens)


def patch(
    name: str,
    value: Tensor,
    *,
    heads: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
) -> Change:
    """What another run had there, a tensor of the same shape. InputError when they differ."""

    def put(x: Tensor, _: Internal) -> Tensor:
        if value.shape != x.shape:
            raise InputError(
                f"{name} is {list(x.shape)} in this run, the patch is {list(value.shape)}: take it "
                "from a text of as many tokens"
            )
        return value.to(x)

    return Change(name, put, heads, tokens)


def edit(
    name: str,
    change: Callable[[Tensor], Tensor],
    *,
    heads: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
) -> Change:
    """What `change` makes of it: a tensor of the same shape."""
    return Change(name, lambda x, _: change(x), heads, tokens)


@contextmanager
def intervene(model: Backbone, *changes: Change) -> Iterator[None]:
    """While it lasts, the model computes with the changes, in their order."""
    with ExitStack() as stack:
        for change in changes:
            for internal in find(model, change.name):
                hook = internal.point.register_forward_hook(_write(internal, change))
                stack.callback(hook.remove)
        yield


@contextmanager
def cut_edges(
    model: Backbone,
    *,
    kinds: Iterable[EdgeKind] | None = None,
    edges: Iterable[tuple[int, int]] | None = None,
) -> Iterator[None]:
    """While it lasts, the graph lacks all edges of some kinds, or some edges (i, j); if both are
    given, those edges where they are of those kinds. InputError for neither."""
    if kinds is None and edges is None:
        raise InputError("cut_edges takes kinds, edges, or both")
    chosen = None if kinds is None else [int(kind) for kind in kinds]
    pairs = None if edges is None else list(edges)

    def without(_module: nn.Module, _given: Any, graph: TokenGraph) -> TokenGraph:
        cut = torch.ones_like(graph.kind, dtype=torch.bool)
        if chosen is not None:
            cut &= torch.isin(graph.kind, torch.tensor(chosen, device=cut.device))
        if pairs is not None:
            # A number for each pair of tokens; texts of a batch lie one after the other.
            ends = graph.edge_index % graph.num_nodes
            codes = [i * graph.num_nodes + j for i, j in pairs]
            cut &= torch.isin(ends[0] * graph.num_nodes + ends[1], torch.tensor(codes))
        return graph.subgraph(keep=~cut)

    hook = find(model, "graph.neighbors")[0].point.register_forward_hook(without)
    try:
        yield
    finally:
        hook.remove()


def _write(internal: Internal, change: Change) -> Callable[..., Any]:
    def hook(_module: nn.Module, _given: Any, value: Any) -> Any:
        before = internal.read(value)
        if before is None:
            return value
        after = change.edit(before, internal)
        if after.shape != before.shape:
            raise InputError(
                f"{internal.name} is {list(before.shape)}, its edit gave {list(after.shape)}"
            )
        return internal.write(value, _where_chosen(internal, change, before, after))

    return hook


def _where_chosen(internal: Internal, change: Change, before: Tensor, after: Tensor) -> Tensor:
    """`after` at the heads and tokens of the change, `before` at all others."""
    chosen = torch.ones((), dtype=torch.bool, device=before.device)
    letters = internal.letters
    for letter, of in (("H", change.heads), ("T", change.tokens)):
        if of is None:
            continue
        if letter not in letters:
            what = "heads" if letter == "H" else "tokens"
            raise InputError(f"{internal.name}, of shape {internal.shape}, has no {what}")
        axis = letters.index(letter)
        mask = torch.zeros(before.shape[axis], dtype=torch.bool, device=before.device)
        mask[list(of)] = True
        chosen = chosen & mask.view([-1 if n == axis else 1 for n in range(before.dim())])
    return torch.where(chosen, after, before)


def _token_mean(x: Tensor, internal: Internal) -> Tensor:
    axes = [n for n, letter in enumerate(internal.letters) if letter in ("B", "T")]
    return x.mean(dim=axes, keepdim=True).expand_as(x)
