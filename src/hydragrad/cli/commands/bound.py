"""`hydragrad bound`."""

from dataclasses import asdict
from typing import Annotated

import typer

from hydragrad.cli import jobs
from hydragrad.cli.console import say, write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.forecast import announce, training_again_seconds
from hydragrad.cli.options import DataDir, DryRun, Json, Quiet, Run
from hydragrad.cli.showing import show_bound
from hydragrad.figures import error_over_time
from hydragrad.progress import quiet
from hydragrad.scores import Method, Scores
from hydragrad.trust import approximation_error


def bound(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    samples: Annotated[int, typer.Option(min=2, help="Random training samples to compare.")] = 16,
    points: Annotated[int, typer.Option(min=1, help="Points in time.")] = 10,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Measure the error of dropping the curvature along the run, beside its bound; writes RUN/bound.png.

    Follows exact and approximate hypergradients of some samples side by side. The bound is the paper's Theorem 1, for
    mini-batches, momentum and any schedule; it is loose, so the measured error stands beside it.

    Example: hydragrad bound runs/m --samples 8
    """
    asked, opened = open_run(run, data_dir=data_dir)
    chosen = asked.query(query)
    announce("the comparison", training_again_seconds(opened) * 3 * samples, 0, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        found = approximation_error(opened, samples=samples, query=chosen, points=points)
    show_bound(found)
    picture = run / "bound.png"
    error_over_time([asdict(point) for point in found.points]).savefig(picture, dpi=160)
    path = jobs.scores_path(run, query, Method())
    if path.exists():
        scores = Scores.load(path)
        scores.with_evidence(found.noted(scores.evidence)).save(path)
    say(f"picture: {picture}")
    write_json(json, {"run": str(run), "samples": samples, **asdict(found.points[-1])})
