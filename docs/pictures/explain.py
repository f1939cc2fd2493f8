"""What `hydragrad explain` shows in a terminal."""

import io
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from hydragrad.cli import console, explain, jobs
from hydragrad.cli.experiment import Settings, experiment

SETTINGS = Settings(data="digits", model="lenet5", noise=0.1, epochs=15)
NUMBER, PROJECTION = 42, 512


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, keep the rows, and draw the terminal."""
    asked = experiment(SETTINGS, data_dir=None, run=runs if runs.exists() else None)
    run = jobs.record(asked, runs, resume=True)
    explain.explained(asked, run, "test", NUMBER, top=5, projection=PROJECTION)  # keeps the rows, if they are not there
    found = explain.explained(asked, run, "test", NUMBER, top=5, projection=None)
    screen = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=92, highlight=False, record=True
    )
    before, console.console, explain.console = console.console, screen, screen
    try:
        explain.show_explained(asked, found)
    finally:
        console.console = explain.console = before
    file = pictures / "explain.svg"
    screen.save_svg(str(file), title=f"hydragrad explain {runs} --test {NUMBER}", theme=MONOKAI)
    # The template asks a server for its font; any monospaced one will do.
    text = file.read_text()
    start, end = text.index("@font-face"), text.index(".terminal-") if ".terminal-" in text else 0
    file.write_text(text[:start] + text[end:].replace("Fira Code, monospace", "monospace"))
    return [file]
