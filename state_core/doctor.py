"""What is installed, what the machine offers, and which backend each op takes here and why."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from typing import Literal

import torch
from rich.markup import escape
from rich.table import Table

from state_core import ops as _ops  # noqa: F401  (declares the ops)
from state_core.machine import cpu_model, installed_version, memory_gb, usable_cores
from state_core.ops.backend import REGISTRY

Status = Literal["ok", "absent", "warning"]

CORE = ("torch", "numpy", "numba", "pydantic", "safetensors", "typer", "rich")
EXTRAS: dict[str, tuple[str, ...]] = {
    "memory": ("hnswlib",),
    "milvus": ("pymilvus", "milvus-lite"),
    "train": ("accelerate", "tokenizers", "tensorboard"),
    "wandb": ("wandb",),
    "lora": ("peft",),
    "plots": ("plotly",),
    "graph": ("networkx", "torch-geometric"),
    "bench": (
        "faiss-cpu",
        "igraph",
        "mambapy",
        "networkit",
        "networkx",
        "pynndescent",
        "scipy",
        "torch-geometric",
        "transformers",
        "usearch",
    ),
    "analysis": ("captum", "nltk", "scikit-learn"),
    "serve": ("fastapi", "uvicorn"),
    "cluster": ("ray",),
    "triton": ("triton",),
    "cuda": ("triton", "mamba-ssm"),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    section: str
    name: str
    value: str
    status: Status = "ok"


def diagnose() -> list[Finding]:
    """Everything that decides how fast this installation runs, and what it cannot do."""
    return [*_system(), *_threads(), *_core(), *_extras(), *_backends()]


def render(findings: list[Finding]) -> Table:
    """The findings as a table for a rich console."""
    colour = {"ok": "green", "absent": "dim", "warning": "yellow"}
    mark = {"ok": "✓", "absent": "–", "warning": "!"}
    table = Table(show_header=False, box=None, pad_edge=False)
    previous: str | None = None
    for f in findings:
        tick = f"[{colour[f.status]}]{mark[f.status]}[/]"
        table.add_row("" if f.section == previous else f.section, f.name, tick, escape(f.value))
        previous = f.section
    return table


def _system() -> list[Finding]:
    device = "none; everything runs on the CPU"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    rows = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_model(),
        "memory": f"{memory_gb()} GiB" if memory_gb() else "unknown",
        "gpu": device,
    }
    return [Finding("system", name, value) for name, value in rows.items()]


def _threads() -> list[Finding]:
    cores, threads = usable_cores(), torch.get_num_threads()
    few = threads < cores
    advice = f"; torch uses {threads}: unset OMP_NUM_THREADS to use them all" if few else ""
    found = [
        Finding("threads", "cores", f"{cores} usable{advice}", "warning" if few else "ok"),
        Finding("threads", "torch", str(threads)),
        _numba_layer(),
    ]
    set_here = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    return found + [Finding("threads", name, value) for name, value in set_here.items()]


def _numba_layer() -> Finding:
    """Numba's threading layer: OpenMP, or one that cannot take launches from two threads."""
    if importlib.util.find_spec("numba.np.ufunc.omppool"):
        return Finding("threads", "numba", "OpenMP layer")
    advice = (
        "no OpenMP layer: a kernel launched from two Python threads at once would abort. "
        "Install an OpenMP runtime (libgomp on Linux, libomp on macOS)"
    )
    return Finding("threads", "numba", advice, "warning")


def _core() -> list[Finding]:
    return [_package("packages", name, "pip install -c constraints.txt -e .") for name in CORE]


def _extras() -> list[Finding]:
    return [
        _package(f"extra {extra}", name, f"pip install -c constraints.txt 'state-core[{extra}]'")
        for extra, names in EXTRAS.items()
        for name in names
    ]


def _package(section: str, name: str, install: str) -> Finding:
    version = installed_version(name)
    if version is None:
        return Finding(section, name, f"not installed: {install}", "absent")
    return Finding(section, name, version)


def _backends() -> list[Finding]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for name, op in sorted(REGISTRY.items()):
        backend, why = op.choose("auto", device)
        slow = backend == "naive" and len(op.backends) > 1
        found.append(
            Finding(f"ops on {device}", name, f"{backend} ({why})", "warning" if slow else "ok")
        )
    return found
