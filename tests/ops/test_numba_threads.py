"""Numba's threads follow torch's, and no op's result depends on how many there are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numba
import pytest
import torch

from state_core.ops import causal_topk, edge_scores, mutual_filter
from state_core.ops.numba_threads import match_torch_threads


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    match_torch_threads()


def test_numba_follows_torch_and_wakes_no_more_threads_than_tasks() -> None:
    most = numba.config.NUMBA_NUM_THREADS
    for threads in (1, most, most + 5):
        torch.set_num_threads(threads)
        match_torch_threads()
        assert numba.get_num_threads() == min(threads, most)
        match_torch_threads(tasks=0)
        assert numba.get_num_threads() == 1
    assert numba.config.THREADING_LAYER_PRIORITY[0] == "omp"


def test_the_first_kernel_leaves_torch_as_many_threads_as_it_had() -> None:
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from state_core.ops import swiglu\n"
        "swiglu(torch.randn(64, 64)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    u = torch.randn(2, 300, 12, requires_grad=True)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        indices, scores = causal_topk(u, 6, 3)
        keep = mutual_filter(indices, scores, u, 6, 3)
        weights = edge_scores(u, indices, (indices >= 0).sum(-1, dtype=torch.int32))
        (grad,) = torch.autograd.grad(weights.square().sum(), u)
        results.append((indices, scores, keep, weights, grad))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
