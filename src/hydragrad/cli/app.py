"""The command line as a whole: its commands, their order, and --version.

A command's module is imported when the command is called: it imports torch, which takes seconds. What the list of
commands says of each is the first line of its docstring, read from the source.
"""

import ast
import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hydragrad.cli.console import say

FOLDER = Path(__file__).parent / "commands"
COMMANDS = (
    *("demo", "check", "train", "attribute", "influence", "smoothness", "verify", "bank", "evaluate", "bound"),
    *("clean", "reweight", "export", "report", "explain", "info"),
)
STYLE: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Commands(TyperGroup):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hydragrad.cli.commands.{cmd_name}")
        single = typer.Typer(**STYLE)
        single.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(single)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _Listed(self).format_help(ctx, formatter)


class _Listed(TyperGroup):
    """The same for a list of them: what each does, without its module."""

    def __init__(self, commands: TyperGroup) -> None:
        vars(self).update(vars(commands))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=_first_line(cmd_name))


def _first_line(command: str) -> str:
    """Of a command's docstring."""
    tree = ast.parse((FOLDER / f"{command}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == command)
    return (ast.get_docstring(function) or "").split("\n")[0]


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    help="Which training samples made this model what it is.\n\n"
    "To start: hydragrad demo. On real data: train, then attribute, clean and report on the run directory that it "
    "wrote. Every command has more help and an example: hydragrad train --help.\n\n"
    "Progress bars are shown on terminals only; --quiet turns them off, NO_COLOR=1 turns off colours.",
    **STYLE,
)


def _version(requested: bool) -> None:
    if requested:
        import hydragrad

        say(f"hydragrad {hydragrad.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None: ...
