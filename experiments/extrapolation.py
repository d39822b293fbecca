"""What a longer text than any seen in training is worth: how well each way of knowing positions
extrapolates, beside a transformer and pure Mamba-2 of equal size.

Every arm is trained on windows of T tokens, and then reads held-out documents T, 2T, 4T and 8T
tokens at a time. The same targets are scored at every length, so that only what was read before
them differs; `experiments/long_windows.py` says which.

    python -m experiments.extrapolation --out runs/extrapolation
    python -m experiments.extrapolation --steps 5 --seeds 1 --windows 2     # does it run?
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments.harness import Job, check_same_data, run_all, spread
from experiments.long_windows import FACTORS, KINDS, kinds_of, long_windows, score
from state_core.analysis.html import page, tag
from state_core.analysis.plot.look import LINE_COLOURS, figures_html, plotly_objects, style
from state_core.atomic import atomic_write_json, atomic_write_text
from state_core.config import SOSMConfig, parse_overrides
from state_core.training.baselines import matched_baseline
from state_core.training.batches import Batches
from state_core.training.run import CONFIG_FILE, MODEL_DIR, Text, load_run, load_text, train

if TYPE_CHECKING:
    import plotly.graph_objects as go

POSITIONS = ("rope", "alibi", "graph_alibi", "graph_rope", "none")
RESULTS = "extrapolation.json"
DASHES = ("solid", "dot", "dash")


def arms(base: SOSMConfig) -> dict[str, SOSMConfig]:
    """`base` with each kind of positions, and its baselines."""
    landmarks = {"graph.landmarks": base.graph.landmarks or 16}
    ours = {
        f"SOSM {kind}": base.override(
            {"attention.positions": kind, **(landmarks if kind.startswith("graph_") else {})}
        )
        for kind in POSITIONS
    }
    plain = base.override({"attention.positions": "rope"})
    return {
        **ours,
        "transformer rope": matched_baseline(plain, "transformer"),
        "Mamba-2": matched_baseline(plain, "mamba2"),
    }


def jobs(base: SOSMConfig, chosen: Sequence[str], seeds: int) -> Iterator[Job]:
    """Every arm, seed by seed."""
    configs = arms(base)
    for seed in range(seeds):
        for arm in chosen:
            yield Job(arm, configs[arm].override({"train.seed": seed}))


def measure(job: Job, out: Path, threads: int, windows: int | None) -> dict[str, Any]:
    """Train and score one job. What an earlier call finished is read, not done again."""
    folder, settings = out / job.folder, job.config.train
    asked = {"config": job.config.to_dict(), "windows": windows, "factors": list(FACTORS)}
    path = folder / RESULTS
    if path.is_file() and (found := json.loads(path.read_text()))["asked"] == asked:
        return found
    torch.set_num_threads(threads)
    text = load_text(job.config)
    if not trained(folder, job.config):
        result = train(job.config, folder, overwrite=True, text=text)
        if result.interrupted:  # half a training is not an arm
            raise KeyboardInterrupt
    model, _ = load_run(folder)
    rows, window = long_windows(held_out(text), settings.seq_len, windows), job.config.graph.window
    lengths = score(model, rows, settings.seq_len, window)
    batches = Batches(text.train, settings.batch_size, settings.seq_len, settings.seed)
    masks = kinds_of(rows, settings.seq_len, window)
    found = {
        "asked": asked,
        "arm": job.arm,
        "seed": settings.seed,
        "parameters": model.num_parameters(),
        "data_hash": batches.data_hash(),
        "targets": {kind: int(mask.sum()) for kind, mask in masks.items()},
        "lengths": lengths,
        "test": {kind: {"loss": loss} for kind, loss in lengths[0]["loss"].items()},
    }
    atomic_write_json(path, found)
    return found


def trained(folder: Path, config: SOSMConfig) -> bool:
    """Whether a folder holds the finished model of this very configuration."""
    if not (folder / MODEL_DIR).is_dir():
        return False
    kept = SOSMConfig.from_file(folder / CONFIG_FILE)
    # A small text gives a smaller vocabulary than was asked for.
    return kept.override({"vocab_size": config.vocab_size}) == config


def held_out(text: Text) -> list[NDArray[np.int64]]:
    """The ids of each test document."""
    return [text.tokenizer.encode_documents([d]) for d in text.corpus.require("test")]


def perplexities(found: list[dict[str, Any]], arm: str, kind: str) -> list[list[float]]:
    """An arm's perplexity on a kind of targets: at each length, seed by seed."""
    rows = sorted((r for r in found if r["arm"] == arm), key=lambda r: r["seed"])
    return [
        [math.exp(r["lengths"][n]["loss"].get(kind, math.nan)) for r in rows]
        for n in range(len(FACTORS))
    ]


