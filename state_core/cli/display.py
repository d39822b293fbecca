"""A live table of stages; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from state_core.quickstart import Stage
from state_core.training.evaluate import Evaluation
from state_core.training.progress import (
    ConsoleWatcher,
    StepReport,
    describe_evaluation,
    describe_step,
)

BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 30
REFRESH = 4  # per second; the cores have better things to do


@dataclass
class _State:
    """What is known of a stage."""

    title: str
    began: float | None = None
    seconds: float = 0.0
    mark: str = ""
    detail: str = ""
    step: StepReport | None = None
    losses: list[float] = field(default_factory=list)


class StageDisplay:
    """All stages at a glance: done with their times, under way with a bar, still to come."""

    def __init__(self, console: Console, titles: Mapping[str, str]) -> None:
        self.console = console
        self._states = {name: _State(title) for name, title in titles.items()}
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=REFRESH)

    def __enter__(self) -> StageDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Show a stage as under way until the block ends."""
        state = self._states[name]
        state.began = time.monotonic()
        try:
            yield (
                _LiveStage(self.console, state)
                if self.console.is_terminal
                else _PlainStage(self.console, state)
            )
        except BaseException:
            state.mark = "[red]✗[/]"
            raise
        finally:
            state.seconds = time.monotonic() - state.began
            state.began = None
            state.mark = state.mark or "[yellow]–[/]"

    def note(self, text: str) -> None:
        """A line that stays above the table."""
        self.console.print(text, style="yellow", markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(min_width=11)
        table.add_column(ratio=1)
        table.add_column(justify="right", style="dim")
        for state in self._states.values():
            running = state.began is not None
            mark = self._spinner if running else Text.from_markup(state.mark)
            seconds = time.monotonic() - state.began if state.began else state.seconds
            spent = _clock(seconds) if running or state.mark else ""
            title = Text(state.title, style="bold" if running else "" if state.mark else "dim")
            table.add_row(mark, title, _detail(state, running), spent)
            if state.losses and (running or state.mark):
                table.add_row("", "", _spark(state.losses), "")
        return table


class _LiveStage(Stage):
    """Writes what happens into the stage's state; the table shows it."""

    def __init__(self, console: Console, state: _State) -> None:
        self.console, self.state = console, state

    def on_message(self, text: str) -> None:
        self.state.detail = text.splitlines()[0] if text else ""

    def on_step(self, report: StepReport) -> None:
        self.state.step = report
        self.state.losses.append(report.loss)

    def on_done(self, detail: str, reused: bool = False) -> None:
        self.state.detail, self.state.step = detail, None
        self.state.mark = "[yellow]•[/]" if reused else "[green]✓[/]"


class _PlainStage(Stage):
    """A line when something happens."""

    def __init__(self, console: Console, state: _State) -> None:
        self.state = state
        self._lines = ConsoleWatcher(console, state.title)
        self._began = time.monotonic()

    def on_message(self, text: str) -> None:
        self._lines.on_message(f"{self.state.title}: {text}")

    def on_step(self, report: StepReport) -> None:
        self._lines.on_step(report)

    def on_evaluation(self, step: int, evaluation: Evaluation, audited: bool) -> None:
        self.on_message(f"step {step}: held-out {describe_evaluation(evaluation, audited)}")

    def on_done(self, detail: str, reused: bool = False) -> None:
        self.on_message(f"{detail} ({time.monotonic() - self._began:.1f} s)")


def _detail(state: _State, running: bool) -> Table | Text:
    if not running or state.step is None:
        return Text(
            state.detail, style="" if state.mark else "dim", overflow="ellipsis", no_wrap=True
        )
    step = state.step
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=step.steps, completed=step.step, width=20)
    line.add_row(bar, f"{step.step}/{step.steps}", Text(describe_step(step), no_wrap=True))
    return line


def _spark(losses: list[float]) -> Text:
    """The loss so far, in one line of text."""
    width = min(SPARK_WIDTH, len(losses))
    groups = [
        losses[n * len(losses) // width : (n + 1) * len(losses) // width] for n in range(width)
    ]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / ((high - low) or 1.0)
    bars = "".join(BARS[round((mean - low) * scale)] for mean in means)
    return Text.assemble((bars, "cyan"), (f"  loss {means[0]:.2f} → {means[-1]:.2f}", "dim"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"
