"""The report of `sosm quickstart`: one HTML file that holds everything it shows.

It opens without a network, in light and dark. All text is data: see `analysis.html`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state_core.analysis import svg
from state_core.analysis.explorer import SCRIPTS, explorer, most_telling
from state_core.analysis.html import Html, page, tag
from state_core.analysis.passages import Prediction, prediction_html
from state_core.atomic import atomic_write_text

SMOOTHING = 3  # records of the training log on either side


@dataclass(frozen=True)
class Arm:
    """One model of the comparison. evaluation: as `Evaluation.to_dict` gives it, None without a
    passed audit; log: the records of metrics.jsonl."""

    name: str
    style: str
    parameters: int
    tokens: int
    seconds: float
    audit_passed: bool
    audit: str
    evaluation: Mapping[str, Any] | None
    log: Sequence[Mapping[str, Any]]

    def perplexity(self, name: str) -> float | None:
        """Of a score by name; None if it was not given."""
        scores = self.evaluation["scores"] if self.evaluation else []
        return next((s["perplexity"] for s in scores if s["name"] == name), None)

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the log: the first step compiles kernels and is no measure."""
        speeds = [r["tokens_per_second"] for r in self.log if r["kind"] == "train"]
        return statistics.median(speeds) if speeds else None


@dataclass(frozen=True)
class ReportData:
    """All that the report shows. `arms`: ours first; `graph`: what `explorer.graph_data` gives."""

    corpus: str
    held_out: str
    arms: Sequence[Arm]
    prompt: str
    generated: str
    sampling: str
    graph: Mapping[str, Any] | None
    graph_source: str
    predictions: Sequence[Prediction]
    command: str
    facts: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report, atomically; returns its path."""
    atomic_write_text(path, render(data))
    return Path(path)


def render(data: ReportData) -> str:
    """The whole page."""
    sections = [
        _headline(data),
        _results(data),
        _charts(data.arms),
        _graph(data),
        _words(data.predictions),
        _passage(data),
        _reproduce(data),
    ]
    return page(f"SOSM on {data.corpus}", *sections, scripts=SCRIPTS)


def _headline(data: ReportData) -> Html:
    ours = data.arms[0]
    failed = [arm for arm in data.arms if not arm.audit_passed]
    verdict = "failed" if failed else "passed"
    detail = (
        tag("pre", "\n".join(arm.audit for arm in failed))
        if failed
        else "Every token after a prefix was replaced, for prefixes around every border inside the "
        "models: nothing before the replaced tokens changed, neither a prediction nor an edge."
    )
    return tag(
        "header",
        tag("h1", "A language model that shows what it reads"),
        tag(
            "p",
            f"SOSM builds a sparse graph over the words of a text and reads the text through it. "
            f"This one has {_millions(ours.parameters)} parameters and read "
            f"{_millions(ours.tokens)} tokens of {data.corpus}, in {_duration(ours.seconds)}. "
            f"Below is how it compares with a transformer, what its graph looks like, and where "
            f"its predictions come from.",
            class_="lead",
        ),
        tag(
            "div",
            tag("b", f"Causality audit {verdict}. "),
            detail,
            class_="audit failed" if failed else "audit",
        ),
    )


def _results(data: ReportData) -> Html:
    columns = (
        "",
        "parameters",
        "tokens read",
        "training",
        "tokens/s",
        "perplexity",
        "on recall tokens",
        "on the others",
    )
    rows = [
        tag(
            "tr",
            tag("td", arm.name, class_=arm.style),
            tag("td", f"{arm.parameters:,}"),
            tag("td", f"{arm.tokens:,}"),
            tag("td", _duration(arm.seconds)),
            tag("td", _number(arm.tokens_per_second, "{:,.0f}")),
            tag("td", _number(arm.perplexity("overall")), class_="main"),
            tag("td", _number(arm.perplexity("recall"))),
            tag("td", _number(arm.perplexity("other"))),
        )
        for arm in data.arms
    ]
    if len(data.arms) == 2:
        rows.append(_ratios(*data.arms))
    return tag(
        "section",
        tag("h2", "Beside a transformer"),
        tag(
            "p",
            f"The same text in the same order, the same optimiser, as many parameters and as many "
            f"tokens. Perplexity is on text that neither has read ({data.held_out}); lower is "
            f"better. A recall token is one whose pair with the token before it occurred earlier "
            f"in the context.",
        ),
        tag("div", tag("table", _head(columns), rows, class_="results"), class_="scroll"),
        tag("p", "Made by ", tag("code", data.command), class_="note made"),
    )


def _ratios(ours: Arm, theirs: Arm) -> Html:
    def ratio(a: float | None, b: float | None) -> Html:
        return tag("td", f"{a / b:.2f} ×" if a and b else "–")

    return tag(
        "tr",
        tag("td", f"{ours.name} / {theirs.name}"),
        ratio(ours.parameters, theirs.parameters),
        ratio(ours.tokens, theirs.tokens),
        ratio(ours.seconds, theirs.seconds),
        ratio(ours.tokens_per_second, theirs.tokens_per_second),
        *(ratio(ours.perplexity(n), theirs.perplexity(n)) for n in ("overall", "recall", "other")),
        class_="ratio",
    )


def _charts(arms: Sequence[Arm]) -> Html:
    return tag("div", _loss_chart(arms), _position_chart(arms), class_="charts")


def _loss_chart(arms: Sequence[Arm]) -> Html:
    series = []
    for arm in arms:
        raw = [(r["step"], r["loss"]) for r in arm.log if r["kind"] == "train"]
        series.append(svg.Series(arm.name, svg.smooth(raw, SMOOTHING), arm.style, raw))
    last = max((r["step"] for arm in arms for r in arm.log), default=1)
    return svg.line_chart(
        "Training loss, nats per token",
        series,
        x_label="step",
        x_ticks=[t for t in svg.nice_ticks(0, last) if t == int(t)],
    )


def _position_chart(arms: Sequence[Arm]) -> Html:
    series, starts = [], []
    for arm in arms:
        points = []
        for score in arm.evaluation["scores"] if arm.evaluation else []:
            if score["name"].startswith("context ") and score["perplexity"] is not None:
                start = int(score["name"].removeprefix("context ").split("–")[0])
                points.append((start, score["perplexity"]))
        series.append(svg.Series(arm.name, points, arm.style, marks=True))
        starts += [int(x) for x, _ in points]
    return svg.line_chart(
        "Perplexity by tokens of context",
        series,
        x_label="tokens of context (from)",
        x_ticks=sorted(set(starts)) or [1],
        log_x=True,
    )


def _graph(data: ReportData) -> Html:
    if data.graph is None:
        return Html("")
    return tag(
        "section",
        tag("h2", "The graph of a passage"),
        tag(
            "p",
            f"From {data.graph_source}, which the model has not read. Colour is the kind of an "
            f"edge, thickness its weight. A semantic edge joins a token to an earlier one whose "
            f"state is similar. The coloured bars show how much each block of the state "
            f"contributed: they add up to the weight.",
        ),
        explorer("passage-graph", data.graph, chosen=most_telling(data.graph)),
    )


def _words(predictions: Iterable[Prediction]) -> Html:
    shown = [prediction_html(prediction) for prediction in predictions]
    if not shown:
        return Html("")
    return tag(
        "section",
        tag("h2", "Where did this word come from?"),
        tag(
            "p",
            "Words of the held-out text that the model foresaw. The pointer head lets edges vote "
            "for the word that followed their target, so a prediction can be divided among the "
            "earlier passages and the vocabulary head; the shares add up to the whole.",
        ),
        shown,
    )


def _passage(data: ReportData) -> Html:
    return tag(
        "section",
        tag("h2", "A passage that it wrote"),
        tag(
            "div",
            tag("span", data.prompt, class_="prompt"),
            data.generated,
            class_="passage",
        ),
        tag("p", f"In grey the prompt, from the held-out text; {data.sampling}.", class_="note"),
    )


def _reproduce(data: ReportData) -> Html:
    facts = [part for name, value in data.facts.items() for part in _fact(name, value)]
    return tag(
        "section",
        tag("h2", "To reproduce"),
        tag("pre", data.command),
        tag("dl", facts, class_="facts"),
        tag(
            "details",
            tag("summary", "The whole configuration"),
            tag("pre", json.dumps(data.config, indent=2, ensure_ascii=False)),
        ),
    )


def _fact(name: str, value: str) -> tuple[Html, Html]:
    return tag("dt", name), tag("dd", value)


def _head(columns: Iterable[str]) -> Html:
    return tag("tr", [tag("th", column) for column in columns])


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return "–" if value is None else form.format(value)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} million" if count >= 1e5 else f"{count:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
