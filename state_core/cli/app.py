"""The command's root: its commands, its own options, and how errors are shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from state_core.cli import claims, data, memory, provenance, quickstart, text, tools, train
from state_core.cli.console import errors
from state_core.errors import SOSMError

INTERRUPTED = 130  # what a shell reports after Ctrl-C


class Commands(TyperGroup):
    """Shows an error that we raise on purpose as one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SOSMError as error:
            if ctx.params.get("debug"):
                raise
            errors.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            errors.print("Stopped.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="sosm",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from state_core import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """SOSM, a language model that reads text through a sparse graph and explains each edge of it.

    Start with `sosm quickstart`: it trains a small model beside a transformer for some minutes and
    writes a report to look at.
    """


app.command()(quickstart.quickstart)
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command("eval")(train.evaluate)
app.command()(text.generate)
app.command()(text.inspect)
app.command()(provenance.provenance)
app.add_typer(memory.app, name="memory")
app.add_typer(claims.app, name="claims")
app.command()(tools.bench)
app.command()(tools.kernels)
app.command()(tools.doctor)
