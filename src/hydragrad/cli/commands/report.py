"""`hydragrad report`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli import jobs
from hydragrad.cli.console import say, write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.options import CurvatureOption, DataDir, Json, Quiet, Run, Seeds
from hydragrad.cli.reporting import write_report
from hydragrad.progress import quiet
from hydragrad.scores import Method


def report(
    run: Run,
    query: Annotated[str, typer.Option(help="Which scores: validation, test, or as in test:42.")] = "validation",
    curvature: CurvatureOption = "none",
    out: Annotated[Path | None, typer.Option(help="File to write (RUN/report.html where not given).")] = None,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Write one HTML page about a run and its scores; it needs no network.

    Predictions are explained in it where RUN/store is there (hydragrad explain RUN --test 0 makes it), or scores of
    single test samples (hydragrad attribute RUN --query test:42).

    Example: hydragrad report runs/m --query validation --curvature none
    """
    asked, opened = open_run(run, data_dir=data_dir)
    with quiet(silent):
        scores = jobs.saved_or_scored(asked, opened, query, Method.of(curvature), seeds=seeds)
        page = write_report(asked, opened, scores, out or run / "report.html")
    say(f"report: {page}")
    write_json(json, {"report": str(page)})
