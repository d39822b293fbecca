"""`sosm train` and `sosm eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from state_core.cli.console import bar, console, status
from state_core.cli.options import (
    ConfigFile,
    Data,
    Overrides,
    Preset,
    Run,
    Seed,
    Steps,
    build_config,
)
from state_core.errors import CausalityError, ConfigError

if TYPE_CHECKING:
    from state_core.training.evaluate import Evaluation

DEFAULT_RUN = Path("runs/sosm")
KINDS = ("recall", "distant", "other")


def train(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    data: Data = None,
    steps: Steps = None,
    seed: Seed = None,
    run_dir: Annotated[
        Path | None, typer.Option(help=f"Where the run goes. [default: {DEFAULT_RUN}]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the run in this folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where a run is already.")
    ] = False,
) -> None:
    """Train a model. Ctrl-C saves, and says how to go on.

    Examples:

    - sosm train --data shakespeare --steps 600
    - sosm train --config mine.toml --set graph.k_max=8 --run-dir runs/mine
    - sosm train --resume runs/mine --set train.steps=2000
    """
    from state_core.training import run
    from state_core.training.progress import ConsoleWatcher

    watcher = ConsoleWatcher(console)
    if resume is None:
        cfg = build_config(
            preset, config, set_, data__source=data, train__steps=steps, train__seed=seed
        )
        result = run.train(cfg, run_dir or DEFAULT_RUN, overwrite=overwrite, watcher=watcher)
    else:
        _refuse({"--preset": preset, "--config": config, "--data": data, "--seed": seed,
                 "--run-dir": run_dir, "--overwrite": overwrite or None})  # fmt: skip
        result = run.resume(resume, overrides=_changes(set_, steps), watcher=watcher)
    if result.interrupted:
        raise typer.Exit(130)
    console.print(
        f"Trained {result.steps} steps in {result.seconds:,.0f} s; the model is in "
        f"{result.run_dir / run.MODEL_DIR}.\nNext: sosm eval --run {result.run_dir}",
        soft_wrap=True,
    )


def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="valid or test.")] = "valid",
    data: Annotated[
        str | None, typer.Option(help="Evaluate on this corpus instead of the run's own.")
    ] = None,
    max_batches: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many batches of windows.")
    ] = None,
    remember: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Read the text in order, segment by segment, with so many tokens in memory.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the JSON goes. [default: eval.json in the run]")
    ] = None,
) -> None:
    """Audit a model's causality, then give its perplexity. No perplexity without a passed audit.

    Recall tokens are those whose pair with the token before them occurred earlier in the context,
    outside the sequential window. With --remember, distant tokens are those whose pair occurred in
    earlier segments only; the targets are the same whatever is remembered.

    Examples:

    - sosm eval --run runs/mine --split test
    - sosm eval --run runs/mine --data sotu --remember 8192
    """
    from state_core.atomic import atomic_write_json
    from state_core.audit import audit_causality
    from state_core.training.evaluate import evaluate as score_windows
    from state_core.training.evaluate_documents import evaluate_documents
    from state_core.training.run import load_run, load_text

    model, tokenizer = load_run(run)
    report = audit_causality(model)
    record: dict[str, Any] = {"run": str(run), "audit_passed": report.passed, "audit": str(report)}
    out = out or run / "eval.json"
    if not report.passed:
        atomic_write_json(out, record)
        raise CausalityError(f"no perplexity is given.\n{report}")
    console.print(f"[green]✓[/] {report}")
    config = model.config.override({"data.source": data}) if data else model.config
    text = load_text(config, tokenizer, status)
    ids = text.ids(split)
    if remember is None:
        evaluation = score_windows(model, ids, max_batches=max_batches, report=report)
    else:
        sizes = model.config.train
        per_batch = sizes.batch_size * sizes.seq_len
        ids = ids[: max_batches * per_batch] if max_batches else ids
        with bar("reading", len(ids)) as progress:
            evaluation = evaluate_documents(
                model,
                ids,
                remember=remember,
                end=tokenizer.end_of_document,
                report=report,
                progress=progress,
            )
        record["remembered"] = remember
    record |= {"data": config.data.source, "split": split, **evaluation.to_dict()}
    atomic_write_json(out, record)
    console.print(_scores(evaluation, f"{config.data.source}, {split}"))
    console.print(f"Written to {out}", soft_wrap=True)


def _scores(evaluation: Evaluation, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("tokens", "loss", "perplexity"):
        table.add_column(name, justify="right")
    for score in evaluation.scores:
        numbers = (f"{score.loss:.4f}", f"{score.perplexity:.2f}") if score.tokens else ("–", "–")
        name = f"{score.name} tokens" if score.name in KINDS else score.name
        table.add_row(name, f"{score.tokens:,}", *numbers)
    return table


def _changes(overrides: list[str] | None, steps: int | None) -> dict[str, Any]:
    from state_core.config import parse_overrides

    changes = {} if steps is None else {"train.steps": steps}
    return {**changes, **parse_overrides(overrides or [])}


def _refuse(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]} does not go with --resume: a run goes on as it began")
