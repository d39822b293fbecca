"""Does a model know which sense of a word is meant? By its state, its graph and its hidden state.

Two tasks. WordNet's usage examples: the sense whose definition and other examples are most like the
example, without training. Pseudowords: two words of held-out text read as one, a probe trained on
some documents and asked about others. Beside each score of a trained model stands that of the same
model before training, and beside all of them chance, the first sense, simplified Lesk and random
vectors.

    python -m experiments.disambiguation --out runs/senses --steps 150
    python -m experiments.disambiguation --arms phase2 phase3 transformer
    python -m experiments.disambiguation --steps 2 --seeds 1 --usages 100    # does it run?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments.harness import Job, check_same_data, run, run_all, spread
from experiments.masked_runs import run_encoder
from state_core.analysis.disambiguation import SenseTask
from state_core.analysis.html import Html, page, tag
from state_core.analysis.plot.look import LINE_COLOURS, plotly_objects, style
from state_core.analysis.pseudowords import PseudowordTask
from state_core.analysis.readings import random_vectors, text_vectors
from state_core.atomic import atomic_write_json, atomic_write_text
from state_core.config import SOSMConfig, parse_overrides
from state_core.encoder import SOSMEncoder, encoder_config
from state_core.pipeline import SOSM, Backbone
from state_core.training.baselines import matched_baseline
from state_core.training.run import load_run, load_text
from state_core.training.tokenizer import Tokenizer
from state_core.training.wordnet import load_wordnet

if TYPE_CHECKING:
    import plotly.graph_objects as go

TASKS = ("wordnet", "pseudowords")
KINDS = ("hidden", "state", "graph")
PRESETS = ("phase1", "phase2", "phase3", "phase4", "phase6")
ARMS = ("SOSM", "transformer", "encoder")
RANDOM_TABLES = 5  # draws of random vectors that a baseline is the mean of


def config_of(arm: str, changes: dict[str, Any]) -> SOSMConfig:
    """SOSM as recommended, a transformer of as many parameters, a bidirectional SOSM that learns
    masked words, or a preset."""
    values = {"data.source": "sotu", **changes}
    if arm in PRESETS:
        return SOSMConfig.preset(arm).override(values)
    ours = SOSMConfig.preset("default").override(values)
    if arm == "transformer":
        return matched_baseline(ours, "transformer")
    return encoder_config(ours) if arm == "encoder" else ours


@dataclass(frozen=True)
class Tasks:
    """Both tasks in the ids of a tokenizer; rows [N]: WordNet's texts."""

    senses: SenseTask
    rows: list[list[int]]
    pseudowords: PseudowordTask

    @classmethod
    def load(cls, config: SOSMConfig, tokenizer: Tokenizer, usages: int = 2000) -> Tasks:
        """Some `usages` of WordNet, and pseudowords of the held-out text of a configuration: probes
        learn from its valid part and are asked about its test part."""
        wordnet = load_wordnet()
        senses = SenseTask.of(wordnet.sample(usages), wordnet)
        text = load_text(config, tokenizer)
        rows = [tokenizer.encode(f" {said}") for said in senses.texts]
        return cls(senses, rows, PseudowordTask.of(tokenizer, text.valid, text.test))

    def baselines(self) -> dict[str, dict[str, float]]:
        """What needs no model: name → accuracy by task."""
        senses, pseudo = self.senses, self.pseudowords
        lesk, seeds = senses.by_overlap(), range(RANDOM_TABLES)
        bags = [
            senses.accuracy(senses.by_vectors(random_vectors(self.rows, seed=s))) for s in seeds
        ]
        probed = [pseudo.accuracy(pseudo.at_random(s)) for s in seeds]
        return {
            "chance": {"wordnet": senses.accuracy(senses.by_chance()), "pseudowords": 0.5},
            "first sense": {"wordnet": senses.accuracy(senses.by_order()), "pseudowords": 0.5},
            "simplified Lesk": {
                "wordnet": senses.accuracy(lesk),
                "pseudowords": pseudo.by_overlap(),
            },
            "Lesk, else the first": {"wordnet": senses.accuracy(lesk + 0.5 * senses.by_order())},
            "random vectors": {"wordnet": mean(bags), "pseudowords": mean(probed)},
        }


def accuracy(model: Backbone, tokenizer: Tokenizer, tasks: Tasks | None = None) -> dict[str, float]:
    """A model's accuracy by `task/kind`, such as `pseudowords/hidden`; `state` and `graph` of a
    model that has a graph. tasks: by default those of the model's own text."""
    tasks = tasks or Tasks.load(model.config, tokenizer)
    model.eval()
    senses, pseudo = tasks.senses, tasks.pseudowords
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        texts = progress.add_task("reading", total=len(tasks.rows) + len(pseudo.windows))
        watch = partial(progress.advance, texts)
        read, probed = text_vectors(model, tasks.rows, watch), pseudo.read(model, watch)
    found = {f"wordnet/{k}": senses.accuracy(senses.by_vectors(v)) for k, v in read.items()}
    return found | {f"pseudowords/{k}": pseudo.accuracy(v) for k, v in probed.items()}


def untrained(model: Backbone, seed: int) -> Backbone:
    """The same model as it was before training."""
    torch.manual_seed(seed)
    return type(model)(model.config).eval()


