"""Everything needed to go on as if nothing had happened, in one folder per step.

    run/checkpoints/latest              names the newest folder
    run/checkpoints/step-000200/        model.safetensors, config.json: a model that loads by itself
                                        training.safetensors: the optimizer and the random states
                                        memory.safetensors: what is remembered, if anything
                                        state.json: step, data position, sums of the log, hashes

A folder appears whole (temporary name, rename), and only then does `latest` move: a kill at any
moment leaves the old checkpoint or the new one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from state_core.atomic import (
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    remove_directory,
    remove_leftovers,
    sha256_file,
)
from state_core.checkpoint import (
    MODEL_FILE,
    SCHEMA,
    load_tensors,
    read_info,
    read_tensors,
    save_model,
    write_tensors,
)
from state_core.errors import CheckpointError
from state_core.memory.text_memory import TextMemory
from state_core.pipeline import SOSM
from state_core.training.optim import load_optimizer, optimizer_tensors

TRAINING_FILE = "training.safetensors"
MEMORY_FILE = "memory.safetensors"
STATE_FILE = "state.json"
KEPT = 2


@dataclass
class Progress:
    """Where a run stands, apart from tensors."""

    step: int = 0
    seconds: float = 0.0
    """Time spent training, over all sittings."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of the log."""


def checkpoints_dir(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def save_checkpoint(
    run_dir: Path,
    progress: Progress,
    model: SOSM,
    optimizer: torch.optim.Optimizer,
    position: dict[str, int | str],
    tokenizer: str | None,
    memory: TextMemory | None = None,
) -> Path:
    """Write the checkpoint of this step, move `latest` to it, and drop all but the newest two."""
    root = checkpoints_dir(run_dir)
    remove_leftovers(root)
    target = root / f"step-{progress.step:06d}"
    with atomic_directory(target) as folder:
        save_model(model, folder, tokenizer)
        tensors = optimizer_tensors(optimizer, model) | _random_states()
        write_tensors(folder / TRAINING_FILE, tensors, "training", {})
        if memory is not None:
            write_tensors(folder / MEMORY_FILE, memory.tensors(), "training memory", {})
        written = sorted(path.name for path in folder.glob("*.safetensors"))
        files = {name: sha256_file(folder / name) for name in written}
        state = {"schema": SCHEMA, "position": position, "files": files, **asdict(progress)}
        atomic_write_json(folder / STATE_FILE, {**state, "sha256": _digest(state)})
    atomic_write_text(root / "latest", target.name + "\n")
    for old in [path for path in _folders(root) if path.name < target.name][: -(KEPT - 1)]:
        remove_directory(old)
    return target


def latest_checkpoint(run_dir: Path) -> Path:
    """The newest whole checkpoint; CheckpointError if there is none."""
    root = checkpoints_dir(run_dir)
    pointer = root / "latest"
    if pointer.is_file():
        named = root / pointer.read_text(encoding="utf-8").strip()
        if named.is_dir() and named.parent == root:
            return named
    if folders := _folders(root):
        return folders[-1]
    raise CheckpointError(f"{run_dir} holds no checkpoint: start the run anew, without resuming")


def load_checkpoint(
    folder: Path,
    model: SOSM,
    optimizer: torch.optim.Optimizer,
    tokenizer: str | None,
    memory: TextMemory | None = None,
) -> tuple[Progress, dict[str, int | str]]:
    """Put a model, its optimizer, the random states and the memory back; the rest is returned.

    CheckpointError if anything is missing, truncated, altered or of another model or tokenizer.
    """
    try:
        state = _read_state(folder)
        if read_info(folder)["tokenizer"] != tokenizer:
            raise CheckpointError(
                f"{folder} was trained with another tokenizer: resume with the run's tokenizer.json"
            )
        weights, _ = read_tensors(folder / MODEL_FILE, "model")
        tensors, _ = read_tensors(folder / TRAINING_FILE, "training")
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_what_else(folder)}") from error
    load_tensors(model, weights, folder / MODEL_FILE)
    if memory is not None:
        memory.load_tensors(read_tensors(folder / MEMORY_FILE, "training memory")[0])
    _set_random_states(tensors)
    entries = {key: value for key, value in tensors.items() if not key.startswith("random|")}
    load_optimizer(optimizer, model, entries)
    progress = Progress(state["step"], state["seconds"], state["losses"])
    return progress, state["position"]


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        expected = state.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if _digest(state) != expected:
        raise CheckpointError(f"{path} was altered after it was written: its sha256 differs")
    if state["schema"] != SCHEMA:
        raise CheckpointError(f"{path} has schema {state['schema']}, expected {SCHEMA}")
    for name, digest in state["files"].items():
        if not (folder / name).is_file():
            raise CheckpointError(f"there is no {folder / name}")
        if sha256_file(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name} is truncated or was altered: its sha256 differs"
            )
    return state


def _what_else(folder: Path) -> str:
    others = [path.name for path in _folders(folder.parent) if path != folder]
    if not others:
        return ""
    return f". {others[-1]} is there as well: delete {folder} to go on from it"


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if (path / STATE_FILE).is_file())


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _random_states() -> dict[str, Tensor]:
    states = {"random|cpu": torch.get_rng_state()}
    for i in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        states[f"random|cuda:{i}"] = torch.cuda.get_rng_state(i)
    return states


def _set_random_states(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random|cpu"])
    for i in range(torch.cuda.device_count()):
        if (state := tensors.get(f"random|cuda:{i}")) is not None:
            torch.cuda.set_rng_state(state, i)
