"""The training loop.

B batch, T tokens of a window. A run is a pure function of (configuration, text): interrupted and
resumed, it takes the same updates, bit for bit, as uninterrupted.
"""

from __future__ import annotations

import math
import platform
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from state_core.adapters.k1_adapter import mean_scale, responsibility, update_scales
from state_core.audit import CausalityReport, audit_causality
from state_core.errors import ConfigError, MissingExtraError, TrainingError
from state_core.layers.moe import Routing
from state_core.memory.text_memory import TextMemory
from state_core.pipeline import SOSM
from state_core.training.batches import Batches
from state_core.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from state_core.training.evaluate import Evaluation, score_windows
from state_core.training.evaluate_documents import score_documents
from state_core.training.interrupt import Interrupt
from state_core.training.metrics import Sink, open_sinks
from state_core.training.optim import (
    build_optimizer,
    scale_learning_rates,
    set_learning_rate,
)
from state_core.training.progress import StepReport, Watcher
from state_core.training.schedule import learning_rate
from state_core.training.segments import SegmentBatches

FIRST_SAVE = 10  # a run that will fail to save should fail in its first minute
SMOOTHING = 20  # steps that the loss and the speed on display average over
K1_DEPTH = 4


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run_dir: Path
    steps: int
    interrupted: bool
    loss: float
    """Training loss over the last steps; NaN if none was taken."""
    tokens_per_second: float
    valid: Evaluation | None = field(repr=False)
    audit: CausalityReport = field(repr=False)
    data_hash: str
    seconds: float
    checkpoint: Path
    resume_command: str