def train_and_score(job: Job, out: Path, threads: int, usages: int) -> dict[str, Any]:
    """Train one job and score it before and after, unless an earlier call did."""
    masked = job.config.objective == "masked"
    found = (run_encoder if masked else run)(job, out, threads)
    path = out / job.folder / f"senses-{usages}.json"
    if not path.is_file():
        torch.set_num_threads(threads)
        model, tokenizer = load_any(out / job.folder, masked)
        tasks = Tasks.load(model.config, tokenizer, usages)
        scores = {
            "trained": accuracy(model, tokenizer, tasks),
            "untrained": accuracy(untrained(model, job.config.train.seed), tokenizer, tasks),
        }
        atomic_write_json(path, scores)
    return {**found, "scores": json.loads(path.read_text())}


def load_any(folder: Path, masked: bool) -> tuple[SOSM | SOSMEncoder, Tokenizer]:
    """The trained model of a run, and its tokenizer."""
    if not masked:
        return load_run(folder)
    return SOSMEncoder.from_pretrained(folder / "model"), Tokenizer.load(folder / "model")


def values(results: list[dict[str, Any]], arm: str, when: str, key: str) -> list[float]:
    """An arm's accuracy, seed by seed, in per cent; empty where it was not measured."""
    scores = [r["scores"][when] for r in results if r["arm"] == arm]
    return [100 * score[key] for score in scores if key in score]


def rows_of(results: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every arm with every kind of vector that it has."""
    for arm in dict.fromkeys(r["arm"] for r in results):
        yield from ((arm, k) for k in KINDS if values(results, arm, "trained", f"{TASKS[0]}/{k}"))


def table(results: list[dict[str, Any]], baselines: dict[str, dict[str, float]]) -> Table:
    """Accuracy in per cent over the seeds, untrained beside trained, and what training brought."""
    columns = (name for task in TASKS for name in (task, "untrained", "gain"))
    view = Table("model", "read from", *columns)
    for name, scores in baselines.items():
        cells = [(f"{100 * scores[t]:.1f}" if t in scores else "–", "–", "–") for t in TASKS]
        view.add_row(name, "–", *(cell for three in cells for cell in three))
    for arm, kind in rows_of(results):
        cells = []
        for task in TASKS:
            after, before = (
                values(results, arm, when, f"{task}/{kind}") for when in ("trained", "untrained")
            )
            gains = [a - b for a, b in zip(after, before, strict=True)]
            cells.append(tuple(spread(v, digits=1) for v in (after, before, gains)))
        view.add_row(arm, kind, *(cell for three in cells for cell in three))
    return view


def picture(results: list[dict[str, Any]], baselines: dict[str, dict[str, float]]) -> go.Figure:
    """A panel a task: a point a model, hollow before training; baselines as lines."""
    plotly_objects()
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=2, subplot_titles=TASKS, shared_yaxes=True)
    style(figure, 460)
    names = [f"{arm}, {kind}" for arm, kind in rows_of(results)]
    for column, task in enumerate(TASKS, start=1):
        for n, when in enumerate(("untrained", "trained")):
            found = [values(results, a, when, f"{task}/{k}") for a, k in rows_of(results)]
            figure.add_scatter(
                x=[mean(v) for v in found],
                y=names,
                error_x={
                    "array": [max(v) - mean(v) for v in found],
                    "arrayminus": [mean(v) - min(v) for v in found],
                },
                mode="markers",
                name=when,
                legendgroup=when,
                showlegend=column == 1,
                marker={"size": 10, "symbol": "circle" if n else "circle-open"},
                line={"color": LINE_COLOURS[0]},
                row=1,
                col=column,
            )
        for name, scores in baselines.items():
            if task in scores and name != "chance":
                figure.add_vline(
                    x=100 * scores[task],
                    line={"dash": "dot", "width": 1},
                    annotation={"text": name, "textangle": -90, "yanchor": "bottom", "y": 0},
                    row=1,
                    col=column,
                )
    figure.update_xaxes(title="right, per cent")
    figure.update_layout(margin={"l": 150, "t": 60})
    return figure


def report(results: list[dict[str, Any]], baselines: dict[str, dict[str, float]]) -> str:
    """The figure as a page."""
    seeds = len({r["seed"] for r in results})
    said = f"{seeds} seeds; whiskers reach to the worst and the best; hollow: before training."
    plot = Html(picture(results, baselines).to_html(full_html=False, include_plotlyjs=True))
    return page("Word senses", tag("h1", "Which sense is meant?"), tag("p", said), plot)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/senses"))
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, *PRESETS), default=ARMS)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--usages", type=int, default=2000, help="examples of WordNet")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    changes = {"train.steps": options.steps, **parse_overrides(options.set)}
    configs = {arm: config_of(arm, changes) for arm in options.arms}
    jobs = [
        Job(arm, configs[arm].override({"train.seed": seed}))
        for seed in range(options.seeds)
        for arm in options.arms
    ]
    work = partial(train_and_score, usages=options.usages)
    results = run_all(jobs, options.out, options.jobs, options.threads, work=work)
    check_same_data([r for r in results if not configs[r["arm"]].train.consecutive])
    model, tokenizer = load_any(options.out / jobs[0].folder, jobs[0].config.objective == "masked")
    baselines = Tasks.load(model.config, tokenizer, options.usages).baselines()
    atomic_write_json(options.out / "results.json", {"baselines": baselines, "arms": results})
    Console().print(table(results, baselines))
    path = options.out / "senses.html"
    atomic_write_text(path, report(results, baselines))
    Console().print(f"Picture in {path}")


if __name__ == "__main__":
    main()
