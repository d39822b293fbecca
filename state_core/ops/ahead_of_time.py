"""The Triton kernels compiled for GPUs that need not be here: what each takes of the machine.

    sosm kernels

Every op with a Triton backend lists its kernels as `SPECIMENS`. They are compiled for sm_80 (A100)
and sm_90 (H100) in a process of its own, because a process that interprets Triton's kernels
(TRITON_INTERPRET=1, as the tests do without a GPU) cannot compile them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from state_core.errors import BackendError, MissingExtraError
from state_core.ops.backend import REGISTRY
from state_core.ops.specimen import Specimen

ARCHITECTURES = (80, 90)
MATRIX_INSTRUCTIONS = ("mma.sync", "wgmma.mma_async")


@dataclass(frozen=True)
class Compiled:
    """One kernel on one architecture.

    registers: of a thread. shared: bytes of shared memory of a block. spills: bytes of a thread's
    registers that had to go to memory. matrix_unit: whether it uses mma or wgmma, and wants_matrix
    whether it should.
    """

    op: str
    kernel: str
    architecture: int
    warps: int
    registers: int
    shared: int
    spills: int
    matrix_unit: bool
    wants_matrix: bool


def compile_all(progress: Callable[[str], None] = print) -> list[Compiled]:
    """Compile every specimen for every architecture; MissingExtraError without Triton.

    Some two seconds a kernel the first time; Triton keeps what it compiled.
    """
    if importlib.util.find_spec("triton") is None:
        raise MissingExtraError("triton", "triton", "compiling Triton's kernels")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "state_core.ops.ahead_of_time"]
    found = []
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            found.append(Compiled(**json.loads(line)))
            progress(f"{found[-1].op} {found[-1].kernel} sm_{found[-1].architecture}")
        if process.wait() != 0:
            errors.seek(0)
            raise BackendError(f"a Triton kernel does not compile:\n{errors.read().strip()}")
    return found


def specimens() -> Iterator[tuple[str, Specimen]]:
    """(op, kernel) of every op that has a Triton backend."""
    importlib.import_module("state_core.ops")
    for name, op in sorted(REGISTRY.items()):
        if "triton" in op.backends:
            module = importlib.import_module(op.backends["triton"].module)
            for specimen in module.SPECIMENS:
                yield name, specimen


def _compile(op: str, specimen: Specimen, architecture: int) -> Compiled:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    # Torch's buffers start at multiples of 16 bytes, and a launch tells Triton so.
    kinds = specimen.signature.values()
    multiples = [i for i, kind in enumerate(kinds) if kind.startswith("*") or kind.endswith(":16")]
    aligned = {(i,): [["tt.divisibility", 16]] for i in multiples}
    signature = {name: kind.removesuffix(":16") for name, kind in specimen.signature.items()}
    source = ASTSource(specimen.kernel, signature, specimen.constants, aligned)
    built = compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": specimen.warps, "num_stages": specimen.stages},
    )
    ptx = built.asm["ptx"]
    used = _assemble(ptx)
    return Compiled(
        op=op,
        kernel=specimen.name,
        architecture=architecture,
        warps=specimen.warps,
        registers=_number(r"Used (\d+) registers", used),
        shared=built.metadata.shared,
        spills=_number(r"(\d+) bytes spill stores", used)
        + _number(r"(\d+) bytes spill loads", used),
        matrix_unit=any(instruction in ptx for instruction in MATRIX_INSTRUCTIONS),
        wants_matrix=specimen.matrix_unit,
    )


def _assemble(ptx: str) -> str:
    """What `ptxas -v` says of a kernel; Triton brings its ptxas."""
    from triton import knobs

    target = re.search(r"\.target (sm_\w+)", ptx)
    if target is None:
        raise BackendError("Triton's PTX names no target")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        ptxas: Any = knobs.nvidia.ptxas
        command = [ptxas.path, "-v", f"--gpu-name={target[1]}", str(source), "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise BackendError(f"ptxas -v did not tell {pattern!r}:\n{text}")
    return int(found[1])


if __name__ == "__main__":
    for name, kernel in specimens():
        for arch in ARCHITECTURES:
            print(json.dumps(asdict(_compile(name, kernel, arch))), flush=True)
