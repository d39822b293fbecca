"""The main job: train a small SOSM beside a transformer, compare them, and write a report.

    runs/quickstart/sosm/          a run each, see training.run
    runs/quickstart/transformer/
    runs/quickstart/report.html
    runs/quickstart/results.json   the table of the report

Run again, it reuses what is finished and goes on with what was interrupted, if the configuration
and the text are the same. Otherwise it starts anew, and what was there moves to `earlier-N`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from state_core import __version__
from state_core.analysis.explorer import Reader
from state_core.analysis.passages import Prediction, telling_predictions
from state_core.analysis.report import Arm, ReportData, write_report
from state_core.atomic import atomic_write_json
from state_core.audit import audit_causality
from state_core.config import SOSMConfig
from state_core.errors import CheckpointError
from state_core.machine import machine, versions
from state_core.pipeline import SOSM
from state_core.training import run
from state_core.training.baselines import matched_baseline
from state_core.training.batches import windows
from state_core.training.checkpoint import latest_checkpoint
from state_core.training.evaluate import evaluate
from state_core.training.metrics import read_metrics
from state_core.training.own_files import Document
from state_core.training.progress import Watcher
from state_core.training.run import Text
from state_core.training.tokenizer import Tokenizer

OURS, THEIRS = "sosm", "transformer"
NAMES = {OURS: "SOSM", THEIRS: "transformer"}
STYLES = {OURS: "ours", THEIRS: "theirs"}
STAGES = ("text", OURS, THEIRS, "evaluation", "report")
REPORT, RESULTS = "report.html", "results.json"
SPLIT = "test"  # the valid split has guided the choice of the preset's settings

PASSAGE = 64  # tokens whose graph is drawn
PROMPT, WRITTEN = 32, 160  # tokens
WINDOWS = 8  # of the held-out text, searched for telling predictions
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}


class Stage(Watcher):
    """A stage under way: what a training run reports, and a line on what came of it."""

    def on_done(self, detail: str, reused: bool = False) -> None:
        """The stage is complete."""


class Display(Protocol):
    """Shows stages as they happen, and what is worth a line of its own."""

    def stage(self, name: str) -> AbstractContextManager[Stage]: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """Where the report is, and the arms that it compares; `interrupted`: Ctrl-C came first."""

    report: Path
    arms: Sequence[Arm] = ()
    interrupted: bool = False


def quickstart(
    config: SOSMConfig,
    out: str | Path,
    display: Display,
    *,
    fresh: bool = False,
    command: str = "sosm quickstart",
) -> Outcome:
    """Do the whole job into the folder `out`.

    fresh: train anew even if finished runs are there. command: what the report says it was made by.
    """
    out = Path(out)
    with display.stage("text") as stage:
        text = run.load_text(config, report=stage.on_message)
        # A small text gives a smaller vocabulary, and both models must be of the same size.
        config = config.override({"vocab_size": min(config.vocab_size, text.tokenizer.vocab_size)})
        stage.on_done(_describe(text))
    configs = {OURS: config, THEIRS: matched_baseline(config, "transformer")}
    if moved := _make_room(out, configs, text, fresh):
        display.note(moved)
    for name, arm_config in configs.items():
        with display.stage(name) as stage:
            if _train(arm_config, out / name, text, stage):
                return Outcome(out / REPORT, interrupted=True)
    with display.stage("evaluation") as stage:
        arms = [_evaluate(name, out / name, text, stage) for name in configs]
        stage.on_done("; ".join(_summary(arm) for arm in arms))
    with display.stage("report") as stage:
        atomic_write_json(out / RESULTS, _results(arms, text))
        path = write_report(_collect(out / OURS, config, text, arms, command), out / REPORT)
        stage.on_done(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return Outcome(path, arms)


def _train(config: SOSMConfig, run_dir: Path, text: Text, stage: Stage) -> bool:
    """Bring a run to its end, from wherever it stands. Returns whether it was interrupted."""
    if (run_dir / run.MODEL_DIR).is_dir():
        stage.on_done("finished before, with the same configuration and text", reused=True)
        return False
    stage.on_message("starting; the first time, kernels are compiled")
    if _can_resume(run_dir):
        result = run.resume(run_dir, watcher=stage)
    else:
        result = run.train(config, run_dir, text=text, watcher=stage, overwrite=True)
    if result.interrupted:
        return True
    speed = f"{result.tokens_per_second:,.0f} tok/s"
    stage.on_done(f"{result.steps} steps, loss {result.loss:.3f}, {speed}")
    return False


def _can_resume(run_dir: Path) -> bool:
    try:
        latest_checkpoint(run_dir)
    except CheckpointError:
        return False
    return True


def _make_room(out: Path, configs: Mapping[str, SOSMConfig], text: Text, fresh: bool) -> str:
    """Clear the way where the runs in `out` cannot be used; says what became of them."""
    ours = [out / name for name in (*configs, REPORT, RESULTS)]
    present = [path for path in ours if path.exists()]
    for path in present:
        if path.is_dir() and any(path.iterdir()) and not (path / run.CONFIG_FILE).is_file():
            raise CheckpointError(
                f"{path} is there and is no run: choose another folder with --out"
            )
    if fresh:
        for path in present:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return ""
    reasons = [why for name, c in configs.items() if (why := _difference(out / name, c, text))]
    if not reasons:
        return ""
    taken = [int(p.name.removeprefix("earlier-")) for p in out.glob("earlier-*") if _numbered(p)]
    aside = out / f"earlier-{max(taken, default=0) + 1}"
    aside.mkdir(parents=True)
    for path in present:
        path.rename(aside / path.name)
    return f"the runs here differ ({reasons[0]}); they are now in {aside}"


def _difference(run_dir: Path, config: SOSMConfig, text: Text) -> str:
    """How a run differs from what is asked for; empty if there is none, or if it does not."""
    if not (run_dir / run.CONFIG_FILE).is_file():
        return ""
    started = read_metrics(run_dir, "start")
    if not started:
        return "a run without its log" if (run_dir / run.MODEL_DIR).is_dir() else ""
    before, now = _flat(started[-1]["config"]), _flat(config.to_dict())
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        return f"{key}: {before.get(key)} → {now.get(key)}"
    return "" if started[-1]["data_hash"] == _data_hash(config, text) else "other text"


def _evaluate(name: str, run_dir: Path, text: Text, stage: Stage) -> Arm:
    model, _ = run.load_run(run_dir)
    stage.on_message(f"auditing {NAMES[name]}")
    report = audit_causality(model)
    stage.on_message(f"scoring {NAMES[name]} on the {SPLIT} split")
    scores = evaluate(model, text.ids(SPLIT), report=report).to_dict() if report.passed else None
    log = read_metrics(run_dir)
    seconds = next((r["seconds"] for r in reversed(log) if r["kind"] == "end"), 0.0)
    return Arm(
        name=NAMES[name],
        style=STYLES[name],
        parameters=model.num_parameters(),
        tokens=model.config.train.steps * _tokens_per_step(model.config),
        seconds=seconds,
        audit_passed=report.passed,
        audit=str(report),
        evaluation=scores,
        log=log,
    )


def _collect(
    run_dir: Path, config: SOSMConfig, text: Text, arms: Sequence[Arm], command: str
) -> ReportData:
    """All that the report shows."""
    model, tokenizer = run.load_run(run_dir)
    document, passage = telling_passage(text.corpus.part(SPLIT), text)
    prompt = tokenizer.encode(passage)[:PROMPT]
    seed = config.train.seed
    written = model.generate(torch.tensor([prompt]), WRITTEN, seed=seed, **SAMPLING)[0].tolist()
    sampling = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in SAMPLING.items())
    return ReportData(
        corpus=config.data.source,
        held_out=_titles(text.corpus.part(SPLIT)),
        arms=arms,
        prompt=tokenizer.decode(prompt),
        generated=tokenizer.decode(written)[len(tokenizer.decode(prompt)) :],
        sampling=f"{sampling}, seed {seed}",
        graph=_graph(model, tokenizer, passage),
        graph_source=_title(document),
        predictions=_predictions(model, text),
        command=command,
        facts=_facts(config, text),
        config=config.to_dict(),
    )


def _graph(model: SOSM, tokenizer: Tokenizer, passage: str) -> dict[str, Any] | None:
    """The graph of a passage as the page's explorer takes it; None if the model builds none."""
    if not model.config.graph.enabled:
        return None
    return Reader("SOSM", model, tokenizer).read(tokenizer.encode(passage)[:PASSAGE])[1]


