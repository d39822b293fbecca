"""Which explanation of a prediction is faithful? Ours beside what others would give.

Models are trained, then asked about the likeliest words at places of held-out text: by which edges
of the row does each method say that the word came, and what does its probability do when these
edges are cut, or kept alone? All methods explain the same predictions, at equal size. Differences
are paired by prediction.

    python -m experiments.faithfulness --out runs/faithfulness --steps 150
    python -m experiments.faithfulness --steps 2 --seeds 1 --texts 1    # does it run?
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.harness import Job, run, run_all, spread
from state_core.analysis.faithfulness import Curve, faithfulness, methods
from state_core.analysis.html import Html, page, tag
from state_core.analysis.peers import peers
from state_core.analysis.plot import faithfulness as figure_of
from state_core.atomic import atomic_write_json, atomic_write_text
from state_core.config import SOSMConfig, parse_overrides
from state_core.pipeline import SOSM
from state_core.training.batches import windows
from state_core.training.run import load_run, load_text

OURS = "edge gates"
LENGTH, FIRST, EVERY = 192, 70, 13  # tokens of a text; the places in it that are asked about
SIZE = 3  # edges of an explanation
Z = 1.96  # of a 95 % interval
# measure → its name, and whether more of it is better
MEASURES = {
    "each_deletion": ("deletion", -1),
    "each_insertion": ("insertion", 1),
    "each_fid_plus": ("fid+", 1),
    "each_fid_minus": ("fid−", -1),
}


def measure(model: SOSM, texts: Sequence[torch.Tensor], seed: int) -> list[Curve]:
    """Every method over all predictions of texts [1,T]."""
    positions = range(FIRST, LENGTH - 1, EVERY)
    chosen = methods(seed) | peers()
    found = [faithfulness(model, ids, list(positions), chosen, SIZE) for ids in texts]
    return [_joined(curves) for curves in zip(*found, strict=True)]


def _joined(curves: Sequence[Curve]) -> Curve:
    """One method over several texts, of as many predictions each."""
    each = {name: torch.cat([getattr(c, name) for c in curves]) for name in MEASURES}
    deletion = torch.stack([c.deletion for c in curves]).mean(0)
    insertion = torch.stack([c.insertion for c in curves]).mean(0)
    return replace(curves[0], deletion=deletion, insertion=insertion, **each)


def train_and_measure(job: Job, out: Path, threads: int, texts: int) -> dict[str, Any]:
    """Train one job and explain its predictions, unless an earlier call did."""
    found = run(job, out, threads)
    path = out / job.folder / f"faithfulness-{texts}.json"
    if not path.is_file():
        torch.set_num_threads(threads)
        model, tokenizer = load_run(out / job.folder)
        rows = list(windows(load_text(model.config, tokenizer).test, LENGTH, 1))
        # Evenly over the held-out documents.
        chosen = rows[:: max(len(rows) // texts, 1)][:texts]
        curves = measure(model, chosen, job.config.train.seed)
        atomic_write_json(path, {c.method: _to_dict(c) for c in curves})
    return {**found, "methods": json.loads(path.read_text())}


def _to_dict(curve: Curve) -> dict[str, list[float]]:
    names = ("at", "deletion", "insertion", *MEASURES)
    return {name: getattr(curve, name).tolist() for name in names}


def curves_of(results: list[dict[str, Any]], arm: str) -> list[Curve]:
    """The methods over all seeds of an arm."""
    found = [r["methods"] for r in results if r["arm"] == arm]
    return [_joined([_from_dict(method, seed[method]) for seed in found]) for method in found[0]]


def _from_dict(method: str, values: dict[str, list[float]]) -> Curve:
    return Curve(method, **{name: torch.tensor(v) for name, v in values.items()})


def table(results: list[dict[str, Any]], arm: str) -> Table:
    """Means over the predictions, ± standard deviation over the seeds."""
    view = Table("explanation", *(name for name, _ in MEASURES.values()), title=arm)
    found = [r["methods"] for r in results if r["arm"] == arm]
    for method in found[0]:
        means = [[statistics.mean(seed[method][m]) for seed in found] for m in MEASURES]
        view.add_row(method, *(spread(values, digits=3) for values in means))
    return view


def gains(
    results: list[dict[str, Any]], arm: str, other: str
) -> Iterator[tuple[str, float, float]]:
    """By how much ours is better than another method, by measure: the mean over the predictions of
    all seeds, and half the width of its 95 % interval; below zero, ours is worse."""
    found = {c.method: c for c in curves_of(results, arm)}
    for measure, (name, sign) in MEASURES.items():
        gain = sign * (getattr(found[OURS], measure) - getattr(found[other], measure)).double()
        yield name, float(gain.mean()), Z * float(gain.std()) / math.sqrt(len(gain))


def comparison(results: list[dict[str, Any]], arm: str) -> Table:
    """Ours against each other method, and on which measures it wins and loses."""
    count = len(curves_of(results, arm)[0].each_deletion)
    title = f"{arm}: by how much {OURS} are better, {count} predictions, 95 % intervals"
    columns = (name for name, _ in MEASURES.values())
    view = Table("than", *columns, "wins", "loses", title=title)
    for other in (c.method for c in curves_of(results, arm) if c.method != OURS):
        rows = list(gains(results, arm, other))
        wins = [name for name, gain, half in rows if gain > half]
        loses = [name for name, gain, half in rows if gain < -half]
        cells = (f"{gain:+.3f} ± {half:.3f}" for _, gain, half in rows)
        view.add_row(other, *cells, ", ".join(wins) or "–", ", ".join(loses) or "–")
    return view


def report(results: list[dict[str, Any]]) -> str:
    """A page with the curves of every model."""
    sections = []
    for n, arm in enumerate(dict.fromkeys(r["arm"] for r in results)):
        plot = figure_of(curves_of(results, arm)).to_html(full_html=False, include_plotlyjs=n == 0)
        sections.append(tag("section", tag("h2", arm), Html(plot)))
    return page("Faithfulness", tag("h1", "Which explanation is faithful?"), *sections)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/faithfulness"))
    parser.add_argument("--presets", nargs="+", default=["default", "phase6"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=4, help="of ten predictions, for each model")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    changes = {"train.steps": options.steps, **parse_overrides(options.set)}
    jobs = [
        Job(name, SOSMConfig.preset(name).override({**changes, "train.seed": seed}))
        for seed in range(options.seeds)
        for name in options.presets
    ]
    work = partial(train_and_measure, texts=options.texts)
    results = run_all(jobs, options.out, options.jobs, options.threads, work=work)
    atomic_write_json(options.out / "results.json", results)
    console = Console()
    for name in options.presets:
        console.print(table(results, name))
        console.print(comparison(results, name))
    path = options.out / "faithfulness.html"
    atomic_write_text(path, report(results))
    console.print(f"Picture in {path}")


if __name__ == "__main__":
    main()
