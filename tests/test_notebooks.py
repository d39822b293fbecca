"""The notebooks run from top to bottom in a fresh kernel, and are kept with their figures."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks.keep import digest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_shows_what_it_speaks_of_without_being_run(path: Path):
    """Its outputs are from one run of the code that it has, and name no folder of a machine."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata["ran"] == digest(notebook), (
        f"run it: python notebooks/keep.py {path.stem}"
    )
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    figures = [o.data for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert figures
    for figure in figures:
        assert base64.b64decode(figure["image/png"]).startswith(b"\x89PNG")
    assert re.findall(r"(?<![\w.])/(?:tmp|root|home|Users|work)/", nbformat.writes(notebook)) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOSM_NOTEBOOK_SMALL", "1")  # the notebooks then train for a few steps
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
