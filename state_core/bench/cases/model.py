"""The whole model's cases: training steps and decoding, against baselines of equal size.

Shapes: B sequences, T tokens of each; context: tokens read before the one that is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from state_core.audit import audit_causality
from state_core.bench.case import OURS, Case, Comparison, Contender, Goal, Thunk
from state_core.bench.profile import Profile, profile
from state_core.bench.timing import Spread, interleave, ratios
from state_core.config import SOSMConfig
from state_core.memory.text_memory import TextMemory
from state_core.pipeline import SOSM
from state_core.training.baselines import Baseline, count_parameters, matched_baseline
from state_core.training.malloc import keep_large_blocks
from state_core.training.optim import build_optimizer

SHORT_CONTEXT = 512
BASELINES: tuple[Baseline, ...] = ("transformer", "mamba2")


@dataclass(frozen=True)
class Text:
    """Token ids [B,T] and the configurations, by contender, of the models that read them."""

    ids: Tensor
    configs: dict[str, SOSMConfig]

    def model(self, name: str) -> SOSM:
        """A contender's model with the weights of seed 0."""
        torch.manual_seed(0)
        return SOSM(self.configs[name]).to(self.ids.device)


def text_like_ids(batch: int, length: int, vocabulary: int, device: torch.device) -> Tensor:
    """Random ids whose frequencies fall like those of words (Zipf), int64 [B,T]."""
    generator = torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    ids = torch.multinomial(frequency, batch * length, replacement=True, generator=generator)
    return ids.view(batch, length).to(device)


def _text(batch: int, length: int, device: torch.device) -> Text:
    config = SOSMConfig.preset("default")
    configs = {OURS: config} | {str(kind): matched_baseline(config, kind) for kind in BASELINES}
    ids = text_like_ids(batch, length, config.vocab_size, device)
    return Text(ids, configs)


@cache
def _check(device: torch.device) -> list[Comparison]:
    """A model that leaks is not timed, nor one beside a baseline of another size."""
    text = _text(1, 2, device)
    small = SOSMConfig.preset("default", vocab_size=64)
    audit = audit_causality(SOSM(small).to(device))
    sizes = {name: count_parameters(config) for name, config in text.configs.items()}
    ours = sizes.pop(OURS)
    return [
        Comparison("the causality audit", 0.0 if audit.passed else 1.0, 0.0),
        *(
            Comparison(f"{name}'s parameters", abs(size - ours) / ours, 0.02)
            for name, size in sizes.items()
        ),
    ]


# --- training --------------------------------------------------------------------------------


