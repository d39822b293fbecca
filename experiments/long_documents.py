"""Long documents: does structure pay, and does memory?

phase6 against phase2, against itself without its memory, against a transformer and pure Mamba-2 of
equal parameters (±2 %). All read the same consecutive segments in the same order, with the same
optimiser; the learning rate of each is the best of one grid on held-out text, in runs of the first
seed that are a quarter as long.
Every arm is scored on the same targets of the test documents, and of long novels that none was
trained on, phase6 with memories of several sizes.

    python -m experiments.long_documents --out runs/long --jobs 2
    python -m experiments.long_documents --steps 5 --seeds 1 --max-tokens 3000   # does it run?
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.harness import Job, best_rates, check_same_data, run, run_all, spread
from state_core.analysis.html import page, tag
from state_core.analysis.plot.look import LINE_COLOURS, figures_html, plotly_objects, style
from state_core.atomic import atomic_write_json, atomic_write_text
from state_core.audit import audit_causality
from state_core.config import SOSMConfig, parse_overrides
from state_core.training.baselines import matched_baseline
from state_core.training.evaluate_documents import evaluate_documents
from state_core.training.run import load_run, load_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

OURS, FORGETFUL = "phase6", "phase6 without memory"
WINDOW = 8  # tokens; recall tokens repeat what lies farther back, for all arms alike
RATES = (4e-3, 8e-3)
NONE = 256  # where "none" is drawn, on an axis of powers
SIZES = (512, 2048, 8192, 32768, 131072)
CORPORA = ("sotu", "moby", "austen")
KINDS = ("overall", "recall", "distant", "other")


def arms(overrides: dict[str, Any]) -> dict[str, SOSMConfig]:
    """The models that are compared."""
    shared = {"data.source": "sotu", "train.consecutive": True, **overrides}
    ours = SOSMConfig.preset("phase6").override(shared)
    forgetful = ours.override({"memory.enabled": False})
    return {
        OURS: ours,
        FORGETFUL: forgetful,
        "phase2": SOSMConfig.preset("phase2").override(shared),
        "transformer": matched_baseline(forgetful, "transformer"),
        "Mamba-2": matched_baseline(forgetful, "mamba2"),
    }


def tuning(configs: dict[str, SOSMConfig]) -> Iterator[Job]:
    """Each arm at each rate, on the first seed, for a quarter of the steps."""
    for arm, config in configs.items():
        steps = max(config.train.steps // 4, 1)
        for rate in RATES:
            values = {"train.lr": rate, "train.seed": 0, "train.steps": steps}
            yield Job(arm, config.override(values))


def jobs(configs: dict[str, SOSMConfig], rates: dict[str, float], seeds: int) -> Iterator[Job]:
    """Every arm at its rate, seed by seed."""
    for seed in range(seeds):
        for arm, config in configs.items():
            yield Job(arm, config.override({"train.seed": seed, "train.lr": rates[arm]}))


def train_and_score(job: Job, out: Path, threads: int, max_tokens: int | None) -> dict[str, Any]:
    """Train one job, and score it by corpus and memory size, unless an earlier call did."""
    found = run(job, out, threads)
    path = out / job.folder / f"long-{max_tokens or 'whole'}.json"
    if not path.is_file():
        torch.set_num_threads(threads)
        atomic_write_json(path, score(out / job.folder, max_tokens))
    return {**found, "scores": json.loads(path.read_text())}


def score(folder: Path, max_tokens: int | None) -> dict[str, Any]:
    """A trained model's scores: corpus → tokens remembered → rows of the evaluation."""
    model, tokenizer = load_run(folder)
    report = audit_causality(model)
    found: dict[str, Any] = {}
    for corpus in CORPORA:
        text = load_text(model.config.override({"data.source": corpus}), tokenizer)
        ids = text.test[:max_tokens]
        # A memory of twice the text holds no more than one of all of it.
        sizes = [n for n in SIZES if n < 2 * len(ids)] if model.config.memory.enabled else []
        for size in (0, *sizes):
            scores = evaluate_documents(
                model,
                ids,
                remember=size,
                recall_window=WINDOW,
                end=tokenizer.end_of_document,
                report=report,
            )
            found.setdefault(corpus, {})[str(size)] = scores.to_dict()["scores"]
    return found


