"""What `hydragrad explain` shows in a terminal."""

import io
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from hydragrad.cli import console
from hydragrad.cli.commands import explain
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.training import record

SETTINGS = Settings(data="digits", model="lenet5", noise=0.1, epochs=15)
NUMBER, PROJECTION = 42, 512


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, save the rows, and draw the terminal."""
    experiment = build_experiment(SETTINGS, data_dir=None, run=runs if runs.exists() else None)
    run = record(experiment, runs, resume=True)
    explain.explain_sample(experiment, run, "test", NUMBER, top=5, projection=PROJECTION)  # saves the rows
    explained = explain.explain_sample(experiment, run, "test", NUMBER, top=5, projection=None)
    screen = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=92, highlight=False, record=True
    )
    before, console.console, explain.console = console.console, screen, screen
    try:
        explain.show_explained(experiment, explained)
    finally:
        console.console = explain.console = before
    file = pictures / "explain.svg"
    screen.save_svg(str(file), title=f"hydragrad explain {runs} --test {NUMBER}", theme=MONOKAI)
    # The template asks a server for its font; any monospaced one will do.
    text = file.read_text()
    start, end = text.index("@font-face"), text.index(".terminal-") if ".terminal-" in text else 0
    file.write_text(text[:start] + text[end:].replace("Fira Code, monospace", "monospace"))
    return [file]
