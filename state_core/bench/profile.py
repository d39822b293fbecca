"""Where a training step's time goes: `sosm bench model --profile`.

Every operator is timed where it runs, through a dispatch mode: torch's own profiler makes the
allocator take page faults that the step does not have. Beside it stands the time of the bare matrix
products of the same shapes, which no implementation of this model could go below.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from state_core.bench.case import Thunk
from state_core.bench.products import head_products, scan_products
from state_core.bench.timing import Spread

PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
LINEAR = "matrix products of linear layers"
SHOWN = 0.01  # of the step: what takes less is summed up in one line


@dataclass(frozen=True)
class Part:
    """An operator, its backward included, over one step."""

    name: str
    calls: float
    seconds: float


@dataclass(frozen=True)
class Profile:
    """One training step.

    seconds: of a step that is not watched. parts: its operators, the longest first. products: the
    seconds of its bare matrix products.
    """

    model: str
    seconds: float
    parts: list[Part]
    products: float

    @property
    def ratio(self) -> float:
        """How many times longer than its matrix products the step takes."""
        return self.seconds / self.products


class _Watch(TorchDispatchMode):
    """Seconds and calls of every operator, and the products that our ops hold inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self.inside: list[Callable[[], Thunk]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        _wait(args)
        name = func._schema.name
        self.seconds[name] += time.perf_counter() - start
        self.calls[name] += 1
        if name == "state_core::token_logprob":
            self.inside.append(_head(*args))
        if name == "state_core::ssd":
            self.inside.append(_scan(*args))
        return result


def profile(model: str, step: Thunk, rounds: int = 5) -> Profile:
    """Watch `rounds` steps, after as many unwatched ones that tell the step's own time."""
    step()
    seconds = Spread.of([_seconds(step) for _ in range(rounds)]).median
    watch = _Watch()
    with watch:
        for _ in range(rounds):
            step()
    times: dict[str, float] = defaultdict(float)
    calls: dict[str, float] = defaultdict(float)
    for name, total in watch.seconds.items():
        times[_merged(name)] += total / rounds
        calls[_merged(name)] += watch.calls[name] / rounds
    longest = sorted(times, key=lambda name: -times[name])
    parts = [Part(name, calls[name], times[name]) for name in longest]
    inside = sum(_bare(prepare()) for prepare in watch.inside) / rounds
    return Profile(model, seconds, parts, times[LINEAR] + inside)


def render(watched: Profile) -> Table:
    """A table of the step's parts, the longest first."""
    table = Table(title=watched.model, title_justify="left", box=None, pad_edge=False)
    for column in ("", "calls", "time", "share"):
        table.add_column(column, justify="left" if not column else "right")
    rest = watched.seconds
    for part in watched.parts:
        if part.seconds >= SHOWN * watched.seconds:
            share = f"{part.seconds / watched.seconds:.1%}"
            table.add_row(part.name, f"{part.calls:.0f}", _ms(part.seconds), share)
            rest -= part.seconds
    table.add_row("everything else", "", _ms(rest), f"{rest / watched.seconds:.1%}")
    table.add_row("[bold]the step[/]", "", f"[bold]{_ms(watched.seconds)}[/]", "")
    times = f"1 / {watched.ratio:.2f}"
    table.add_row("[bold]its matrix products, bare[/]", "", _ms(watched.products), times)
    return table


def _head(h: Tensor, weight: Tensor, *_: Any) -> Callable[[], Thunk]:
    vocabulary, rank = weight.shape
    return partial(head_products, len(h), vocabulary, rank, h.device)


def _scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *rest: Any) -> Callable[[], Thunk]:
    batch, length, heads, width = x.shape
    groups, state = B.shape[2:]
    return partial(scan_products, batch, length, heads, groups, width, state, rest[-1], x.device)


def _bare(products: Thunk) -> float:
    products()
    return _seconds(products)


def _merged(name: str) -> str:
    """An operator's name without its namespace and without its direction."""
    if name in PRODUCTS:
        return LINEAR
    return name.split("::")[1].removesuffix("_backward")


def _wait(args: tuple[Any, ...]) -> None:
    if any(isinstance(a, Tensor) and a.is_cuda for a in args):
        torch.cuda.synchronize()


def _seconds(call: Thunk) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
