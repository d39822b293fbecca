"""The Triton kernels compile for GPUs, within their registers, onto the matrix unit."""

from __future__ import annotations

import pytest

from state_core.ops import ahead_of_time
from state_core.ops.ahead_of_time import ARCHITECTURES, Compiled
from state_core.ops.backend import REGISTRY

pytest.importorskip("triton", reason="Triton is for Linux")


@pytest.fixture(scope="module")
def compiled() -> list[Compiled]:
    return ahead_of_time.compile_all(progress=lambda _: None)


@pytest.mark.slow
def test_every_kernel_of_every_triton_backend_compiles(compiled: list[Compiled]):
    ops = {name for name, op in REGISTRY.items() if "triton" in op.backends}
    assert ops
    assert {(c.op, c.architecture) for c in compiled} == {
        (o, a) for o in ops for a in ARCHITECTURES
    }


@pytest.mark.slow
def test_no_kernel_spills(compiled: list[Compiled]):
    assert [c for c in compiled if c.spills] == []
    assert all(16 <= c.registers <= 255 for c in compiled)


@pytest.mark.slow
def test_shared_memory_fits(compiled: list[Compiled]):
    most = {80: 163 * 1024, 90: 227 * 1024}
    assert [c for c in compiled if c.shared > most[c.architecture]] == []


@pytest.mark.slow
def test_the_matrix_unit_is_used_where_it_should_be(compiled: list[Compiled]):
    assert [c for c in compiled if c.matrix_unit != c.wants_matrix] == []
    assert any(c.op == "graph_attention" and c.matrix_unit for c in compiled)
