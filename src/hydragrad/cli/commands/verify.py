"""`hydragrad verify`."""

from typing import Annotated

import typer

from hydragrad.attribution.advice import saved_advice
from hydragrad.cli import jobs
from hydragrad.cli.console import say, write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.forecast import (
    announce,
    model_bytes,
    query_seconds,
    training_again_seconds,
)
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run, Seeds
from hydragrad.cli.showing import show_verified
from hydragrad.progress import quiet
from hydragrad.scores import Method


def verify(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    curvature: CurvatureOption = "ggn",
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    replays: Annotated[int, typer.Option(min=0, help="Of scores averaged over so many replays.")] = 0,
    groups: Annotated[int, typer.Option(min=3, help="Random groups of every size.")] = 20,
    size: Annotated[
        str, typer.Option(help="Samples of a group: numbers or shares (0.1 is a tenth), with commas between.")
    ] = "1,0.01,0.1",
    seed: Annotated[int, typer.Option(help="Of the random groups.")] = 0,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling", help="Also what a repeat of the run, one rounding apart, reaches: twice as many retrainings."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Check the scores: really retrain without groups of samples and compare with what was predicted.

    Leaves out random groups and the most harmful and most helpful ones, writes a picture of each size into
    RUN/verify/, and keeps what was measured with the scores, so that reports show it. Retrainings are kept in
    RUN/retrained: interrupted, or for another curvature, the same command goes on with them.

    Example: hydragrad verify runs/m --groups 10 --size 1,0.1
    """
    sizes = jobs.parse_sizes(size)
    asked, opened = open_run(run, data_dir=data_dir)
    trainings = len(sizes) * (groups + 2) * seeds * (1 + ceiling)
    method = Method.of(curvature, damping=damping, replays=replays)
    seconds = training_again_seconds(opened) * (trainings / workers + method.trainings)
    seconds += trainings * query_seconds(asked, opened.trained_model(), query) / 3 / workers
    announce(f"verification ({trainings} retrainings)", seconds, trainings * model_bytes(opened), always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        found = jobs.verify_scores(
            asked,
            opened,
            query,
            method,
            groups=groups,
            sizes=sizes,
            seed=seed,
            workers=workers,
            seeds=seeds,
            ceiling=ceiling,
        )
    show_verified(found)
    if saved_advice(opened) is None:
        say(f"which method suits this run, and whether any does: hydragrad smoothness {run}")
    say(f"written: {found.path}; next: hydragrad report {run}")
    write_json(json, found.figures)
