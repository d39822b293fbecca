"""The package keeps its promises to who installs it: light, typed, pinned and licensed."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
HEAVY = (
    "numba", "triton", "typer", "rich", "plotly", "accelerate", "tokenizers", "hnswlib", "faiss",
    "pymilvus", "usearch", "transformers", "torch_geometric", "networkx.algorithms.community",
)  # fmt: skip


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!;\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pins() -> dict[str, list[str]]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            found.setdefault(name_of(line), []).append(line)
    return found


def test_import_is_light():
    code = f"import sys, state_core; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_a_wheel_carries_all_that_it_reads(tmp_path: Path):
    """Types, manifests of the corpora, and every file of the package that is not code."""
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "state_core"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    manifests = {f"state_core/manifests/{path.name}" for path in (ROOT / "data").glob("*.toml")}
    assert manifests
    assert manifests | set(tracked.stdout.split()) <= carried


def requirements() -> list[str]:
    extras = itertools.chain.from_iterable(PROJECT["optional-dependencies"].values())
    every = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"], *extras]
    return sorted({name_of(r) for r in every} - {PROJECT["name"]})


@pytest.mark.parametrize("package", requirements())
def test_every_dependency_is_pinned(package: str):
    pinned = pins()[package]
    assert all(re.match(r"[\w.-]+==[\w.+!]+( ;|$)", line) for line in pinned)


def test_a_package_pinned_twice_is_pinned_per_python():
    for lines in pins().values():
        markers = [line.partition(";")[2] for line in lines]
        assert len(lines) == 1 or all("python_full_version" in marker for marker in markers)


def test_all_leaves_out_what_needs_a_cuda_toolkit():
    (everything,) = PROJECT["optional-dependencies"]["all"]
    named = set(re.search(r"\[(.*)\]", everything)[1].split(","))
    assert named == set(PROJECT["optional-dependencies"]) - {"all", "dev", "cuda"}


def test_no_file_names_a_package_index():
    setup = ["pyproject.toml", "constraints.txt", "Makefile", ".ci/run"]
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in setup)
    assert not re.search(r"index-url|find-links|trusted-host|https?://", text)


def test_the_licence_is_the_one_declared():
    assert PROJECT["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )


def test_versions_agree():
    import state_core

    assert state_core.__version__ == PROJECT["version"]


def test_every_target_of_the_makefile_is_listed_by_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^  make (\w+)", done.stdout, re.M)) == set(phony)
