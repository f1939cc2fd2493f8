"""`hydragrad clean`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cleaning import KINDS, Kind, Outcome
from hydragrad.cli.console import percent, say, table, write_json
from hydragrad.cli.forecast import announce, ranking_seconds, training_seconds
from hydragrad.cli.options import (
    CurvatureOption,
    DataDir,
    DryRun,
    ExecutorName,
    Json,
    Quiet,
    RayAddress,
    Run,
    Seeds,
    SmoothingOption,
    Workers,
    keywords_of,
)
from hydragrad.errors import QueryError
from hydragrad.experiments.clean_and_retrain import ESTIMATED, Cleaned, save_model, with_names
from hydragrad.experiments.clean_and_retrain import clean as clean_and_retrain
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.run_report import can_be_grouped, write_report
from hydragrad.experiments.saved_scores import saved_or_computed, scores_path
from hydragrad.experiments.training import plan_of
from hydragrad.labelling import import_labels
from hydragrad.progress import quiet
from hydragrad.scores import Method

FILES = ("suspects.csv", "cleaned.csv", "cleaned.safetensors", "report.html")
ENDINGS: dict[Kind, str] = {"remove": "-removed", "relabel": "-relabelled", "down-weight": "-down-weighted"}


def clean(
    run: Run,
    remove: Annotated[
        float | None, typer.Option(help="Share of the training samples to treat (default: estimated).")
    ] = None,
    treatment: Annotated[
        list[str] | None, typer.Option(help=f"What to try: {', '.join(KINDS)} (may be repeated; default: all).")
    ] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Short for --treatment relabel.")] = False,
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
    query: Annotated[str, typer.Option(help="Held-out data that rank: one half of a set; the other half chooses.")] = (
        "validation-half"
    ),
    reference: Annotated[
        bool,
        typer.Option("--reference/--no-reference", help="Where noise was planted, also train on true labels."),
    ] = True,
    seeds: Seeds = 1,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Find suspects, really train with them removed, relabelled or down-weighted, and say which helps, if any.

    One half of the held-out data ranks the samples, the other measures what each treatment does. Every training starts
    as the run did and makes as many steps. Writes RUN/suspects.csv, RUN/cleaned.csv (label and weight of every sample
    as recommended), RUN/cleaned.safetensors (the model trained so) and RUN/report.html; with --relabel or another
    single treatment their names end in it, and with --labels, which takes labels that were fixed by hand, in the
    report or in another tool (hydragrad export --help), in "by-hand". Scores are computed if they are not there.

    Example: hydragrad clean runs/m
    """
    if remove is not None and not 0 < remove < 1:
        raise QueryError(f"--remove takes a share between 0 and 1 (0.1 is a tenth); got {remove}.")
    if labels is not None and (relabel or treatment or remove is not None):
        raise QueryError("--labels says which labels to train with; leave out --remove, --relabel and --treatment.")
    where = keywords_of(executor, ray_address, workers)
    experiment, recording = open_run(run, data_dir=data_dir)
    if experiment.is_text:
        raise QueryError(
            f"{experiment.settings.data} has no labels to clean. See its most harmful samples: hydragrad report {run}"
        )
    treatments = _treatments(treatment or [], relabel)
    marks = None if labels is None else import_labels(recording, labels, classes=experiment.classes)
    # Without --remove, removing and relabelling are tried with the fewest and the most wrong labels there may be.
    tried = 1 if marks else sum(1 + (remove is None and kind != "down-weight") for kind in treatments)
    retrainings = tried + 1 + (experiment.labels is not None and reference)
    method = Method.of(curvature, smoothing=smoothing)
    path = scores_path(run, query, method, seeds)
    training = training_seconds(experiment, plan_of(experiment))
    ranking = ranking_seconds(experiment, recording, query, method, seeds=seeds, folds=folds, training=training)
    announce("cleaning", ranking + training * retrainings, retrainings * recording.initial.bytes, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        scores = saved_or_computed(experiment, recording, query, method, seeds=seeds, where=where)
        cleaned = clean_and_retrain(
            experiment,
            recording,
            scores,
            query,
            remove=remove,
            treatments=treatments,
            reference=reference,
            folds=folds,
            marks=marks,
            where=where,
        )
    # Each way of cleaning has files of its own, so that they can be compared.
    ending = "-by-hand" if marks else ENDINGS[treatments[0]] if len(treatments) == 1 else ""
    files = {name: run / f"{name.partition('.')[0]}{ending}.{name.partition('.')[2]}" for name in FILES}
    with_names(cleaned.suspects, experiment.classes).to_csv(files["suspects.csv"], index=False)
    with_names(cleaned.training, experiment.classes).to_csv(files["cleaned.csv"], index=False)
    save_model(cleaned.cleaning, files["cleaned.safetensors"])
    page = files["report.html"]
    write_report(
        experiment,
        recording,
        scores,
        page,
        suspects=cleaned.suspects,
        groups=can_be_grouped(cleaned.suspects),
        accuracies=cleaned.accuracies,
        cleaning=cleaned.cleaning,
    )
    _show(cleaned)
    say(
        f"scores: {path}\nsuspects: {files['suspects.csv']}\nlabels and weights as recommended: {files['cleaned.csv']}"
        f"\nmodel trained with them: {files['cleaned.safetensors']}\nreport: {page}"
    )
    write_json(json, cleaned.figures | {"suspects": str(files["suspects.csv"]), "report": str(page)})


def _treatments(named: list[str], relabel: bool) -> list[Kind]:
    wrong = [name for name in named if name not in KINDS]
    if wrong:
        raise QueryError(f"--treatment takes {', '.join(KINDS)}; got {wrong[0]!r}.")
    chosen = [kind for kind in KINDS if kind in named or (relabel and kind == "relabel")]
    return chosen or list(KINDS)


def _show(cleaned: Cleaned) -> None:
    figures = cleaned.figures
    rows = {"suspects": _share(cleaned)}
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
    table("suspects", rows)
    outcomes = dict(map(outcome_row, cleaned.cleaning.outcomes))
    table("what treating them does, on held-out data that ranked nothing", outcomes)
    if cleaned.accuracies:
        table("test accuracy", {name: percent(accuracy) for name, accuracy in cleaned.accuracies.items()})
    say(cleaned.cleaning.sentence)
    if cleaned.warning is not None:
        say(cleaned.warning)


def _share(cleaned: Cleaned) -> str:
    figures = cleaned.figures
    share, known = percent(figures["share"]), figures.get("wrong_share")
    if cleaned.how != ESTIMATED:
        return f"{share} of the samples, {cleaned.how}"
    if known is None:
        return f"{share} of the samples, for which another label is suggested"
    return (
        f"another label is suggested for {share} of the samples; between {percent(known['low'])} and "
        f"{percent(known['high'])} of the labels are wrong"
    )


def outcome_row(outcome: Outcome) -> tuple[str, str]:
    """Name of a treatment, and what it did, for a table."""
    result = (
        f"loss {outcome.loss:.4f} ± {outcome.error:.4f}"
        if outcome.accuracy is None
        else f"{percent(outcome.accuracy)} ± {100 * outcome.error:.1f}, loss {outcome.loss:.4f}"
    )
    return outcome.remedy.name, result
