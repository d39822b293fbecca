"""The README keeps its word: what it shows is run, in its order, as a reader would.

A block is run if the line before it is `<!-- run -->`. In `<!-- run: --steps 2 -->` what follows
the colon is added to every command of the block, to keep it small.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^<!-- run(?:: (?P<small>[^\n]*?))? -->\n```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.M | re.S,
)


def commands(block: re.Match[str]) -> list[list[str]]:
    """What to execute for a block: each line of a shell, or a script of Python."""
    if block["language"] == "python":
        return [[sys.executable, "-c", block["code"]]]
    lines = block["code"].replace("\\\n", " ").splitlines()
    told = [line.split("#")[0].strip() for line in lines]
    small = f" {block['small']}" if block["small"] else ""
    return [["bash", "-ceu", line + small] for line in told if line]


def test_every_marked_block_is_found():
    found = list(BLOCK.finditer(README))
    assert len(found) == README.count("<!-- run")
    assert {block["language"] for block in found} == {"bash", "python"}


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_extra_is_explained():
    from state_core.doctor import EXTRAS

    table = set(re.findall(r"^\| `(\w+)` \|", README, re.M))
    assert set(EXTRAS) | {"all", "dev"} <= table


@pytest.mark.slow
def test_what_it_shows_runs(tmp_path: Path):
    """One folder for all blocks: later ones use what earlier ones wrote."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for block in BLOCK.finditer(README):
        for command in commands(block):
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
            )
            shown = f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert done.returncode == 0, shown