@torch.no_grad()
def _predictions(model: SOSM, text: Text) -> list[Prediction]:
    if not model.config.pointer.enabled:
        return []
    held_out = text.ids(SPLIT)
    ids = next(windows(held_out, model.config.train.seq_len, WINDOWS, "the held-out text"))
    return telling_predictions(model(ids, return_graph=True), ids, text.tokenizer.pieces)


def telling_passage(documents: Sequence[Document], text: Text) -> tuple[str, str]:
    """The document and the passage of a text in which most words occur again.

    Passages begin after an empty line, and are long enough for the graph's drawing where the text
    is. Only the first documents' beginnings are searched: any telling passage will do.
    """
    best = (-1, documents[0].name, documents[0].text)
    for name, whole in documents[:3]:
        for start in [0, *(m.end() for m in re.finditer(r"\n\s*\n", whole[:100_000]))]:
            passage = whole[start : start + 6 * PASSAGE].strip()
            words = [w.lower() for w in re.findall(r"[A-Za-z]{4,}", passage[: 4 * PASSAGE])]
            repeated = len(words) - len(set(words))
            # Lists of names and stage directions repeat more than people do.
            crowded = sum(w.isupper() for w in re.findall(r"[A-Za-z]{4,}", passage)) > 3
            if len(words) >= PASSAGE // 4 and not crowded and repeated > best[0]:
                best = (repeated, name, passage)
    return best[1], best[2]


