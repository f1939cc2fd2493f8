"""`hydragrad smoothness`."""

from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, say, write_json
from hydragrad.cli.forecast import announce, model_bytes, training_again_seconds
from hydragrad.cli.options import (
    DataDir,
    DryRun,
    ExecutorName,
    Json,
    Part,
    Quiet,
    RayAddress,
    Run,
    Workers,
    jobs_at_a_time,
    keywords_of,
    slice_done,
)
from hydragrad.experiments.from_settings import open_run
from hydragrad.progress import quiet
from hydragrad.scores import Method
from hydragrad.trust import smoothness as probe
from hydragrad.trust.second_moments import SMOOTHINGS


def smoothness(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    share: Annotated[float, typer.Option(help="Share of the samples whose weights are lowered.")] = 0.1,
    directions: Annotated[int, typer.Option(min=1, help="Random groups of samples.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the groups.")] = 0,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    part: Part = None,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Measure whether derivatives of this run predict the effect of removals, and recommend a method.

    Trains the run again with the weights of some samples lowered in steps, and once with the initial weights changed
    by one rounding. Of a run of Adam or its kin it also compares smoothings, by three attributions with curvature. The
    verdict is saved in RUN/smoothness.json, and scores note it if another method is used.

    Example: hydragrad smoothness runs/m --workers 2
    """
    experiment, recording = open_run(run, data_dir=data_dir)
    where = keywords_of(executor, ray_address, workers, part)
    trainings = 1 + 6 * directions
    compared = any(rule.second_moment is not None for rule in recording.rules)
    sweeps = len(SMOOTHINGS) * Method.of("hessian").trainings if compared else 0.0
    seconds = training_again_seconds(recording) * (trainings / jobs_at_a_time(where) + sweeps)
    announce(f"the probe ({trainings} retrainings)", seconds, trainings * model_bytes(recording), always=dry_run)
    if dry_run:
        return
    with quiet(silent), slice_done():
        smooth = probe(recording, query=experiment.query(query), share=share, directions=directions, seed=seed, **where)
    columns(
        f"{100 * share:g} % of the samples lowered in weight, in two steps of the same size",
        ("step", "cosine of the weights' two changes", "agreement of the query's two slopes"),
        [(f"{p.step:g}", number(p.cosine), number(p.slope_agreement)) for p in smooth.probes],
    )
    if smooth.smoothings:
        columns(
            "changes of the weights, predicted with one smoothing or another against real ones",
            ("smoothing", "size, of the real ones", "relative error"),
            [(f"{p.smoothing:g}", number(p.size), number(p.error)) for p in smooth.smoothings],
        )
    say(smooth.sentence)
    options = " ".join(f"--{name} {value}" for name, value in smooth.options.items())
    say(f"next: hydragrad attribute {run} --query {query} {options}")
    figures = {"run": str(run), "rounding_growth": smooth.rounding_growth, "recommended": smooth.recommended}
    if smooth.smoothing is not None:
        figures["smoothing"] = smooth.smoothing
    cosines = {f"cosine_{p.step:g}": p.cosine for p in smooth.probes}
    write_json(json, figures | cosines | {f"recommended_{name}": value for name, value in smooth.options.items()})