class Trainer:
    """One optimiser step of a model per call, as the training loop takes it; with a memory, which
    the segment read goes to afterwards."""

    def __init__(self, model: SOSM, ids: Tensor, memory: TextMemory | None = None) -> None:
        torch.set_float32_matmul_precision(model.config.train.matmul)
        self.model, self.ids, self.memory = model.train(), ids, memory
        self.optimizer = build_optimizer(model, model.config.train)

    def __call__(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        out = self.model(self.ids, labels=self.ids, memory=self.memory)
        loss = out.loss
        loss.backward()
        if self.memory is not None:
            self.memory.append(self.ids, out.keepsake)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


def _trainer(name: str, text: Text) -> Thunk:
    model = text.model(name)
    Trainer(model, text.ids[:1, :16])()  # compiles
    return Trainer(model, text.ids)


def profile_training(device: str = "cpu", quick: bool = False) -> Profile:
    """Where the time of our training step goes, at B 8, T 512."""
    keep_large_blocks()
    batch, length = (1, 64) if quick else (8, 512)
    text = _text(batch, length, torch.device(device))
    return profile(f"{OURS}, one training step, B{batch} T{length}", _trainer(OURS, text))


def _training_figures(text: Text) -> dict[str, float]:
    step = Trainer(text.model(OURS), text.ids)
    step()
    shares = [_share_of_graph(step) for _ in range(3)]
    seconds = Spread.of([total for total, _ in shares]).median
    return {
        "graph share": Spread.of([graph / total for total, graph in shares]).median,
        "tokens/s": text.ids.numel() / seconds,
    }


def _share_of_graph(step: Trainer) -> tuple[float, float]:
    """Seconds of one step, and of building the graph within it."""
    marks: list[float] = []

    def mark(*_: Any) -> None:
        if step.ids.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    builder = step.model.graph_builder
    hooks = [builder.register_forward_pre_hook(mark), builder.register_forward_hook(mark)]
    start = time.perf_counter()
    step()
    mark()
    for hook in hooks:
        hook.remove()
    begun, built, end = marks
    return end - start, built - begun


Case(
    name="training",
    group="model",
    about="one training step at equal parameters",
    sizes=(
        {"B": 8, "T": 512},
        {"B": 1, "T": 1024},
        {"B": 1, "T": 4096},
        {"B": 1, "T": 16384},
    ),
    quick=({"B": 1, "T": 64}, {"B": 1, "T": 128}),
    inputs=lambda shape, device: _text(shape["B"], shape["T"], device),
    contenders=tuple(Contender(name, partial(_trainer, name)) for name in (OURS, *BASELINES)),
    check=_check,
    figures=_training_figures,
    goals=(
        Goal("transformer", least=1.0, at=512),
        Goal("transformer", least=1.5, at=4096),
        Goal("transformer", least=5.0, at=16384),
        Goal("graph share", most=0.15),
        Goal("memory growth", most=1.1),
    ),
)


# --- torch.compile ---------------------------------------------------------------------------


def _compiled_trainer(text: Text) -> Thunk:
    step = Trainer(text.model(OURS), text.ids)
    step()  # an op's first call imports its kernels, which cannot be traced
    step.model = torch.compile(step.model, dynamic=True)
    step()
    return step


Case(
    name="compiled",
    group="model",
    about="one training step as it is, against the same under torch.compile",
    sizes=({"B": 8, "T": 512},),
    quick=({"B": 2, "T": 64},),
    inputs=lambda shape, device: _text(shape["B"], shape["T"], device),
    contenders=(
        Contender(OURS, partial(_trainer, OURS)),
        Contender("torch.compile", _compiled_trainer),
    ),
    check=_check,
)


# --- decoding --------------------------------------------------------------------------------


def _decoder(name: str, text: Text) -> Thunk:
    """Reads the text, and then one token per call, whose logits it computes."""
    return decode_after(text.model(name).eval(), text.ids)


@torch.inference_mode()
def decode_after(model: SOSM, ids: Tensor) -> Callable[[], Tensor]:
    """A call that reads one token more, from a cache that holds `ids` [B,T]."""
    cache = model.new_cache(len(ids))
    model(ids, cache=cache)
    token = ids[:, :1]

    @torch.inference_mode()
    def decode() -> Tensor:
        logits: Tensor = model(token, cache=cache).logits
        return logits

    return decode


def _decoding_figures(text: Text) -> dict[str, float]:
    """How many times longer a token takes here than after a short context."""
    if text.ids.shape[1] <= SHORT_CONTEXT:
        return {}
    model = text.model(OURS).eval()
    thunks = {
        "short": decode_after(model, text.ids[:, :SHORT_CONTEXT]),
        "long": decode_after(model, text.ids),
    }
    seconds = interleave(thunks, text.ids.device, budget=5.0)
    slowdown = Spread.of(ratios(seconds["short"], seconds["long"])).median
    return {f"× context {SHORT_CONTEXT}": slowdown}


Case(
    name="decoding",
    group="model",
    about="one more token after a context, from the cache",
    sizes=tuple({"B": 1, "context": length} for length in (SHORT_CONTEXT, 2048, 8192)),
    quick=({"B": 1, "context": 32}, {"B": 1, "context": 64}),
    inputs=lambda shape, device: _text(shape["B"], shape["context"], device),
    contenders=tuple(Contender(name, partial(_decoder, name)) for name in (OURS, *BASELINES)),
    check=_check,
    axis="context",
    figures=_decoding_figures,
    goals=(Goal(f"× context {SHORT_CONTEXT}", most=1.3, at=8192),),
)
