"""What a run writes down: JSON lines always, TensorBoard and W&B (offline) when asked.

Each line of metrics.jsonl has a `kind` (start, train, valid, k1, end) and a `step`, the number of
updates made, for k1 the one about to be made included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from state_core.atomic import atomic_write_text
from state_core.config import SOSMConfig
from state_core.errors import MissingExtraError, StorageError

METRICS_FILE = "metrics.jsonl"


class Sink(Protocol):
    """Somewhere that numbers go."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def read_metrics(run_dir: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a run, or those of one kind. A line cut short by a kill is left out."""
    path = Path(run_dir) / METRICS_FILE
    if not path.is_file():
        return []
    records = [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in records if r is not None and kind in (None, r["kind"])]


def open_sinks(config: SOSMConfig, run_dir: Path, step: int) -> list[Sink]:
    """The sinks of a run that stands at `step`; lines of later steps are dropped.

    MissingExtraError if TensorBoard or W&B is asked for and not installed.
    """
    sinks: list[Sink] = [JsonLines(run_dir, step)]
    if config.train.tensorboard:
        sinks.append(TensorBoard(run_dir, step))
    if config.train.wandb:
        sinks.append(WeightsAndBiases(config, run_dir))
    return sinks


class JsonLines:
    """Appends to metrics.jsonl, each line at once."""

    def __init__(self, run_dir: Path, step: int) -> None:
        self.path = run_dir / METRICS_FILE
        # What a run did after its last checkpoint is done again when it resumes.
        kept = [r for r in read_metrics(run_dir) if r["step"] <= step and r["kind"] != "end"]
        atomic_write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept if step))
        self._file = self.path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error}. The last checkpoint is unchanged"
            ) from error

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars as events under run/tensorboard."""

    def __init__(self, run_dir: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "train", "train.tensorboard = true") from error
        self._writer: Any = SummaryWriter(run_dir / "tensorboard", purge_step=step or None)

    def write(self, record: dict[str, Any]) -> None:
        for name, value in _scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Scalars for `wandb sync` under run/wandb; nothing goes over a network."""

    def __init__(self, config: SOSMConfig, run_dir: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb", "train.wandb = true") from error
        self._run: Any = wandb.init(
            project="state-core",
            name=run_dir.name,
            dir=str(run_dir),
            config=config.to_dict(),
            mode="offline",
        )

    def write(self, record: dict[str, Any]) -> None:
        if scalars := _scalars(record):
            self._run.log(scalars, step=record["step"])

    def close(self) -> None:
        self._run.finish()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"kind", "step"} <= record.keys() else None


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    """Numbers of train and valid records, named `train/loss`, `valid/recall`, …"""
    if record["kind"] not in ("train", "valid"):
        return {}
    return {
        f"{record['kind']}/{name}": float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }
