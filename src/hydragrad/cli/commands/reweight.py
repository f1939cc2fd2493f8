"""`hydragrad reweight`."""

from typing import Annotated

import pandas as pd
import typer

from hydragrad.cleaning import reweigh
from hydragrad.cleaning.reweigh import AGAIN
from hydragrad.cli.commands.clean import outcome_row
from hydragrad.cli.console import percent, say, table, write_json
from hydragrad.cli.forecast import announce, attribution_seconds, training_again_seconds
from hydragrad.cli.options import (
    CurvatureOption,
    DataDir,
    DryRun,
    ExecutorName,
    Json,
    Quiet,
    RayAddress,
    Run,
    SmoothingOption,
    Workers,
    keywords_of,
)
from hydragrad.experiments.clean_and_retrain import save_model, test_accuracies
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.named_query import HALF
from hydragrad.experiments.run_report import write_report
from hydragrad.experiments.saved_scores import saved_or_computed
from hydragrad.progress import quiet
from hydragrad.scores import Method


def reweight(
    run: Run,
    rounds: Annotated[int, typer.Option(min=1, help="How often contributions are taken, at most.")] = 2,
    curvature: CurvatureOption = "none",
    smoothing: SmoothingOption = None,
    query: Annotated[
        str, typer.Option(help="Held-out data: one half gives the contributions, the other decides.")
    ] = "validation",
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Choose loss weights of the training samples from contributions, and really train with them.

    One half of the held-out data gives the contributions; the other decides how large a step along them is. Every
    training starts as the run did. Writes RUN/weights.csv (one line a sample), RUN/reweighted.safetensors (the model
    trained with them) and RUN/report-reweighted.html.

    Example: hydragrad reweight runs/m
    """
    where = keywords_of(executor, ray_address, workers)
    experiment, recording = open_run(run, data_dir=data_dir)
    method = Method.of(curvature, smoothing=smoothing)
    again = training_again_seconds(recording)
    seconds = rounds * (attribution_seconds(recording, method) + 2 * again) + again
    announce("reweighting", seconds, (1 + 2 * rounds) * recording.initial.bytes, always=dry_run)
    if dry_run:
        return
    ranking, deciding = f"{query}{HALF}", experiment.halves(query)[1]
    with quiet(silent):
        result = reweigh(
            recording,
            experiment.query(ranking),
            deciding,
            curvature=curvature,
            smoothing=smoothing,
            rounds=rounds,
            executor=where["executor"],
            workers=where["workers"],
        )
        scores = saved_or_computed(experiment, recording, ranking, method)
    weights, model, page = run / "weights.csv", run / "reweighted.safetensors", run / "report-reweighted.html"
    pd.DataFrame({"sample": range(len(result.weights)), "weight": result.weights.numpy()}).to_csv(weights, index=False)
    save_model(result, model)
    accuracies = test_accuracies(experiment, recording, result, AGAIN)
    write_report(experiment, recording, scores, page, accuracies=accuracies, cleaning=result)
    table("what the weights do, on the half of the data that decided", dict(map(outcome_row, result.outcomes)))
    if accuracies:
        table("test accuracy", {name: percent(accuracy) for name, accuracy in accuracies.items()})
    say(result.sentence)
    say(f"weights: {weights}\nmodel trained with them: {model}\nreport: {page}")
    figures = {"recommended": result.recommended.remedy.name, "sentence": result.sentence, "test": accuracies}
    write_json(json, figures | {"outcomes": result.to_frame().reset_index().to_dict("records")})
