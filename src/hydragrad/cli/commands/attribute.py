"""`hydragrad attribute`."""

import time
from typing import Annotated, Any

import typer

from hydragrad.cli import jobs
from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.forecast import (
    announce,
    attribution_seconds,
    duration,
)
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run
from hydragrad.progress import quiet
from hydragrad.scores import MEANING


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
    seconds = attribution_seconds(opened, curvature) * len(query) * max(1, replays / workers)
    announce("attribution", seconds, 0, always=dry_run)
    if dry_run:
        return
    figures: dict[str, Any] = {"run": str(run), "curvature": curvature}
    for text in query:
        begin = time.monotonic()
        with quiet(silent):
            scores = jobs.score(
                asked, opened, text, curvature, damping=damping, labels=labels, replays=replays, workers=workers
            )
        path = jobs.scores_path(run, text, curvature, damping, replays)
        name = scores.query_names[0]
        harmful, helpful = scores.most_harmful(5, 0), scores.most_helpful(5, 0)
        rows = {
            name: f"{scores.query_values[0]:.4f}",
            "most harmful samples": ", ".join(map(str, harmful)),
            "most helpful samples": ", ".join(map(str, helpful)),
            "replay": "equal to the bit"
            if scores.evidence.replay_exact
            else f"drifted by {scores.evidence.replay_drift:.1e}",
            "written": str(path),
            "took": duration(time.monotonic() - begin),
        }
        table(f"{MEANING}, curvature {curvature}", rows)
        for note in scores.evidence.notes:
            say(f"note: {note}")
        figures |= {
            f"{text} value": scores.query_values[0].item(),
            f"{text} scores": str(path),
            f"{text} most harmful": harmful,
            f"{text} most helpful": helpful,
            f"{text} seconds": time.monotonic() - begin,
        }
    say(f"next: hydragrad clean {run}")
    write_json(json, figures)
