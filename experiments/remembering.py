"""How well trained models predict held-out text that they read in order, by size of memory."""

from __future__ import annotations

from experiments.ledger import Setting
from experiments.measures import Runs
from state_core.audit import audit_causality
from state_core.checkpoint import load_tensors, model_tensors
from state_core.pipeline import SOSM
from state_core.training.evaluate_documents import evaluate_documents
from state_core.training.run import load_run, load_text

BATCHES = 4  # as much text is scored as so many batches hold


def perplexities(
    setting: Setting, runs: Runs, arm: str, remembered: tuple[int, ...], kind: str | None = None
) -> list[list[float]]:
    """An arm's perplexity on the first test tokens: seed by seed, for each size of memory, in
    tokens. kind: what finds what is remembered, if not what the arm was trained with."""
    found = []
    for result in runs[arm]:
        model, tokenizer = load_run(result["folder"])
        model = model if kind is None else with_memory(model, kind)
        ids = load_text(model.config, tokenizer).test[: BATCHES * setting.tokens]
        audit = audit_causality(model)
        scores = [
            evaluate_documents(
                model, ids, remember=size, end=tokenizer.end_of_document, report=audit
            )
            for size in remembered
        ]
        found.append([score.overall.perplexity for score in scores])
    return found


def remembering_ratio(
    setting: Setting, runs: Runs, arm: str, peer: str, remembered: int
) -> list[float]:
    """An arm's perplexity over its peer's, seed by seed, both with their memories."""
    ours, theirs = (
        [sizes[0] for sizes in perplexities(setting, runs, name, (remembered,))]
        for name in (arm, peer)
    )
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def with_memory(model: SOSM, kind: str) -> SOSM:
    """The same model, with another kind of memory."""
    other = SOSM(model.config.override({"memory.kind": kind})).eval()
    load_tensors(other, model_tensors(model), "the model")
    return other
