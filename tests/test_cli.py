"""The command line: what it offers, what it says, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from state_core import memory
from state_core.audit import CausalityReport, Finding
from state_core.cli import app
from state_core.config import PRESETS
from tests.texts import sentences

COMMON = {"--config", "--data", "--preset", "--seed", "--set", "--steps"}
FLAGS = {
    "quickstart": COMMON | {"--out", "--fresh"},
    "train": COMMON | {"--run-dir", "--resume", "--overwrite"},
    "eval": {"--run", "--split", "--data", "--max-batches", "--remember", "--out"},
    "generate": {
        "--run", "--prompt", "--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed",
        "--file", "--remember",
    },
    "inspect": {
        "--run", "--text", "--file", "--token", "--remember", "--edges", "--out", "--with",
        "--serve", "--port",
    },
    "provenance": {"--run", "--split", "--data", "--documents", "--tokens", "--seed", "--out"},
    "bench": {
        "--quick", "--device", "--memory", "--no-memory", "--budget", "--out", "--compare",
        "--list", "--plot", "--profile",
    },
    "claims": set(),
    "claims run": {"--budget", "--jobs", "--ray", "--out"},
    "claims report": {"--out", "--budget", "--to", "--readme", "--compare"},
    "doctor": set(),
    "kernels": set(),
    "data": set(),
    "data list": set(),
    "data fetch": {"--all"},
    "data show": {"--split-seed"},
    "memory": set(),
    "memory info": set(),
}  # fmt: skip

TINY = [
    *("--set", "vocab_size=300", "--set", "d_model=32", "--set", "embed_rank=16"),
    *("--set", 'layers=["graph_attention"]', "--set", "mlp_hidden=32"),
    *("--set", "attention.n_heads=2", "--set", "train.seq_len=48", "--set", "train.batch_size=2"),
    *("--set", "train.eval_batches=1"),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text to learn."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(sentences(), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_CORE_CACHE", str(workplace / "cache"))
    monkeypatch.chdir(workplace)


@pytest.fixture(scope="module")
def run(workplace: Path) -> Path:
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_CORE_CACHE", str(workplace / "cache"))
        folder = workplace / "run"
        data = str(workplace / "text.txt")
        done = sosm("train", "--data", data, "--steps", "3", "--run-dir", str(folder), *TINY)
    assert done.exit_code == 0, done.output
    return folder


def sosm(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="sosm", env={"COLUMNS": "200"})


def offered() -> dict[str, set[str]]:
    """Every command with its flags, help apart."""
    found = {}

    def walk(command, name: str) -> None:
        if name:
            flags = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            found[name] = {o for o in flags if o.startswith("--")} - {"--help"}
        for child, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {child}".strip())

    walk(typer.main.get_command(app), "")
    return found


def test_commands_and_flags_are_these():
    assert offered() == FLAGS


@pytest.mark.parametrize("command", ["", *FLAGS])
def test_help_reads_well(command: str):
    done = sosm(*command.split(), "--help")
    assert done.exit_code == 0
    assert "Usage: sosm" in done.output
    examples = command and command not in (
        "claims",
        "data",
        "data list",
        "doctor",
        "kernels",
        "memory",
    )
    assert not examples or f"sosm {command}" in done.output.split("Usage:", 1)[1].split("\n", 1)[1]


def test_help_names_the_presets():
    assert all(name in sosm("train", "--help").output for name in PRESETS)


def test_help_is_quick():
    code = (
        "import sys; from state_core.cli import app\n"
        "try: app(['train', '--help'])\n"
        "except SystemExit: print(*(m for m in ('torch', 'numba', 'plotly') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["train", "--set", "graph.k_mx=3"], 1, "did you mean 'k_max'"),
        (["train", "--preset", "defualt"], 1, "did you mean 'default'"),
        (["train", "--preset", "phase1", "--config", "x.toml"], 1, "--preset or --config"),
        (["train", "--config", "missing.toml"], 1, "missing.toml"),
        (["train", "--data", "shakespear"], 1, "did you mean 'shakespeare'"),
        (["train", "--resume", "nowhere"], 1, "holds no checkpoint"),
        (["train", "--resume", "nowhere", "--data", "kjv"], 1, "--data does not go with --resume"),
        (["eval", "--run", "nowhere"], 1, "nowhere"),
        (["generate", "--run", "nowhere"], 1, "nowhere"),
        (["bench", "grph_attention"], 1, "graph_attention"),
        (["data", "show", "nothing"], 1, "nothing"),
        (["memory", "info", "nowhere"], 1, "holds no memory"),
        (["data", "fetch"], 2, "--all"),
        (["train", "--stpes", "3"], 2, "--steps"),
        (["train", "--steps", "three"], 2, "integer"),
        (["inspect"], 2, "--run"),
    ],
)
def test_a_mistake_gets_a_message_and_no_traceback(words: list[str], code: int, says: str):
    done = sosm(*words)
    assert done.exit_code == code, done.output
    assert says in re.sub(r"\s+", " ", done.output)
    assert "Traceback" not in done.output


def test_debug_shows_the_traceback():
    done = sosm("--debug", "train", "--preset", "nothing")
    assert type(done.exception).__name__ == "ConfigError"


def test_version():
    from state_core import __version__

    assert sosm("--version").output.strip() == __version__


def test_a_run_is_not_overwritten_unasked(run: Path):
    data = str(run.parent / "text.txt")
    before = (run / "model" / "model.safetensors").read_bytes()
    done = sosm("train", "--data", data, "--run-dir", str(run), *TINY)
    assert done.exit_code == 1
    assert "sosm train --resume" in done.output
    assert (run / "model" / "model.safetensors").read_bytes() == before


def test_resume_goes_on(run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    done = sosm("train", "--resume", str(copy), "--steps", "5")
    assert done.exit_code == 0, done.output
    assert "Trained 5 steps" in done.output


def test_eval_audits_first_and_writes_what_it_prints(run: Path):
    done = sosm("eval", "--run", str(run), "--split", "test")
    assert done.exit_code == 0, done.output
    assert "causality audit passed" in done.output
    record = json.loads((run / "eval.json").read_text())
    assert record["audit_passed"]
    overall = record["scores"][0]
    assert f"{overall['perplexity']:.2f}" in done.output
    assert {s["name"] for s in record["scores"]} >= {"overall", "recall", "other"}


def test_eval_prints_no_perplexity_of_a_model_that_leaks(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    leak = CausalityReport([Finding("logits", "eval", 3, 0.5)], 9)
    monkeypatch.setattr("state_core.audit.audit_causality", lambda model: leak)
    done = sosm("eval", "--run", str(run))
    assert done.exit_code == 1
    assert "FAILED" in done.output
    assert "logits" in done.output
    record = json.loads((run / "eval.json").read_text())
    assert not record["audit_passed"]
    assert "scores" not in record


def test_eval_of_another_split_name(run: Path):
    done = sosm("eval", "--run", str(run), "--split", "tset")
    assert done.exit_code == 1
    assert "did you mean 'test'" in done.output


def test_generate_is_seeded_and_starts_with_its_prompt(run: Path):
    words = ["generate", "--run", str(run), "--prompt", "The captain", "--max-new-tokens", "8"]
    first, again, other = (sosm(*words, "--seed", seed) for seed in ("1", "1", "2"))
    assert first.exit_code == 0, first.output
    assert first.output.startswith("The captain")
    assert first.output == again.output != other.output


def test_generate_continues_a_file(run: Path, tmp_path: Path):
    file = tmp_path / "book.txt"
    file.write_text("the captain saw the sea. " * 60)
    done = sosm("generate", "--run", str(run), "--file", str(file), "--max-new-tokens", "4")
    assert done.exit_code == 0, done.output
    assert "captain" in done.output
    assert len(done.output) < 800
    both = sosm("generate", "--run", str(run), "--file", str(file), "--prompt", "a")
    assert both.exit_code == 2
    forgets = sosm("generate", "--run", str(run), "--prompt", "a", "--remember", "64")
    assert forgets.exit_code == 1
    assert "memory.enabled = true" in forgets.output


def test_eval_reads_on_from_segment_to_segment(run: Path):
    done = sosm("eval", "--run", str(run), "--remember", "0", "--max-batches", "2")
    assert done.exit_code == 0, done.output
    assert "distant tokens" in done.output
    record = json.loads((run / "eval.json").read_text())
    assert record["remembered"] == 0
    assert "distant" in {s["name"] for s in record["scores"]}


def test_generate_without_a_prompt(run: Path):
    done = sosm("generate", "--run", str(run), "--max-new-tokens", "4", "--seed", "0")
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def test_inspect_shows_edges_and_writes_a_page(run: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    text = "the captain saw <script>alert(1)</script> [bold] the captain of the captain"
    done = sosm("inspect", "--run", str(run), "--text", text, "--token", "30", "--out", str(page))
    assert done.exit_code == 0, done.output
    for part in ("strongest semantic edges", "Token 30", "expected next", "the vocabulary head"):
        assert part in done.output
    markup = page.read_text(encoding="utf-8")
    assert 'data-chosen="30"' in markup
    assert "<script>alert" not in markup


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--text", "a b", "--token", "99"], 1, "token 99 is out of range"),
        (["--text", ""], 1, "empty"),
        (["--text", "a", "--file", "text.txt"], 2, "not both"),
        ([], 2, "a text or a file"),
        (["--file", "missing.txt"], 1, "missing.txt"),
        (["--text", "a", "--with", "nowhere"], 1, "nowhere"),
        (["--serve", "--text", "a", "--file", "text.txt"], 2, "not both"),
        (["--serve", "--text", "a", "--remember", "9"], 2, "of one model, in a report"),
        (["--text", "a", "--remember", "9"], 1, "memory.enabled"),
    ],
)
def test_inspect_refuses(run: Path, words: list[str], code: int, says: str):
    done = sosm("inspect", "--run", str(run), *words)
    assert done.exit_code == code, done.output
    assert says in re.sub(r"\s+", " ", done.output)


def test_provenance_tells_what_blocks_do_and_draws_it(run: Path, tmp_path: Path):
    page = tmp_path / "provenance.html"
    done = sosm("provenance", "--run", str(run), "--tokens", "192", "--out", str(page))
    assert done.exit_code == 0, done.output
    for part in ("cut into 8 pieces", "in semantic edges, 8 documents", "commonest label", "R2"):
        assert part in done.output
    assert "in brackets that of an untrained model" in page.read_text(encoding="utf-8")


def test_inspect_compares_two_runs(run: Path, tmp_path: Path):
    other, page = tmp_path / "other", tmp_path / "page.html"
    shutil.copytree(run / "model", other)
    words = ["inspect", "--run", str(run), "--with", str(other), "--text", "the captain slept"]
    done = sosm(*words, "--out", str(page))
    assert done.exit_code == 0, done.output
    markup = page.read_text(encoding="utf-8")
    assert '"name":"run"' in markup
    assert '"name":"other"' in markup


def test_inspect_shows_the_end_of_a_text_that_was_remembered(tmp_path: Path):
    data, run, page = tmp_path / "book.txt", tmp_path / "run", tmp_path / "page.html"
    data.write_text(sentences(), encoding="utf-8")
    remembers = ["--set", "memory.enabled=true", "--set", "train.consecutive=true"]
    words = ["--data", str(data), "--steps", "1", "--run-dir", str(run), *TINY, *remembers]
    done = sosm("train", *words)
    assert done.exit_code == 0, done.output
    words = ["--run", str(run), "--file", str(data), "--remember", "64", "--out", str(page)]
    done = sosm("inspect", *words, "--token", "9")
    assert done.exit_code == 0, done.output
    assert "expected next with" in done.output
    assert "with 64 remembered behind them" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_inspect_serves_until_it_is_interrupted(run: Path):
    code = "from state_core.cli import app; app()"
    words = ["inspect", "--run", str(run), "--serve", "--port", "0", "--text", "a <b>captain</b>"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", code, *words], **pipes)
        )
        stack.callback(server.kill)
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "a &lt;b&gt;captain&lt;/b&gt;</textarea>" in answer.read().decode()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 130
        said = server.stderr.read()
    assert "Stopped." in said
    assert "Traceback" not in said


def test_data_list_and_show(workplace: Path):
    assert "shakespeare" in sosm("data", "list").output
    shown = sosm("data", "show", "text.txt").output
    assert "contiguous parts" in shown
    assert re.search(r"train\s+1 document", shown)


def test_bench_lists_its_cases():
    listed = sosm("bench", "--list").output
    assert "graph_attention" in listed
    assert "graph_attention" not in sosm("bench", "model", "--list").output.split()


def test_doctor_names_every_op():
    assert "causal_topk" in sosm("doctor").output


def test_memory_info_tells_what_a_memory_holds(workplace: Path):
    with memory.open("exact", workplace / "memory", dim=4) as store:
        store.add(np.ones((3, 4), np.float32), 0, np.arange(3))
        store.save()
        store.delete([1])
        shown = sosm("memory", "info", "memory").output  # beside its writer
    assert re.search(r"live\s+2\b", shown)
    assert re.search(r"tombstones\s+1\b", shown)
    assert re.search(r"generation\s+2\b", shown)
    assert re.search(r"items.safetensors\s+sha256", shown)
