"""Synthetic tasks with exact labels, each of which asks for one ability and nothing else.

    probe = PROBES["mqar"](length=512, pairs=64)
    batch = probe.batch(8, seed=0)
    loss = model(batch.ids, labels=batch.labels).loss
    score = probe_accuracy(model, [probe.batch(8, seed) for seed in range(1000, 1010)])

The parameters of a task are the fields of its class; the same parameters and seed give the same
texts, whatever else was drawn before.
"""

from __future__ import annotations

from state_core.training.probes.accuracy import DistanceScore, ProbeScore, probe_accuracy
from state_core.training.probes.batch import Probe, ProbeBatch
from state_core.training.probes.induction import Induction
from state_core.training.probes.listops import ListOps
from state_core.training.probes.mqar import MQAR
from state_core.training.probes.needle import Needle
from state_core.training.probes.senses import Senses

PROBES: dict[str, type[Probe]] = {
    "mqar": MQAR,
    "induction": Induction,
    "listops": ListOps,
    "needle": Needle,
    "senses": Senses,
}

__all__ = [
    "MQAR",
    "PROBES",
    "DistanceScore",
    "Induction",
    "ListOps",
    "Needle",
    "Probe",
    "ProbeBatch",
    "ProbeScore",
    "Senses",
    "probe_accuracy",
]