def _results(arms: Sequence[Arm], text: Text) -> dict[str, Any]:
    return {
        "split": SPLIT,
        "held_out": [document.name for document in text.corpus.part(SPLIT)],
        "arms": [
            {
                "name": arm.name,
                "parameters": arm.parameters,
                "tokens": arm.tokens,
                "seconds": arm.seconds,
                "audit_passed": arm.audit_passed,
                "evaluation": arm.evaluation,
            }
            for arm in arms
        ],
    }


def _facts(config: SOSMConfig, text: Text) -> dict[str, str]:
    about = machine(torch.device("cpu"))
    return {
        "state_core": __version__,
        "versions": ", ".join(f"{k} {v}" for k, v in versions().items() if k != "state-core"),
        "machine": f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads",
        "system": str(about["system"]),
        "text": f"{config.data.source}, sha256 {text.corpus.fingerprint}",
        "first batches": f"sha256 {_data_hash(config, text)}",
        "seed": str(config.train.seed),
        "steps": f"{config.train.steps} of {_tokens_per_step(config):,} tokens",
    }


def _data_hash(config: SOSMConfig, text: Text) -> str:
    train = config.train
    return text.batches(train).data_hash()


def _tokens_per_step(config: SOSMConfig) -> int:
    return config.train.batch_size * config.train.seq_len * config.train.accumulate


def _describe(text: Text) -> str:
    documents = len(text.corpus.train)
    noun = "document" if documents == 1 else "documents"
    return f"{documents} {noun}, {len(text.train):,} tokens to train on"


def _summary(arm: Arm) -> str:
    perplexity = arm.perplexity("overall")
    return f"{arm.name} " + ("audit failed" if perplexity is None else f"{perplexity:.1f}")


def _titles(documents: Sequence[Document]) -> str:
    names = [_title(document.name) for document in documents[:4]]
    return ", ".join(names) + (" and others" if len(documents) > 4 else "")


def _title(name: str) -> str:
    return name.replace("_", " ").title() if re.fullmatch(r"[a-z0-9_]+", name) else name


def _numbered(path: Path) -> bool:
    return path.name.removeprefix("earlier-").isdigit()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
