"""`hydragrad clean`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cleaning import read_marks
from hydragrad.cli import jobs
from hydragrad.cli.console import say, write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.forecast import (
    announce,
    attribution_seconds,
    query_seconds,
    signals_seconds,
    training_disk,
    training_seconds,
)
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run, Seeds
from hydragrad.cli.reporting import write_report
from hydragrad.cli.showing import show_cleaned
from hydragrad.errors import QueryError
from hydragrad.progress import quiet
from hydragrad.scores import Method


def clean(
    run: Run,
    remove: Annotated[
        float | None, typer.Option(help="Share of the training samples to remove (default: estimated).")
    ] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Relabel suspects instead of removing them.")] = False,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train with the labels marked as fixed in the report (its JSON file)."),
    ] = None,
    curvature: CurvatureOption = "none",
    folds: Annotated[
        int, typer.Option(min=0, help="Also ask so many networks that were trained without a part of the samples.")
    ] = 0,
    query: Annotated[str, typer.Option(help="Held-out data to help: validation or test.")] = "validation",
    reference: Annotated[
        bool,
        typer.Option("--reference/--no-reference", help="Where noise was planted, also train on true labels."),
    ] = True,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Find harmful samples, remove or relabel them, retrain afresh, and compare test accuracies.

    Writes RUN/suspects.csv and RUN/report.html; with --relabel, RUN/suspects-relabelled.csv and
    RUN/report-relabelled.html; with --labels, which takes the labels that a person fixed in the report,
    RUN/suspects-by-hand.csv and RUN/report-by-hand.html. Scores are computed if they are not there.

    Example: hydragrad clean runs/m --remove 0.1
    """
    if remove is not None and not 0 < remove < 1:
        raise QueryError(f"--remove takes a share between 0 and 1 (0.1 is a tenth); {remove} came.")
    if labels is not None and (relabel or remove is not None):
        raise QueryError("--labels says which labels to train with; leave out --remove and --relabel.")
    asked, opened = open_run(run, data_dir=data_dir)
    marks = None if labels is None else read_marks(labels, opened, asked.known_labels())
    retrainings = 1 + (asked.labels is not None and reference)
    method = Method.of(curvature)
    have = jobs.scores_path(run, query, method, seeds).exists()
    training = training_seconds(asked, jobs.plan_of(asked))
    seconds = training * retrainings + signals_seconds(asked, opened, folds, training)
    if not have:
        seconds += query_seconds(asked, opened.trained_model(), query) * seeds
        seconds += attribution_seconds(opened, method) * seeds
        seconds += training * (seeds - 1)
    disk = retrainings * training_disk(asked, jobs.plan_of(asked), jobs.checkpoints_every(asked))
    announce("cleaning", seconds, disk, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        scores = jobs.saved_or_scored(asked, opened, query, method, seeds=seeds)
        found = jobs.clean(
            asked, opened, scores, query, remove=remove, relabel=relabel, reference=reference, folds=folds, marks=marks
        )
    ending = (
        "-relabelled" if relabel else "-by-hand" if marks else ""
    )  # so that both ways of cleaning a run can be compared
    suspects_file, page = run / f"suspects{ending}.csv", run / f"report{ending}.html"
    jobs.with_names(found.suspects, asked.classes).to_csv(suspects_file, index=False)
    write_report(asked, opened, scores, page, suspects=found.suspects, accuracies=found.accuracies)
    show_cleaned(found)
    say(f"suspects: {suspects_file}\nreport: {page}")
    write_json(json, found.figures | {"suspects": str(suspects_file), "report": str(page)})
