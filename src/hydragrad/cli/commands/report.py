"""`hydragrad report`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import say, write_json
from hydragrad.cli.options import CurvatureByData, DataDir, Json, Quiet, Run, Seeds, SmoothingOption, TokenizerOption
from hydragrad.experiments.clean_and_retrain import ranked_suspects
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.run_report import write_report
from hydragrad.experiments.saved_scores import saved_or_computed, scores_path
from hydragrad.progress import quiet
from hydragrad.scores import Method


def report(
    run: Run,
    query: Annotated[str, typer.Option(help="Which scores: validation, test, or as in test:42.")] = "validation",
    curvature: CurvatureByData = None,
    smoothing: SmoothingOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: RUN/report.html).")] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Rank the suspects, and gather those that agree into groups.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Show near duplicates, and training samples in held-out data.")
    ] = False,
    tokenizer: TokenizerOption = None,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Write one HTML page about a run and its scores; it needs no network.

    It explains predictions if there is RUN/store (hydragrad explain RUN --test 0 makes it), or scores of single test
    samples (hydragrad attribute RUN --query test:42). hydragrad clean writes a report with the groups of its suspects;
    --groups ranks them without training again.

    Example: hydragrad report runs/m --query validation --curvature none
    """
    experiment, recording = open_run(run, data_dir=data_dir, tokenizer=tokenizer)
    method = Method.of(curvature or experiment.curvature, smoothing=smoothing)
    with quiet(silent):
        scores = saved_or_computed(experiment, recording, query, method, seeds=seeds)
        suspects = ranked_suspects(experiment, recording, scores, query, folds=0) if groups else None
        page = write_report(
            experiment,
            recording,
            scores,
            out or run / "report.html",
            suspects=suspects,
            groups=groups,
            duplicates=duplicates,
        )
    say(f"scores: {scores_path(run, query, method, seeds)}\nreport: {page}")
    write_json(json, {"report": str(page)})
