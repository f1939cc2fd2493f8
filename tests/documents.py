"""The blocks of a Markdown page, and how each is run: what a reader may do is done.

A page is read from top to bottom as one sitting: its blocks share a folder and Python's names. A Python block that
begins with `# name.py` is also kept under that name. In `console` blocks, what follows `$ ` is run. What takes too
long, or needs what a test lacks, says so in a comment before the block: `<!-- not run: the reason -->`; its commands
must still parse.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.main import get_command

from hydragrad import cli
from hydragrad.cli.app import app as hydragrad
from studies.__main__ import app as studies

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n+)?^```(?P<language>\S*)[^\n]*\n(?P<body>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, first line of text, language, text, and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    body: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command of a console block; `\\` joins lines."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [words for line in lines if line.startswith("$ ") and (words := shlex.split(line[2:], comments=True))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text()
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("body")) + 1,
            language=match["language"],
            body=match["body"],
            reason=match["reason"],
        )
        for match in FENCE.finditer(text)
    ]


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in `folder`, which is where the process stands."""
    names = {"__name__": "document"}
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            run_python(block, names, folder)
        elif block.language == "console":
            for words in block.commands:
                run_command(block, words)


def run_python(block: Block, names: dict[str, object], folder: Path) -> None:
    """Execute a block among the names of those before it."""
    name = re.match(r"# (\w+\.py)\n", block.body)
    if name:
        (folder / name[1]).write_text(block.body)
    # Empty lines before it, so that a traceback names the page's own line.
    exec(compile("\n" * (block.line - 1) + block.body, str(block.page), "exec"), names)


def run_command(block: Block, words: list[str]) -> None:
    """Run `hydragrad ...` in this process; nothing else is run, studies take too long."""
    assert words[0] == "hydragrad", f"{block.page.name}:{block.line}: mark the block as not run, {words[0]} is not"
    before, sys.argv = sys.argv, words
    try:
        cli.main()
    except SystemExit as exit_:
        assert not exit_.code, f"{block.page.name}:{block.line}: {shlex.join(words)} ended with code {exit_.code}"
    finally:
        sys.argv = before


APPLICATIONS = {("hydragrad",): hydragrad, ("python", "-m", "studies"): studies}
"""How a command of ours begins, and what reads the rest."""


def is_ours(words: list[str]) -> bool:
    """Whether a command is one that `parse` can read."""
    return any(tuple(words[: len(start)]) == start for start in APPLICATIONS)


def parse(words: list[str]) -> None:
    """Let the command line read a command's words, without running it."""
    start = next(start for start in APPLICATIONS if tuple(words[: len(start)]) == start)
    command = get_command(APPLICATIONS[start])
    context = typer.Context(command, info_name=" ".join(start))
    rest = words[len(start) :]
    while rest and hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        context = typer.Context(command, info_name=name, parent=context)
    if not {"-h", "--help"} & set(rest):
        command.parse_args(context, rest)