@dataclass
class Trainer:
    """Trains `model` on `batches` and keeps its checkpoints and its log in `run_dir`.

    valid: ids of held-out text to evaluate on, tokenizer: fingerprint kept in every checkpoint,
    resume_command: what to tell a user who stopped the run.
    """

    model: SOSM
    batches: Batches
    run_dir: Path
    valid: NDArray[np.int64] | None = None
    tokenizer: str | None = None
    watcher: Watcher = field(default_factory=Watcher)
    resume_command: str = ""

    def __post_init__(self) -> None:
        self.train = self.model.config.train
        self.progress = Progress()
        self.resume_command = self.resume_command or resume_command(self.run_dir)
        accelerator = _accelerator()
        self._device = accelerator.device
        self._inner = build_optimizer(self.model.to(self._device), self.train)
        self._prepared, self._optimizer = accelerator.prepare(self.model, self._inner)
        self._accelerator = accelerator
        self._memory: TextMemory | None = None
        if self.model.config.memory.enabled:
            self._memory = self.model.new_memory(self.batches.batch_size)
        self._sinks: list[Sink] = []
        self._recent: list[float] = []
        self._speeds: list[float] = []
        self._edges: float | None = None
        self._routed: tuple[Routing, ...] = ()
        self._evaluation: Evaluation | None = None
        self._saved: Path | None = None

    def resume(self, checkpoint: Path) -> None:
        """Go to a checkpoint; CheckpointError if it is damaged or of another run."""
        self.progress, position = load_checkpoint(
            checkpoint, self.model, self._inner, self.tokenizer, self._memory
        )
        self.batches.load_state_dict(position)
        self._saved = checkpoint

    def fit(self) -> TrainResult:
        """Train to the last step, or until Ctrl-C, which saves first.

        TrainingError if the loss or a gradient is not finite: the step is not taken.
        """
        self.audit = audit_causality(self.model)
        if not self.audit.passed:
            self.watcher.on_message(f"{self.audit}\nThis run shows its loss, but no perplexity.")
        self._sinks = open_sinks(self.model.config, self.run_dir, self.progress.step)
        try:
            self._write("start", **self._description())
            with Interrupt() as interrupt:
                while self.progress.step < self.train.steps and not interrupt.requested:
                    self._step()
                return self._finish(interrupted=interrupt.requested)
        finally:
            for sink in self._sinks:
                sink.close()

    def _step(self) -> None:
        began = time.perf_counter()
        train = self.train
        rate = learning_rate(self.progress.step, train)
        set_learning_rate(self._inner, rate)
        self.model.train()
        parameters = list(self.model.parameters())
        loss = sum(self._backward(self.batches.next()) for _ in range(train.accumulate))
        loss /= train.accumulate
        total_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = float(total_norm)
        self._require_finite(loss, norm)
        self._hold_responsible()
        nn.utils.clip_grads_with_norm_(parameters, train.grad_clip, total_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._account(loss, norm, rate, time.perf_counter() - began)
        self._after_step()

    def _hold_responsible(self) -> None:
        """K-1, between the backward pass and the optimiser's step."""
        step, train = self.progress.step + 1, self.train
        logs = train.k1_every and (step == 1 or step % train.k1_every == 0)
        if not logs and not train.k1_strength:
            return
        held, intervention = responsibility(self.model), {}
        if train.k1_strength:
            scales = update_scales(held, train.k1_strength)
            scale_learning_rates(self._inner, scales)
            intervention = {"mean_scale": mean_scale(held, scales)}
        if logs:
            self._write("k1", step, shares=held.to_dict(K1_DEPTH), **intervention)

    def _backward(self, ids: Tensor) -> float:
        ids = ids.to(self._device)
        with self._autocast():
            out = self._prepared(
                ids, labels=ids, return_graph=self._logs_next, memory=self._recollection()
            )
        total = out.loss if out.aux_loss is None else out.loss + out.aux_loss
        self._accelerator.backward(total / self.train.accumulate)
        if self._memory is not None and isinstance(self.batches, SegmentBatches):
            self._memory.append(ids, out.keepsake, self.batches.documents)
        if out.graph is not None:
            self._edges = float(out.graph.counts.double().mean())
        self._routed = out.routing
        return float(out.loss.detach())

    def _recollection(self) -> TextMemory | None:
        """What is remembered of the text so far; of another epoch's nothing, which is this one's
        again: a model that remembers the very text learns to copy it."""
        memory, batches = self._memory, self.batches
        if memory is not None and isinstance(batches, SegmentBatches) and batches.begins:
            memory.clear()
        return memory

    @property
    def _logs_next(self) -> bool:
        """Whether the step under way ends with a line of the log."""
        step = self.progress.step + 1
        return step == 1 or step % self.train.log_every == 0 or step == self.train.steps

    def _account(self, loss: float, norm: float, rate: float, seconds: float) -> None:
        logs = self._logs_next
        progress, train = self.progress, self.train
        progress.step += 1
        progress.seconds += seconds
        progress.losses.append(loss)
        tokens = train.accumulate * self.batches.batch_size * self.batches.seq_len
        self._recent = [*self._recent[1 - SMOOTHING :], loss]
        self._speeds = [*self._speeds[1 - SMOOTHING :], tokens / seconds]
        speed = float(np.median(self._speeds))
        if logs:
            self._write(
                "train",
                loss=math.fsum(progress.losses) / len(progress.losses),
                lr=rate,
                grad_norm=norm,
                tokens_per_second=speed,
                edges_per_token=self._edges,
                seconds=progress.seconds,
                **_usage(self._routed),
            )
            progress.losses.clear()
        mean = math.fsum(self._recent) / len(self._recent)
        self.watcher.on_step(
            StepReport(
                step=progress.step,
                steps=train.steps,
                loss=mean,
                perplexity=math.exp(min(mean, 700.0)) if self.audit.passed else None,
                tokens_per_second=speed,
                edges_per_token=self._edges,
                seconds_left=(train.steps - progress.step) * tokens / speed,
            )
        )

    def _after_step(self) -> None:
        step, train = self.progress.step, self.train
        if step == train.steps:
            return  # _finish evaluates and saves
        if step % train.eval_every == 0:
            self._evaluate()
        if step == min(FIRST_SAVE, train.save_every) or step % train.save_every == 0:
            self._save()

    def _evaluate(self) -> None:
        if self.valid is None:
            return
        evaluation = self._score(self.valid)
        scores: dict[str, Any] = {s.name: s.loss for s in evaluation.scores if s.tokens}
        self._write("valid", loss=scores.pop("overall"), **scores)
        self.watcher.on_evaluation(self.progress.step, evaluation, self.audit.passed)
        self._evaluation = evaluation

    def _score(self, valid: NDArray[np.int64]) -> Evaluation:
        """As the model is trained: over windows, or over consecutive segments with its memory."""
        config, train = self.model.config, self.train
        if config.memory.enabled:
            tokens = train.eval_batches * train.batch_size * train.seq_len
            with self._autocast():
                return score_documents(
                    self.model,
                    valid[:tokens],
                    remember=config.memory.capacity,
                    seq_len=train.seq_len,
                    recall_window=config.graph.window,
                )
        return score_windows(
            self.model,
            valid,
            seq_len=train.seq_len,
            batch_size=train.batch_size,
            recall_window=config.graph.window,
            max_batches=train.eval_batches,
            autocast=self._autocast,
        )

    def _save(self) -> None:
        self._saved = save_checkpoint(
            self.run_dir,
            self.progress,
            self.model,
            self._inner,
            self.batches.state_dict(),
            self.tokenizer,
            self._memory,
        )

    def _finish(self, interrupted: bool) -> TrainResult:
        if not interrupted:
            self._evaluate()
        if self._saved is None or self._saved.name != f"step-{self.progress.step:06d}":
            self._save()
        assert self._saved is not None
        if interrupted:
            self.watcher.on_message(
                f"Stopped after step {self.progress.step} of {self.train.steps}; everything is "
                f"saved in {self._saved}. Go on with:\n  {self.resume_command}"
            )
        self.model.eval()
        result = TrainResult(
            run_dir=self.run_dir,
            steps=self.progress.step,
            interrupted=interrupted,
            loss=math.fsum(self._recent) / len(self._recent) if self._recent else math.nan,
            tokens_per_second=float(np.median(self._speeds)) if self._speeds else 0.0,
            valid=self._evaluation,
            audit=self.audit,
            data_hash=self.batches.data_hash(),
            seconds=self.progress.seconds,
            checkpoint=self._saved,
            resume_command=self.resume_command,
        )
        self._write("end", interrupted=interrupted, seconds=result.seconds)
        return result

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        bad = [
            name
            for name, p in self.model.named_parameters()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        where = f"; the gradient of {bad[0]} is the first of {len(bad)} that is not" if bad else ""
        kept = f"The last checkpoint is {self._saved}" if self._saved else "Nothing was saved yet"
        raise TrainingError(
            f"step {self.progress.step + 1}: the loss is {loss} and the gradient's norm {norm}, "
            f"not finite{where}. The step was not taken. {kept}. Try a lower train.lr (now "
            f"{self.train.lr}), a longer train.warmup ({self.train.warmup}), a smaller "
            f"train.grad_clip ({self.train.grad_clip}) or train.precision = fp32"
        )

    def _description(self) -> dict[str, Any]:
        return {
            "config": self.model.config.to_dict(),
            "parameters": self.model.num_parameters(),
            "data_hash": self.batches.data_hash(),
            "audit_passed": self.audit.passed,
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }

    def _write(self, kind: str, step: int | None = None, **values: Any) -> None:
        step = self.progress.step if step is None else step
        for sink in self._sinks:
            sink.write({"kind": kind, "step": step, **values})

    def _autocast(self) -> torch.autocast:
        enabled = self.train.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)


def _usage(routed: tuple[Routing, ...]) -> dict[str, Any]:
    """How the experts of each routed layer shared the last batch; nothing without experts."""
    if not routed:
        return {}
    return {
        "expert_usage": [[round(share, 4) for share in r.usage.tolist()] for r in routed],
        "expert_imbalance": max(r.imbalance for r in routed),
    }


def resume_command(run_dir: Path) -> str:
    """What a user types to go on with a run."""
    return f"sosm train --resume {shlex.quote(str(run_dir))}"


def _accelerator() -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training") from error
    # Precision is set per run by _autocast: accelerate fixes its own for the life of a process.
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"training runs in one process, but accelerate started {accelerator.num_processes}"
        )
    return accelerator
