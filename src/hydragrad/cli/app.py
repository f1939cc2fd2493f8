"""The command line as a whole: its commands, their order, and --version."""

from collections.abc import Callable
from typing import Annotated

import typer

from hydragrad.cli.commands.attribute import attribute
from hydragrad.cli.commands.bound import bound
from hydragrad.cli.commands.check import check
from hydragrad.cli.commands.clean import clean
from hydragrad.cli.commands.demo import demo
from hydragrad.cli.commands.explain import explain
from hydragrad.cli.commands.export import export
from hydragrad.cli.commands.influence import influence
from hydragrad.cli.commands.info import info
from hydragrad.cli.commands.report import report
from hydragrad.cli.commands.reweight import reweight
from hydragrad.cli.commands.smoothness import smoothness
from hydragrad.cli.commands.train import train
from hydragrad.cli.commands.verify import verify
from hydragrad.cli.console import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which training samples made this model what it is.\n\n"
    "To start: hydragrad demo. On real data: train, then attribute, clean and report on the run directory that it "
    "wrote. Every command has more help and an example: hydragrad train --help.\n\n"
    "Progress bars are shown on terminals only; --quiet turns them off, NO_COLOR=1 turns off colours.",
)

COMMANDS: tuple[Callable[..., None], ...] = (
    demo,
    check,
    train,
    attribute,
    influence,
    smoothness,
    verify,
    bound,
    clean,
    reweight,
    export,
    report,
    explain,
    info,
)
for command in COMMANDS:
    app.command()(command)


def _version(requested: bool) -> None:
    if requested:
        import hydragrad

        say(f"hydragrad {hydragrad.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None: ...
