"""`sosm …`, the command line. Commands import what they need when they run: help is quick."""

from __future__ import annotations

from state_core.cli.app import app

__all__ = ["app"]
