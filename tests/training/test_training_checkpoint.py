from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from state_core import SOSM, SOSMConfig
from state_core.errors import CheckpointError
from state_core.training.checkpoint import (
    Progress,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from state_core.training.optim import build_optimizer, optimizer_tensors

POSITION: dict[str, int | str] = {"epoch": 1, "window": 7}


def fresh(config: SOSMConfig, seed: int) -> tuple[SOSM, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = SOSM(config)
    optimizer = build_optimizer(model, config.train)
    ids = torch.randint(300, (2, 24))
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def run(tiny: SOSMConfig, tmp_path: Path) -> Path:
    model, optimizer = fresh(tiny, 0)
    for step in (3, 6):
        torch.manual_seed(step)
        progress = Progress(step, 1.5, [0.1 + 0.2, 1 / 3])
        save_checkpoint(tmp_path, progress, model, optimizer, POSITION, "abc")
    return tmp_path


def test_everything_comes_back(tiny: SOSMConfig, run: Path) -> None:
    folder = latest_checkpoint(run)
    assert folder.name == "step-000006"
    model, optimizer = fresh(tiny, 1)
    progress, position = load_checkpoint(folder, model, optimizer, "abc")
    assert progress == Progress(6, 1.5, [0.1 + 0.2, 1 / 3])
    assert position == POSITION
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(6).get_state())
    expected, source = fresh(tiny, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers()))
    saved, loaded = optimizer_tensors(source, expected), optimizer_tensors(optimizer, model)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "training.safetensors"])
@pytest.mark.parametrize("harm", ["alter", "truncate", "remove"])
def test_a_damaged_checkpoint_is_refused_and_the_older_named(
    tiny: SOSMConfig, run: Path, name: str, harm: str
) -> None:
    path = latest_checkpoint(run) / name
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        place = data.index(b"7") if name == "state.json" else -9
        data[place] ^= 1
        path.write_bytes(data)
    model, optimizer = fresh(tiny, 1)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(CheckpointError, match="step-000003 is there as well"):
        load_checkpoint(run / "checkpoints" / "step-000006", model, optimizer, "abc")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_without_its_pointer_the_newest_whole_folder_counts(run: Path) -> None:
    root = run / "checkpoints"
    (root / "latest").unlink()
    assert latest_checkpoint(run).name == "step-000006"
    (root / "step-000006" / "state.json").unlink()
    assert latest_checkpoint(run).name == "step-000003"
    (root / "latest").write_text("../../elsewhere")
    assert latest_checkpoint(run).name == "step-000003"


def test_a_run_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        latest_checkpoint(tmp_path)


def test_another_tokenizer_or_model_is_refused(tiny: SOSMConfig, run: Path) -> None:
    folder = latest_checkpoint(run)
    model, optimizer = fresh(tiny, 1)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        load_checkpoint(folder, model, optimizer, "xyz")
    other, optimizer = fresh(tiny.override({"mlp_hidden": 8}), 1)
    with pytest.raises(CheckpointError, match="of another model"):
        load_checkpoint(folder, other, optimizer, "abc")


def test_older_checkpoints_go(tiny: SOSMConfig, run: Path) -> None:
    model, optimizer = fresh(tiny, 0)
    (run / "checkpoints" / ".tmp-dead").mkdir()
    save_checkpoint(run, Progress(9), model, optimizer, POSITION, None)
    names = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert names == ["latest", "step-000006", "step-000009"]
    assert json.loads((run / "checkpoints/step-000009/state.json").read_text())["step"] == 9
