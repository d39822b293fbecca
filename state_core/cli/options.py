"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from state_core.errors import ConfigError

if TYPE_CHECKING:
    from state_core.config import SOSMConfig

Preset = Annotated[
    str | None,
    typer.Option(
        help="default, phase1, phase2, phase3, phase4, phase6, baseline (a transformer) or mamba2."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A .toml or .json file; its key preset is the base.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be given repeatedly."),
]
Data = Annotated[
    str | None,
    typer.Option(help="A named corpus (sosm data list), or a file, a folder or a glob."),
]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps; short for --set train.steps=N.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the run; short for --set train.seed=N.")]
Run = Annotated[
    Path, typer.Option("--run", help="The folder of a run, or of a model or checkpoint in it.")
]


def build_config(
    preset: str | None,
    file: Path | None,
    overrides: list[str] | None,
    **shortcuts: Any,
) -> SOSMConfig:
    """The configuration that the options describe. shortcuts: as `train__steps=600`; None is not
    given. `--set` goes last."""
    from state_core.config import SOSMConfig, parse_overrides

    if preset and file:
        raise ConfigError("give --preset or --config: a file names its base with the key preset")
    config = SOSMConfig.from_file(file) if file else SOSMConfig.preset(preset or "default")
    short = {key.replace("__", "."): v for key, v in shortcuts.items() if v is not None}
    return config.override({**short, **parse_overrides(overrides or [])})
