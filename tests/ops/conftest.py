"""Kernels are tested on poisoned buffers: what nobody wrote is NaN, or the largest integer."""

from __future__ import annotations

import pytest
import torch
from torch.utils import deterministic


@pytest.fixture(autouse=True)
def poison_empty_buffers(seeded: None) -> None:
    """`torch.empty` gives NaN, so that a value nobody wrote is seen; `seeded` undoes the mode."""
    torch.use_deterministic_algorithms(True)
    assert deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()


@pytest.fixture
def triton_device() -> torch.device:
    """Where Triton kernels run here: the GPU, or else the CPU through Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is for Linux")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=["cpu", "triton"])
def place(request: pytest.FixtureRequest) -> tuple[str, torch.device]:
    """A backend that is held to `naive`, and where it runs here."""
    if request.param == "cpu":
        return "cpu", torch.device("cpu")
    return "triton", request.getfixturevalue("triton_device")
