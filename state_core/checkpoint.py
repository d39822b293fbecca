"""Models and tensors on disk: safetensors that prove themselves, never a pickle.

A file carries its schema, what it is, and the sha256 of its tensors, so that a truncated, altered
or foreign file is refused. `model.safetensors` holds the configuration as well and is a whole model
by itself; `config.json` beside it is a copy to read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from state_core.atomic import atomic_save_tensors, atomic_write_json
from state_core.config import SOSMConfig
from state_core.errors import CheckpointError, ConfigError
from state_core.pipeline import SOSM, Backbone

SCHEMA = 1
MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


Model = TypeVar("Model", bound=Backbone)


def save_model(model: Backbone, directory: Path, tokenizer: str | None = None) -> None:
    """Write model.safetensors, atomically, and config.json into `directory`.

    tokenizer: fingerprint of the tokenizer that the model was trained with.
    """
    config = model.config.to_dict()
    directory.mkdir(parents=True, exist_ok=True)
    # A kill between the two files leaves weights without a copy of their configuration, which
    # load; weights beside another model's copy would not.
    (directory / CONFIG_FILE).unlink(missing_ok=True)
    info = {"config": config, "tokenizer": tokenizer}
    write_tensors(directory / MODEL_FILE, model_tensors(model), "model", info)
    atomic_write_json(directory / CONFIG_FILE, config)


@overload
def load_model(directory: Path) -> SOSM: ...


@overload
def load_model(directory: Path, kind: type[Model]) -> Model: ...


def load_model(directory: Path, kind: type[Backbone] = SOSM) -> Backbone:
    """The model that `save_model` wrote, in evaluation mode.

    CheckpointError if it is missing, truncated, altered or of another version.
    """
    tensors, info = read_tensors(directory / MODEL_FILE, "model")
    config = _config(directory, info)
    try:
        model = kind(config)  # type: ignore[call-arg]
    except ConfigError as error:
        raise CheckpointError(f"{directory / MODEL_FILE} is of another kind: {error}") from error
    load_tensors(model, tensors, directory / MODEL_FILE)
    return model.eval()


def read_info(directory: Path) -> dict[str, Any]:
    """What a saved model says of itself: `config`, and `tokenizer`, a fingerprint or None."""
    return read_tensors(directory / MODEL_FILE, "model")[1]


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tied parameter under its first name."""
    saved = model.state_dict()
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if name in saved}


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy tensors into a model's parameters and buffers; CheckpointError unless they match."""
    own = model_tensors(model)
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (" …" if len(problems) > 3 else "")
        raise CheckpointError(f"{path} is of another model: {shown}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], kind: str, info: Mapping[str, Any]
) -> None:
    """Write tensors and what they are, atomically. `info` must be JSON."""
    header = {"schema": SCHEMA, "kind": kind, "info": dict(info), "sha256": _digest(tensors, info)}
    atomic_save_tensors(path, tensors, {"state_core": json.dumps(header)})


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote; CheckpointError if the file is missing or altered."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("state_core", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    found = (header.get("kind"), header.get("schema"))
    if found != (kind, SCHEMA):
        raise CheckpointError(
            f"{path} is no {kind} of this version: it has kind {found[0]!r} and schema {found[1]}, "
            f"expected {kind!r} and {SCHEMA}"
        )
    if _digest(tensors, header["info"]) != header["sha256"]:
        raise CheckpointError(f"{path} was altered after it was written: its sha256 differs")
    return tensors, header["info"]


def _digest(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(directory: Path, info: Mapping[str, Any]) -> SOSMConfig:
    copy = directory / CONFIG_FILE
    if copy.exists() and _json(copy) != info["config"]:
        raise CheckpointError(
            f"{copy} is not the configuration of the {MODEL_FILE} beside it. Put it back, or "
            f"delete it: {MODEL_FILE} holds its own"
        )
    try:
        return SOSMConfig.from_dict(info["config"])
    except ConfigError as error:
        raise CheckpointError(f"{directory / MODEL_FILE} is of another version: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
