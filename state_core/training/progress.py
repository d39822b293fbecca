"""What a person sees while a run goes on: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from state_core.training.evaluate import Evaluation

PLAIN_EVERY = 5.0  # seconds between plain lines


@dataclass(frozen=True)
class StepReport:
    """One update. `perplexity` is None where the causality audit failed."""

    step: int
    steps: int
    loss: float
    """Mean of the last steps."""
    perplexity: float | None
    tokens_per_second: float
    edges_per_token: float | None
    seconds_left: float


class Watcher:
    """Hooks of a run; this one is silent. Subclass it, and use it as a context manager."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def on_message(self, text: str) -> None:
        """Something worth a line: what is fetched, where a checkpoint lies, why training ends."""

    def on_step(self, report: StepReport) -> None:
        """After every update."""

    def on_evaluation(self, step: int, evaluation: Evaluation, audited: bool) -> None:
        """After an evaluation; without a passed audit no perplexity is to be shown."""


class ConsoleWatcher(Watcher):
    """A live line with a bar in a terminal; in a pipe or a file, a line every few seconds."""

    def __init__(self, console: Console | None = None, title: str = "training") -> None:
        self.console = console or Console()
        self.title = title
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = -math.inf

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_message(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_evaluation(self, step: int, evaluation: Evaluation, audited: bool) -> None:
        self.on_message(f"step {step}: held-out {describe_evaluation(evaluation, audited)}")

    def on_step(self, report: StepReport) -> None:
        if self.console.is_terminal:
            self._live(report)
        elif report.step == report.steps or time.monotonic() - self._last_line >= PLAIN_EVERY:
            self._last_line = time.monotonic()
            numbers = describe_step(report)
            self.on_message(f"{self.title} {report.step}/{report.steps}  {numbers}")

    def _live(self, report: StepReport) -> None:
        if self._bar is None:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=report.steps, numbers="")
        numbers = describe_step(report)
        self._bar.update(self._task, completed=report.step, numbers=numbers)


def describe_step(report: StepReport) -> str:
    """The numbers of an update in one line."""
    parts = [f"loss {report.loss:.3f}"]
    if report.perplexity is not None:
        parts.append(f"ppl {report.perplexity:.1f}")
    parts.append(f"{report.tokens_per_second:,.0f} tok/s")
    if report.edges_per_token is not None:
        parts.append(f"{report.edges_per_token:.1f} edges/tok")
    parts.append(f"{_clock(report.seconds_left)} left")
    return "  ".join(parts)


def describe_evaluation(evaluation: Evaluation, audited: bool) -> str:
    """Loss, perplexity if the audit allows it, and the same on recall tokens."""
    parts = [f"loss {evaluation.overall.loss:.3f}"]
    if audited:
        parts.append(f"perplexity {evaluation.overall.perplexity:.1f}")
    if evaluation.recall.tokens:
        parts.append(f"recall tokens {evaluation.recall.loss:.3f}")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
