"""`hydragrad attribute`."""

import time
from typing import Annotated, Any

import typer

from hydragrad.cli import jobs
from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.ensembles import with_errors
from hydragrad.cli.experiment import open_run
from hydragrad.cli.forecast import (
    announce,
    attribution_seconds,
    duration,
    query_seconds,
    training_disk,
    training_seconds,
)
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run, Seeds
from hydragrad.progress import quiet
from hydragrad.scores import MEANING, Method


def attribute(
    run: Run,
    query: Annotated[
        list[str],
        typer.Option(help="validation, test, train, or one sample as in test:42; several are allowed."),
    ] = ["validation"],  # noqa: B006 - typer copies it
    curvature: CurvatureOption = "none",
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    replays: Annotated[
        int,
        typer.Option(min=0, help="Average over replays that each leave out a random tenth; for runs with kinks."),
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that replay at the same time.")] = 1,
    labels: Annotated[
        bool | None,
        typer.Option("--labels/--no-labels", help="Contributions of every label (default: where possible)."),
    ] = None,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Attribute the trained model's loss to single training samples; writes RUN/scores/.

    A contribution is what the loss would rise by, to first order, had the sample not been trained on: positive
    helps. Interrupted, the same command goes on where it stopped.

    Example: hydragrad attribute runs/m --query validation --query test:42
    """
    asked, opened = open_run(run, data_dir=data_dir)
    method = Method.of(curvature, damping=damping, replays=replays)
    at_once = workers if max(replays, seeds) > 1 else 1
    seconds = attribution_seconds(opened, method) * len(query) * seeds / at_once
    seconds += seeds * sum(query_seconds(asked, opened.trained_model(), each) for each in query)
    plan = jobs.plan_of(asked)
    seconds += training_seconds(asked, plan) * (seeds - 1) / at_once
    disk = (seeds - 1) * training_disk(asked, plan, jobs.checkpoints_every(asked))
    announce("attribution", seconds, disk, always=dry_run)
    if dry_run:
        return
    figures: dict[str, Any] = {"run": str(run), "curvature": curvature, "seeds": seeds}
    for text in query:
        begin = time.monotonic()
        with quiet(silent):
            scores = jobs.score(asked, opened, text, method, labels=labels, seeds=seeds, workers=workers)
        path = jobs.scores_path(run, text, method, seeds)
        name = scores.query_names[0]
        harmful, helpful = scores.most_harmful(5, 0), scores.most_helpful(5, 0)
        rows = {
            name: f"{scores.query_values[0]:.4f}",
            "most harmful samples": with_errors(scores, harmful),
            "most helpful samples": with_errors(scores, helpful),
            "replay": "equal to the bit"
            if scores.evidence.replay_exact
            else f"drifted by {scores.evidence.replay_drift:.1e}",
            "written": str(path),
            "took": duration(time.monotonic() - begin),
        }
        table(f"{MEANING}, curvature {method.in_words}", rows)
        for note in scores.evidence.notes:
            say(f"note: {note.text}")
        figures |= {
            f"{text} value": scores.query_values[0].item(),
            f"{text} scores": str(path),
            f"{text} most harmful": harmful,
            f"{text} most helpful": helpful,
            f"{text} seconds": time.monotonic() - begin,
        }
    say(f"next: hydragrad clean {run}")
    write_json(json, figures)
