"""From a configuration to a trained model in a folder: what `sosm train` and `quickstart` call.

runs/mine/config.json      the configuration as it ran
runs/mine/tokenizer.json
runs/mine/metrics.jsonl    see training.metrics
runs/mine/checkpoints/     see training.checkpoint
runs/mine/model/           the trained model with its tokenizer: all that generation needs
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from state_core.atomic import atomic_write_json
from state_core.checkpoint import MODEL_FILE, read_info, save_model
from state_core.config import SOSMConfig, TrainConfig
from state_core.errors import CheckpointError
from state_core.pipeline import SOSM
from state_core.training.batches import Batches
from state_core.training.checkpoint import checkpoints_dir, latest_checkpoint
from state_core.training.corpora import Corpus, load_corpus
from state_core.training.loop import Trainer, TrainResult, resume_command
from state_core.training.malloc import keep_large_blocks
from state_core.training.manifests import Report
from state_core.training.metrics import METRICS_FILE
from state_core.training.progress import Watcher
from state_core.training.segments import SegmentBatches
from state_core.training.tokenizer import Tokenizer, cached_tokenizer, check_vocabulary

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
MODEL_DIR = "model"


@dataclass(frozen=True)
class Text:
    """A corpus with its tokenizer; the ids of a split are made when first asked for."""

    corpus: Corpus
    tokenizer: Tokenizer

    @cached_property
    def train(self) -> NDArray[np.int64]:
        return self._encode("train")

    @cached_property
    def valid(self) -> NDArray[np.int64]:
        return self._encode("valid")

    @cached_property
    def test(self) -> NDArray[np.int64]:
        return self._encode("test")

    def batches(self, train: TrainConfig) -> Batches:
        """What a run trains on, in its order."""
        sizes = train.batch_size, train.seq_len, train.seed
        if train.consecutive:
            return SegmentBatches(self.train, *sizes, end=self.tokenizer.end_of_document)
        return Batches(self.train, *sizes)

    def ids(self, part: str) -> NDArray[np.int64]:
        """The ids of `train`, `valid` or `test`; DataError for another name or an empty part."""
        self.corpus.part(part)
        ids: NDArray[np.int64] = getattr(self, part)
        return ids

    def _encode(self, part: str) -> NDArray[np.int64]:
        return self.tokenizer.encode_documents(self.corpus.require(part))


def load_text(
    config: SOSMConfig,
    tokenizer: Tokenizer | None = None,
    report: Report = lambda message: None,
) -> Text:
    """The text of a configuration, with a tokenizer learnt from its train split unless given."""
    corpus = load_corpus(config.data.source, config.data.split_seed, report)
    if tokenizer is None:
        tokenizer = cached_tokenizer(corpus.require("train"), config.vocab_size, report)
    return Text(corpus, tokenizer)


def train(
    config: SOSMConfig,
    run_dir: str | Path,
    *,
    overwrite: bool = False,
    text: Text | None = None,
    watcher: Watcher | None = None,
) -> TrainResult:
    """Train a new model into `run_dir`.

    text: one that is loaded already, as when several models read the same. overwrite: start anew
    where a run is; without it that is a CheckpointError. A text with fewer distinct pieces than
    `vocab_size` gets, and the model with it, a smaller vocabulary.
    """
    run_dir, watcher = Path(run_dir), watcher or Watcher()
    _claim(run_dir, overwrite)
    text = text or load_text(config, report=watcher.on_message)
    if text.tokenizer.vocab_size < config.vocab_size:
        size = text.tokenizer.vocab_size
        watcher.on_message(f"the text gives a vocabulary of {size} tokens, not {config.vocab_size}")
        config = config.override({"vocab_size": size})
    atomic_write_json(run_dir / CONFIG_FILE, config.to_dict())
    text.tokenizer.save(run_dir / TOKENIZER_FILE)
    return _fit(config, run_dir, text, watcher, None)


def resume(
    run_dir: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    watcher: Watcher | None = None,
) -> TrainResult:
    """Go on with a run from its latest checkpoint.

    The result equals, bit for bit, that of a run that was never interrupted. overrides: dotted keys
    under `train` such as more steps, which of course change what follows.
    """
    run_dir, watcher = Path(run_dir), watcher or Watcher()
    checkpoint = latest_checkpoint(run_dir)
    config = SOSMConfig.from_dict(read_info(checkpoint)["config"])
    if overrides:
        foreign = [key for key in overrides if not key.startswith("train.")]
        if foreign:
            raise CheckpointError(
                f"a run is resumed as it began: {foreign[0]} cannot change, only keys under train"
            )
        config = config.override(overrides)
        atomic_write_json(run_dir / CONFIG_FILE, config.to_dict())
    tokenizer = Tokenizer.load(run_dir / TOKENIZER_FILE)
    text = load_text(config, tokenizer, watcher.on_message)
    watcher.on_message(f"going on from {checkpoint}")
    return _fit(config, run_dir, text, watcher, checkpoint)


def load_run(folder: str | Path) -> tuple[SOSM, Tokenizer]:
    """The model and the tokenizer of a run, of its `model` folder or of one of its checkpoints.

    A run that has not finished gives its latest checkpoint. CheckpointError if there is none, or if
    the tokenizer is not the one that the model was trained with.
    """
    folder = Path(folder)
    model_dir = next(
        (d for d in (folder, folder / MODEL_DIR) if (d / MODEL_FILE).is_file()), None
    ) or latest_checkpoint(folder)
    homes = (model_dir, model_dir.parent, model_dir.parent.parent)
    home = next((d for d in homes if (d / TOKENIZER_FILE).is_file()), None)
    if home is None:
        raise CheckpointError(f"there is no {TOKENIZER_FILE} beside the model in {model_dir}")
    tokenizer = Tokenizer.load(home)
    model = SOSM.from_pretrained(model_dir)
    check_vocabulary(tokenizer, model.config.vocab_size, read_info(model_dir)["tokenizer"])
    return model, tokenizer


def _fit(
    config: SOSMConfig, run_dir: Path, text: Text, watcher: Watcher, checkpoint: Path | None
) -> TrainResult:
    keep_large_blocks()
    check_vocabulary(text.tokenizer, config.vocab_size)
    settings = config.train
    batches = text.batches(settings)
    torch.manual_seed(settings.seed)
    model = SOSM(config)
    fingerprint = text.tokenizer.fingerprint
    trainer = Trainer(model, batches, run_dir, text.valid, fingerprint, watcher)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    with watcher, _matmul(settings.matmul):
        result = trainer.fit()
    if not result.interrupted:
        save_model(model, run_dir / MODEL_DIR, fingerprint)
        text.tokenizer.save(run_dir / MODEL_DIR / TOKENIZER_FILE)
    return result


@contextmanager
def _matmul(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _claim(run_dir: Path, overwrite: bool) -> None:
    """Make sure that a new run mixes with no old one."""
    run_parts = (checkpoints_dir(run_dir), run_dir / MODEL_DIR, run_dir / METRICS_FILE)
    present = [path for path in run_parts if path.exists()]
    if present and not overwrite:
        raise CheckpointError(
            f"{run_dir} holds a run already. Go on with it:\n  {resume_command(run_dir)}\n"
            "or choose another folder, or overwrite it"
        )
    for path in present:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
