"""The command line as a whole: its commands, their order, and --version."""

from collections.abc import Callable
from typing import Annotated

import typer

from hydragrad.cli.commands.attribute import attribute
from hydragrad.cli.commands.bound import bound
from hydragrad.cli.commands.clean import clean
from hydragrad.cli.commands.demo import demo
from hydragrad.cli.commands.explain import explain
from hydragrad.cli.commands.info import info
from hydragrad.cli.commands.report import report
from hydragrad.cli.commands.smoothness import smoothness
from hydragrad.cli.commands.train import train
from hydragrad.cli.commands.verify import verify
from hydragrad.cli.console import say
from hydragrad.cli.reproduce import reproduce

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which training samples made this model what it is.\n\n"
    "A first round: hydragrad demo. On real data: train, then attribute, clean and report on the run directory it "
    "wrote. Every command says more and gives an example: hydragrad train --help.\n\n"
    "Progress is shown on terminals only; --quiet turns it off, NO_COLOR=1 the colours.",
)

COMMANDS: tuple[Callable[..., None], ...] = (
    demo,
    train,
    attribute,
    smoothness,
    verify,
    bound,
    clean,
    report,
    explain,
    info,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(reproduce, name="reproduce")


def _version(asked: bool) -> None:
    if asked:
        import hydragrad

        say(f"hydragrad {hydragrad.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None: ...
