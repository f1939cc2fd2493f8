"""`hydragrad report`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli import jobs
from hydragrad.cli.console import say, write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.options import CurvatureOption, DataDir, Json, Quiet, Run
from hydragrad.progress import quiet
from hydragrad.report import report as write_report


def report(
    run: Run,
    query: Annotated[str, typer.Option(help="Which scores: validation, test, or as in test:42.")] = "validation",
    curvature: CurvatureOption = "none",
    out: Annotated[Path | None, typer.Option(help="File to write (RUN/report.html where not given).")] = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Write one HTML page about a run and its scores; it needs no network."""
    from hydragrad.cleaning import suspects

    asked, opened = open_run(run, data_dir=data_dir)
    with quiet(silent):
        scores = jobs.kept_scores(asked, opened, query, curvature)
    page = out or run / "report.html"
    ranked = suspects(opened, scores) if scores.label_contributions is not None else None
    write_report(opened, scores, page, suspects=ranked, picture=asked.picture, classes=asked.classes)
    say(f"report: {page}")
    write_json(json, {"report": str(page)})
