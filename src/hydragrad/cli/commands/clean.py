"""`hydragrad clean`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import percent, say, table, write_json
from hydragrad.cli.forecast import announce, ranking_seconds, training_disk, training_seconds
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run, Seeds, SmoothingOption
from hydragrad.errors import QueryError
from hydragrad.experiments.clean_and_retrain import Cleaned, with_names
from hydragrad.experiments.clean_and_retrain import clean as clean_and_retrain
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.run_report import write_report
from hydragrad.experiments.saved_scores import saved_or_computed, scores_path
from hydragrad.experiments.training import checkpoints_every, plan_of
from hydragrad.labelling import import_labels
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
        typer.Option(
            metavar="FILE",
            help="Train with labels that were fixed by hand: marks saved in the report, a CSV table with the columns "
            "sample and label, an export of Label Studio, a FiftyOneDataset folder, or issues of cleanlab as CSV.",
        ),
    ] = None,
    curvature: CurvatureOption = "none",
    smoothing: SmoothingOption = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Also use this many networks, each trained without a part of the samples.")
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
    """Find harmful samples, remove or relabel them, retrain from scratch, and compare test accuracies.

    Writes RUN/suspects.csv and RUN/report.html; with --relabel, RUN/suspects-relabelled.csv and
    RUN/report-relabelled.html; with --labels, which takes labels that were fixed by hand, in the report or in another
    tool (hydragrad export --help), RUN/suspects-by-hand.csv and RUN/report-by-hand.html. Scores are computed if they
    are not there.

    Example: hydragrad clean runs/m --remove 0.1
    """
    if remove is not None and not 0 < remove < 1:
        raise QueryError(f"--remove takes a share between 0 and 1 (0.1 is a tenth); got {remove}.")
    if labels is not None and (relabel or remove is not None):
        raise QueryError("--labels says which labels to train with; leave out --remove and --relabel.")
    experiment, recording = open_run(run, data_dir=data_dir)
    if experiment.is_text:
        raise QueryError(
            f"{experiment.settings.data} has no labels to clean. See its most harmful samples: hydragrad report {run}"
        )
    marks = None if labels is None else import_labels(recording, labels, classes=experiment.classes)
    retrainings = 1 + (experiment.labels is not None and reference)
    method = Method.of(curvature, smoothing=smoothing)
    path = scores_path(run, query, method, seeds)
    training = training_seconds(experiment, plan_of(experiment))
    ranking = ranking_seconds(experiment, recording, query, method, seeds=seeds, folds=folds, training=training)
    disk = retrainings * training_disk(experiment, plan_of(experiment), checkpoints_every(experiment))
    announce("cleaning", ranking + training * retrainings, disk, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        scores = saved_or_computed(experiment, recording, query, method, seeds=seeds)
        cleaned = clean_and_retrain(
            experiment,
            recording,
            scores,
            query,
            remove=remove,
            relabel=relabel,
            reference=reference,
            folds=folds,
            marks=marks,
        )
    # Each way of cleaning has files of its own, so that they can be compared.
    ending = "-relabelled" if relabel else "-by-hand" if marks else ""
    suspects_file, page = run / f"suspects{ending}.csv", run / f"report{ending}.html"
    with_names(cleaned.suspects, experiment.classes).to_csv(suspects_file, index=False)
    write_report(experiment, recording, scores, page, suspects=cleaned.suspects, accuracies=cleaned.accuracies)
    _show(cleaned)
    say(f"scores: {path}\nsuspects: {suspects_file}\nreport: {page}")
    write_json(json, cleaned.figures | {"suspects": str(suspects_file), "report": str(page)})


def _show(cleaned: Cleaned) -> None:
    figures = cleaned.figures
    action = "relabelled" if figures["relabelled"] else "removed"
    share = percent(figures["share"])
    rows = {action: f"{cleaned.changed:,} of {figures['samples']:,} samples ({share}, {cleaned.how})"}
    if "auc" in figures and figures["auc"] is not None:
        rows |= {
            "flipped labels ranked above others": f"AUC {figures['auc']:.3f}",
            "flips found in the first 10 % / 20 %": f"{percent(figures['found_in_first_10_percent'])} / "
            f"{percent(figures['found_in_first_20_percent'])}",
        }
    if "marks_right" in figures:
        rows["labels fixed by hand that are right"] = percent(figures["marks_right"])
    if "suggested_labels_right" in figures:
        rows["suggested labels that are right"] = percent(figures["suggested_labels_right"])
    rows |= {f"test accuracy, {name}": percent(accuracy) for name, accuracy in cleaned.accuracies.items()}
    table("cleaned", rows)
    if cleaned.warning is not None:
        say(cleaned.warning)
