"""`hydragrad bound`."""

from dataclasses import asdict
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, percent, say, write_json
from hydragrad.cli.forecast import announce, training_again_seconds
from hydragrad.cli.options import DataDir, DryRun, Json, Quiet, Run
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.saved_scores import scores_path
from hydragrad.figures import error_over_time
from hydragrad.progress import quiet
from hydragrad.scores import Method, Scores
from hydragrad.trust import ApproximationError, approximation_error


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
    """Measure the error of dropping the curvature along the run, and its bound; writes RUN/bound.png.

    Computes exact and approximate hypergradients of some samples together. The bound is the paper's Theorem 1, for
    mini-batches, momentum and any schedule; it is loose, so the measured error is shown with it.

    Example: hydragrad bound runs/m --samples 8
    """
    experiment, recording = open_run(run, data_dir=data_dir)
    measured_query = experiment.query(query)
    announce("the comparison", training_again_seconds(recording) * 3 * samples, 0, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        error = approximation_error(recording, samples=samples, query=measured_query, points=points)
    _show(error)
    picture = run / "bound.png"
    error_over_time([asdict(point) for point in error.points]).savefig(picture, dpi=160)
    path = scores_path(run, query, Method())
    if path.exists():
        scores = Scores.load(path)
        scores.with_evidence(error.noted(scores.evidence)).save(path)
    say(f"picture: {picture}")
    write_json(json, {"run": str(run), "samples": samples, **asdict(error.points[-1])})


def _show(error: ApproximationError) -> None:
    headings = ("step", "error", "relative", "Spearman", "wrong sign", "Σ|κ||H∇|", "L M Σ|κ|")
    rows = [
        (
            f"{point.step:,}",
            number(point.error),
            number(point.relative_error),
            number(point.spearman),
            percent(point.sign_disagreements),
            number(point.measured_bound),
            number(point.bound),
        )
        for point in error.points
    ]
    columns("hypergradients without curvature against exact ones", headings, rows)
    last = error.points[-1]
    say(f"sampled: L = {number(last.largest_eigenvalue)} (Hessian), M = {number(last.largest_hypergradient)}")
    if last.bound is None:
        say("There is no bound: it needs a closed form of the run without curvature, and this run has none.")
    say(error.sentence)