def perplexities(
    results: list[dict[str, Any]], arm: str, corpus: str, size: int, kind: str
) -> list[float]:
    """An arm's perplexity, seed by seed; empty where it was not measured."""
    values = []
    for result in (r for r in results if r["arm"] == arm):
        named = {s["name"]: s for s in result["scores"].get(corpus, {}).get(str(size), [])}
        if named and named[kind]["loss"] is not None:
            values.append(math.exp(named[kind]["loss"]))
    return values


def tables(results: list[dict[str, Any]]) -> Iterator[Table]:
    """A table per corpus: every arm, and ours with every size of memory."""
    for corpus in CORPORA:
        view = Table("model", "remembered", *(f"{kind} tokens" for kind in KINDS), title=corpus)
        for arm in dict.fromkeys(r["arm"] for r in results):
            for size in (0, *SIZES):
                columns = [perplexities(results, arm, corpus, size, kind) for kind in KINDS]
                if columns[0]:
                    view.add_row(arm, f"{size:,}", *(spread(c) if c else "–" for c in columns))
        yield view


def picture(results: list[dict[str, Any]], corpus: str) -> go.Figure:
    """Perplexity against the size of the memory; models without one as level lines."""
    go = plotly_objects()
    figure = go.Figure()
    for n, arm in enumerate(dict.fromkeys(r["arm"] for r in results)):
        found = {s: perplexities(results, arm, corpus, s, "overall") for s in (0, *SIZES)}
        xs = [max(size, NONE) for size, values in found.items() if values]
        ys = [statistics.mean(values) for values in found.values() if values]
        spreads = [max(v) - min(v) for v in found.values() if v]
        if len(xs) == 1:
            xs, ys, spreads = [NONE, SIZES[-1]], ys * 2, spreads * 2
        figure.add_scatter(
            x=xs,
            y=ys,
            error_y={"type": "data", "array": [s / 2 for s in spreads], "thickness": 1},
            name=arm,
            mode="lines+markers" if arm == OURS else "lines",
            line={"color": LINE_COLOURS[n], "dash": "solid" if arm == OURS else "dot"},
        )
    style(figure, 420)
    labels = {NONE: "none", **{n: f"{n:,}" for n in SIZES}}
    figure.update_xaxes(
        title="tokens remembered", type="log", tickvals=list(labels), ticktext=list(labels.values())
    )
    figure.update_yaxes(title=f"perplexity, {corpus} test")
    return figure


def report(results: list[dict[str, Any]]) -> str:
    """A page with a picture per corpus."""
    plots = figures_html([picture(results, corpus) for corpus in CORPORA])
    sections = [tag("section", tag("h2", c), p) for c, p in zip(CORPORA, plots, strict=True)]
    return page("Long documents", tag("h1", "What memory is worth"), *sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/long"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, help="of each corpus's test text; default all")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    console = Console()
    configs = arms({"train.steps": options.steps, **parse_overrides(options.set)})
    how = (options.out, options.jobs, options.threads)
    tuned = run_all(list(tuning(configs)), *how)
    rates = best_rates(tuned)
    work = partial(train_and_score, max_tokens=options.max_tokens)
    results = run_all(list(jobs(configs, rates, options.seeds)), *how, work=work)
    check_same_data(results)
    atomic_write_json(options.out / "results.json", {"rates": rates, "arms": results})
    for view in tables(results):
        console.print(view)
    path = options.out / "memory.html"
    atomic_write_text(path, report(results))
    console.print(f"Pictures in {path}")


if __name__ == "__main__":
    main()
