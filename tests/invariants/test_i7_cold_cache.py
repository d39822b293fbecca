"""I7 across processes: a run that compiles its kernels has the bits of one that loads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from state_core import SOSM
from tests.invariants.variants import VARIANTS, text

torch.manual_seed(3)
model = SOSM(VARIANTS["successors, mutual"])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(3):
    ids = text(3, 70, seed=step)
    loss = model(ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    print(loss.item().hex(), *(p.grad.double().sum().item().hex() for p in model.parameters()
                               if p.grad is not None))
    optimizer.zero_grad()
"""


@pytest.mark.slow
def test_compiled_and_cached_kernels_give_the_same_bits(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).parents[2]
    cold, warm = (
        subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc")), "nothing was cached"
    assert cold.stdout == warm.stdout
