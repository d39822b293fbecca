"""The diagnosis names what the project declares, and what is missing with its install line."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from state_core import doctor
from state_core.ops.backend import REGISTRY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!;\[ ]", requirement, maxsplit=1)[0]


def test_extras_are_those_of_the_project():
    declared = {
        extra: tuple(name_of(r) for r in requirements)
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra not in ("all", "dev")
    }
    assert declared == doctor.EXTRAS


def test_core_packages_are_those_of_the_project():
    unconditional = [r for r in PROJECT["dependencies"] if ";" not in r]
    assert tuple(name_of(r) for r in unconditional) == doctor.CORE


def test_every_op_has_a_line_with_its_backend():
    lines = {f.name: f for f in doctor.diagnose() if f.section.startswith("ops")}
    assert set(lines) == set(REGISTRY)
    assert lines["graph_attention"].value.startswith("cpu")


def test_a_missing_extra_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    (plotly,) = [f for f in doctor.diagnose() if f.name == "plotly"]
    assert plotly.status == "absent"
    assert "state-core[plots]" in plotly.value


def test_a_slow_fallback_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("state_core.ops.backend._installed", lambda name: name != "numba")
    (line,) = [f for f in doctor.diagnose() if f.name == "graph_attention"]
    assert line.status == "warning"
    assert "numba is not installed" in line.value


def test_the_table_shows_install_lines_to_the_letter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(doctor.render(doctor.diagnose()))
    assert "'state-core[plots]'" in console.export_text()
