"""`python -m state_core …`: the command line, where no script was installed for it."""

from state_core.cli import app

app(prog_name="sosm")
