"""Run the notebooks from top to bottom, at full size, and keep what they show.

python notebooks/keep.py                       # all of them, some twenty minutes on two cores
python notebooks/keep.py 05_claims

Figures are kept twice: to be looked at anywhere, and to be hovered over where Plotly is known.
Pictures need the packages of the extra `dev`, and a Chromium or Chrome. A digest of the code is
kept as well, so that a notebook which was changed and not run again is found out.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from state_core.atomic import atomic_write_text

HERE = Path(__file__).parent
ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype+png",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # of tqdm, where no widgets are installed
}


def keep(path: Path) -> None:
    """Execute a notebook in an empty folder, and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    # Of the kernel, only what a reader needs: versions change with the machine.
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "ran": digest(notebook)}
    atomic_write_text(path, nbformat.writes(notebook) + "\n")


def digest(notebook: nbformat.NotebookNode) -> str:
    """Changes with the code of a notebook, not with its words."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def main(names: list[str]) -> None:
    os.environ.update(ENVIRONMENT)
    os.environ.pop("SOSM_NOTEBOOK_SMALL", None)
    paths = [HERE / f"{name}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb"))
    for number, path in enumerate(paths, start=1):
        print(f"{number}/{len(paths)} {path.stem} …", end=" ", flush=True)
        began = time.monotonic()
        keep(path)
        print(f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