def table(found: list[dict[str, Any]], kind: str) -> Table:
    """Mean and standard deviation over the seeds, at each length."""
    targets = found[0]["targets"][kind]
    view = Table(title=f"perplexity, {kind} ({targets:,} targets)", title_justify="left", box=None)
    view.add_column("arm")
    view.add_column("parameters", justify="right")
    for point in found[0]["lengths"]:
        view.add_column(f"{point['length']:,} ({point['factor']}×)", justify="right")
    for arm in dict.fromkeys(r["arm"] for r in found):
        size = next(r["parameters"] for r in found if r["arm"] == arm)
        view.add_row(arm, f"{size:,}", *map(spread, perplexities(found, arm, kind)))
    return view


def picture(found: list[dict[str, Any]], kind: str, *, height: int = 460) -> go.Figure:
    """Perplexity against length, a line for each arm; whiskers are the deviation over seeds."""
    go = plotly_objects()
    lengths = [point["length"] for point in found[0]["lengths"]]
    figure = go.Figure()
    for n, arm in enumerate(dict.fromkeys(r["arm"] for r in found)):
        points = np.array(perplexities(found, arm, kind))
        figure.add_scatter(
            x=lengths,
            y=points.mean(axis=1),
            error_y={"array": points.std(axis=1, ddof=min(1, points.shape[1] - 1)), "thickness": 1},
            name=arm,
            mode="lines+markers",
            line={
                "color": LINE_COLOURS[n % len(LINE_COLOURS)],
                "dash": DASHES[n // len(LINE_COLOURS) % len(DASHES)],
            },
            hovertemplate=f"{arm}, %{{x}} tokens: %{{y:.2f}}<extra></extra>",
        )
    style(figure, height)
    ticks = [f"{length:,}" for length in lengths]
    figure.update_xaxes(title="tokens read", type="log", tickvals=lengths, ticktext=ticks)
    figure.update_yaxes(title=f"perplexity, {kind}", type="log")
    return figure


def write_page(found: list[dict[str, Any]], path: Path) -> None:
    """A figure for each kind of targets, in one page that holds all it needs."""
    body = [tag("h1", "Perplexity beyond the training length"), tag("p", _targets(found))]
    for kind, figure in zip(KINDS, figures_html([picture(found, kind) for kind in KINDS])):
        body += [tag("h2", kind), figure]
    atomic_write_text(path, page("Extrapolation", *body))


def _targets(found: list[dict[str, Any]]) -> str:
    counts = ", ".join(f"{kind} {count:,}" for kind, count in found[0]["targets"].items())
    length = found[0]["lengths"][0]["length"]
    return f"Trained on windows of {length:,} tokens. The same targets at every length: {counts}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/extrapolation"))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--data", default="sotu")
    parser.add_argument("--seq-len", type=int, default=512, help="T, in tokens")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", choices=list(arms(SOSMConfig.preset("default"))))
    parser.add_argument("--windows", type=int, help="score so many windows; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    base = SOSMConfig.preset(options.preset).override(
        {
            "data.source": options.data,
            "train.steps": options.steps,
            "train.seq_len": options.seq_len,
            **parse_overrides(options.set),
        }
    )
    planned = list(jobs(base, options.arms or list(arms(base)), options.seeds))
    work = partial(measure, windows=options.windows)
    found = run_all(planned, options.out, options.jobs, options.threads, work)
    check_same_data(found)
    atomic_write_json(options.out / "results.json", {"config": base.to_dict(), "runs": found})
    write_page(found, options.out / "extrapolation.html")
    console = Console()
    for kind in KINDS:
        console.print(table(found, kind))
    console.print(f"The picture is {options.out / 'extrapolation.html'}")


if __name__ == "__main__":
    main()
