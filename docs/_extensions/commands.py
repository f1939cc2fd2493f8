"""The reference of the command line, written from the commands themselves before the pages are read."""

import re
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from hydragrad.cli.app import app as hydragrad
from studies.__main__ import app as studies

PAGE = "reference/commands.md"
HEAD = """# The command line

What `--help` says of every command, and of the studies that a checkout of the repository has.

"""
APPLICATIONS = {"hydragrad": hydragrad, "python -m studies": studies}


def page() -> str:
    """Every command with its options, as Markdown."""
    return HEAD + "\n".join(_documented(name, app) for name, app in APPLICATIONS.items())


def _documented(name: str, app: typer.Typer) -> str:
    command = get_command(app)
    context = typer.Context(command, info_name=name)
    text = get_docs_for_click(obj=command, ctx=context, name=name)
    text = re.sub(r"^Example: (.*)$", r"Example:\n\n```console\n$ \1\n```", text, flags=re.MULTILINE)
    # An abridged list with cut sentences: the headings that follow say the same.
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n?", "", text)
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def write(app: Any) -> None:
    """Write the page, if it changed: Sphinx reads changed files only."""
    file, text = Path(app.srcdir) / PAGE, page()
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Have it written before Sphinx reads the pages."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
