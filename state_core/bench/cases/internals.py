"""What it costs that a model's internals have names, when nobody looks and when somebody does.

Shapes: B sequences, T tokens of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from state_core.analysis.internals import run_with_cache
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Thunk
from state_core.bench.cases.model import decode_after, text_like_ids
from state_core.bench.timing import Spread, interleave, ratios
from state_core.config import SOSMConfig
from state_core.layers.point import Point
from state_core.pipeline import SOSM

ONE_NAME = "blocks.2.attn.pattern"
Reading = tuple[SOSM, Tensor]


def _reading(batch: int, length: int, device: torch.device) -> Reading:
    """A model and ids [B,T] for it to read."""
    config = SOSMConfig.preset("default")
    torch.manual_seed(0)
    return SOSM(config).eval().to(device), text_like_ids(batch, length, config.vocab_size, device)


def _plain(reading: Reading) -> Thunk:
    model, ids = reading
    return torch.inference_mode()(lambda: model(ids).logits)


def _kept(names: str) -> Contender:
    def prepare(reading: Reading) -> Thunk:
        model, ids = reading
        return torch.inference_mode()(lambda: run_with_cache(model, ids, names)[0].logits)

    return Contender("every name kept" if names == "*" else f"{names} kept", prepare)


def _points_alone(model: SOSM) -> Thunk:
    """All that names add to a forward pass in which nobody looks: a call of each point."""
    points = [module for module in model.modules() if isinstance(module, Point)]
    value = torch.zeros(())

    def call() -> None:
        for point in points:
            point(value)

    return call


def _figures(reading: Reading) -> dict[str, float]:
    """What names cost unseen, as a share of a forward pass and of decoding one token more."""
    model, ids = reading
    thunks = {
        "points": _points_alone(model),
        "forward": _plain(reading),
        "token": decode_after(model, ids),
    }
    seconds = interleave(thunks, ids.device, budget=3.0)
    return {
        f"points / {name}": Spread.of(ratios(seconds[name], seconds["points"])).median
        for name in ("forward", "token")
    }


def _check(device: torch.device) -> list[Comparison]:
    """What is looked at is the model itself, bit for bit."""
    model, ids = _reading(2, 65, device)
    with torch.inference_mode():
        plain = model(ids).logits
    found = []
    for names in (ONE_NAME, "*"):
        with torch.inference_mode():
            looked_at = run_with_cache(model, ids, names)[0].logits
        found.append(Comparison(f"plain, {names} kept", float(not plain.equal(looked_at)), 0.0))
    return found


Case(
    name="internals",
    group="model",
    about="a forward pass as it is, against one whose internals are kept",
    sizes=({"B": 1, "T": 512}, {"B": 1, "T": 4096}),
    quick=({"B": 1, "T": 32}, {"B": 1, "T": 64}),
    inputs=lambda shape, device: _reading(shape["B"], shape["T"], device),
    contenders=(Contender(OURS, _plain), _kept(ONE_NAME), _kept("*")),
    check=_check,
    figures=_figures,
    goals=(Goal("points / forward", most=0.01), Goal("points / token", most=0.01)),
)
