"""What every test runs under: a seed, few and repeatable examples, and no GPU unless asked for."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# Before anything imports Triton: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile(
    "ci",
    deadline=None,  # compiling a kernel takes seconds
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state and leaves torch's defaults as they were."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    # Whatever a fixture of a wider scope left: where bf16 has units of its own, "medium" is coarse.
    torch.set_float32_matmul_precision("highest")
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a GPU, Triton's tests belong to it; without one, what needs it is skipped."""
    absent = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if not torch.cuda.is_available():
            if "gpu" in item.keywords:
                item.add_marker(absent)
        elif _runs_triton(item):
            item.add_marker(pytest.mark.gpu)


def _runs_triton(item: pytest.Item) -> bool:
    """Whether a test asks for the device of Triton's kernels, itself or through a parameter."""
    parameters = getattr(item, "callspec", None)
    chosen = parameters.params.values() if parameters else ()
    return "triton_device" in getattr(item, "fixturenames", ()) or "triton" in chosen
