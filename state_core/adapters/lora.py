"""LoRA (arXiv 2106.09685) through peft: a few trained numbers beside frozen matrices.

    adapters = Lora(model)                  # freezes the model, adds the adapter "default"
    … train model as ever …
    adapters.save("default", "law")         # a small file; the model's weights are not in it
    adapters.load("medicine", "medicine");  adapters.use("medicine")
    model = adapters.merge()                # a plain SOSM again, the adapter's weights in its own

The model stays the object that it was: it is called, audited and decoded as before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from state_core.checkpoint import read_tensors, write_tensors
from state_core.errors import CheckpointError, ConfigError, MissingExtraError
from state_core.pipeline import SOSM

ADAPTER_FILE = "adapter.safetensors"


class Lora:
    """The adapters of one model: a rank r, a scale alpha / r, and any number of names."""

    def __init__(
        self, model: SOSM, rank: int = 8, alpha: float = 16.0, name: str = "default"
    ) -> None:
        """Adapt every matrix of the layers. MissingExtraError without peft."""
        if rank < 1:
            raise ConfigError(f"a LoRA adapter needs a rank of at least 1, got {rank}")
        self._peft = _peft()
        self.model = model
        self.base = _fingerprint(model)
        self.options: dict[str, Any] = {"r": rank, "lora_alpha": alpha}
        targets = [n for n, m in model.named_modules() if _adaptable(n, m)]
        self._config = self._peft.LoraConfig(target_modules=targets, **self.options)
        self._tuner = self._peft.LoraModel(model, self._config, name)
        self.names = [name]
        self.use(name)

    def add(self, name: str) -> None:
        """A fresh adapter beside the others; ConfigError if the name is taken."""
        if name in self.names:
            raise ConfigError(f"an adapter named {name!r} is there already")
        self._tuner.peft_config[name] = self._config
        self._tuner.inject_adapter(self.model, name)
        self.names.append(name)
        self.use(self.active)

    @property
    def active(self) -> str:
        """The adapter that the model computes with."""
        return str(self._tuner.active_adapters[0])

    def use(self, name: str) -> None:
        """Let the model compute with this adapter, and train it alone."""
        self._require(name)
        self._tuner.set_adapter(name)

    def parameters(self) -> list[nn.Parameter]:
        """What training changes: the active adapter's."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def save(self, name: str, directory: str | Path) -> None:
        """Write adapter.safetensors into `directory`, atomically."""
        self._require(name)
        info = {"options": self.options, "base": self.base}
        tensors = self._peft.get_peft_model_state_dict(self.model, adapter_name=name)
        Path(directory).mkdir(parents=True, exist_ok=True)
        write_tensors(Path(directory) / ADAPTER_FILE, tensors, "lora adapter", info)

    def load(self, name: str, directory: str | Path) -> None:
        """Add what `save` wrote under a name of its own.

        CheckpointError if it is missing, altered, of another rank, or of another model.
        """
        path = Path(directory) / ADAPTER_FILE
        tensors, info = read_tensors(path, "lora adapter")
        if info["base"] != self.base:
            raise CheckpointError(f"{path} was trained beside another model's weights")
        if info["options"] != self.options:
            raise CheckpointError(f"{path} has {info['options']}, these adapters {self.options}")
        self.add(name)
        self._peft.set_peft_model_state_dict(self.model, tensors, adapter_name=name)

    def merge(self) -> SOSM:
        """Add the active adapter to the model's weights and take all adapters off."""
        merged: SOSM = self._tuner.merge_and_unload(adapter_names=[self.active])
        return merged.requires_grad_(True)

    def _require(self, name: str) -> None:
        if name not in self.names:
            raise ConfigError(f"no adapter {name!r}: there are {', '.join(self.names)}")


def _adaptable(name: str, module: nn.Module) -> bool:
    return name.startswith("blocks.") and isinstance(module, nn.Linear)


def _fingerprint(model: SOSM) -> str:
    """What an adapter must not part from: the weights that it was trained beside."""
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        plain: Tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "lora", "LoRA") from error
    return peft
