"""`hydragrad demo`: the whole main job on scikit-learn's digits, for a person who does not know the paper."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from hydragrad.attribution import attribute
from hydragrad.cleaning import detection_curve
from hydragrad.cli.commands.demo_check import figures_of, left_out, show
from hydragrad.cli.commands.demo_text import SETTINGS as TEXT_SETTINGS
from hydragrad.cli.commands.demo_text import run_text_demo
from hydragrad.cli.console import console, percent, say, table, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.errors import HydragradError, RunExists
from hydragrad.experiments.clean_and_retrain import clean, with_names
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.run_report import write_report
from hydragrad.experiments.saved_scores import compute_scores
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.training import record
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.runs.manifest import FILE, read_manifest
from hydragrad.scores import Check, Method, Scores, amounts_of
from hydragrad.tracking import hypergradients

SETTINGS = Settings(data="digits", model="lenet5", noise=0.4, epochs=24, batch_size=64)
QUERY = "validation-half"
HARMFUL, HELPFUL, RANDOM_GROUPS, RANDOM_SIZE = (20, 40), (30, 60), 2, 50
"""Groups that are really left out: sizes of the most harmful and most helpful ones; number and size of random ones."""
SUSPECTS_SHOWN = 8
PROJECTION = 2048
"""Columns of the rows that explain predictions."""


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Where the run and its report are written (default: runs/demo, or runs/demo-text)."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="A small language model on first names, some of them spelled backwards.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The main job on an embedded data set, in a minute or two; writes OUT/report.html.

    Flips 40 % of the labels of 1,000 images of digits, trains LeNet-5, finds the flipped ones by their
    contributions, cleans, retrains, and checks predictions by really retraining without groups of samples. With
    --text: spells 300 of 3,000 first names backwards, trains a GPT, and finds them; reads or downloads names.txt.

    Example: hydragrad demo --out runs/demo
    """
    with quiet(silent):
        if text:
            folder = out or Path("runs/demo-text")
            _make_room(folder, TEXT_SETTINGS)
            write_json(json, run_text_demo(folder, data_dir))
        else:
            write_json(json, run_demo(out or Path("runs/demo")))


def run_demo(out: Path) -> dict[str, Any]:
    """Run it and return its figures.

    Raises:
        RunExists: `out` holds something that is no earlier demo.
    """
    _make_room(out, SETTINGS)
    experiment = build_experiment(SETTINGS, data_dir=None)
    assert experiment.labels is not None
    flipped = int(experiment.labels.flipped.sum())
    console.rule("hydragrad demo")
    say(
        f"1,000 images of handwritten digits; {flipped} of their labels are wrong on purpose. LeNet-5 is trained on "
        f"them, and every step is recorded."
    )
    run = record(experiment, out, resume=False)
    say(
        "Now the run is replayed, and every training sample gets its contribution: how much it lowered the loss on "
        "held-out images whose labels are right."
    )
    scores = compute_scores(experiment, run, QUERY, Method())
    say(
        "A label is suspect if the network preferred another one for most of the training; even more so if the sample "
        "harms. Trained again without the suspects, with their labels replaced where the network is sure of another, "
        "with less weight, and with the true labels; half of the held-out images, which ranked nothing, say what helps:"
    )
    cleaned = clean(experiment, run, scores, QUERY, remove=None, reference=True)
    ranked, figures, accuracies = cleaned.suspects, cleaned.figures, cleaned.accuracies
    _show_suspects(ranked)
    table(
        "How many of the wrong labels are found?",
        {
            "a wrong label ranks as more suspect than a right one in": f"{percent(figures['auc'])} of all pairs (AUC)",
            "wrong labels among the first 10 % inspected": _found(figures, ranked, 10),
            "wrong labels among the first 20 % inspected": _found(figures, ranked, 20),
            "suggested labels that are right": f"{percent(figures['suggested_labels_right'])} of all samples",
        },
    )
    say(cleaned.cleaning.sentence)
    table(
        "What treating the suspects does, on the test set",
        {f"test accuracy, {name}": percent(accuracy) for name, accuracy in accuracies.items()},
    )
    checked = _checked(experiment, run, ranked)
    (check,) = checked.evidence.checks
    show(check, digits=3)
    say("Last, one row is saved for every training sample, with which the report explains single predictions.")
    hypergradients(run, projection=PROJECTION, store=out / "store")
    page = write_report(
        experiment,
        run,
        scores,
        out / "report.html",
        suspects=ranked,
        groups=True,
        accuracies=accuracies,
        cleaning=cleaned.cleaning,
        checks=[check],
        removals=checked if amounts_of(checked).calibration else None,
        title="hydragrad demo: digits with 40 % wrong labels",
    )
    with_names(ranked, experiment.classes).to_csv(out / "suspects.csv", index=False)
    say(f"\nLook at the pictures: {page}\nThe ranked samples: {out / 'suspects.csv'}")
    say("On your own data: README.md, 'Your own model and loop'; hydragrad train --help.")
    return figures | _figures(ranked, check) | {"report": str(page)}


def _make_room(out: Path, demo: Settings) -> None:
    """Remove an earlier demo, and nothing else."""
    if not (out / FILE).exists():
        return
    try:
        settings = read_manifest(out).about.get("settings", {})
    except HydragradError:
        settings = {}
    if (settings.get("data"), settings.get("noise")) != (demo.data, demo.noise):
        raise RunExists(f"{out} holds a run that is no demo. Choose another --out, or delete it.")
    shutil.rmtree(out)


def _found(figures: Mapping[str, Any], ranked: pd.DataFrame, share: int) -> str:
    best = share / 100 / float(ranked["flipped"].mean())
    return f"{percent(figures[f'found_in_first_{share}_percent'])} of all wrong ones (at most {percent(best)})"


def _show_suspects(ranked: pd.DataFrame) -> None:
    rows = {
        f"sample {row.sample}": f"labelled {row.given_label}, suggested {row.suggested_label}, truly {row.true_label}"
        + ("" if row.flipped else "  (its label was right)")
        for row in ranked.head(SUSPECTS_SHOWN).itertuples()
    }
    table("The most suspect samples", rows)


def _checked(experiment: Experiment, run: Recording, ranked: pd.DataFrame) -> Scores:
    """Scores by Gauss-Newton, with predicted and actual change of the loss for groups that are really left out."""
    query = experiment.query(QUERY)
    scores = attribute(run, query, curvature="ggn")
    generator = torch.Generator().manual_seed(0)
    worst_first = ranked.sort_values("contribution")["sample"].tolist()
    groups = {f"the {size} most harmful": worst_first[:size] for size in HARMFUL}
    groups |= {f"the {size} most helpful": worst_first[-size:] for size in HELPFUL}
    groups |= {
        f"{RANDOM_SIZE} random ones ({n + 1})": torch.randperm(len(worst_first), generator=generator)[
            :RANDOM_SIZE
        ].tolist()
        for n in range(RANDOM_GROUPS)
    }
    return scores.with_evidence(scores.evidence.with_checks([left_out(run, scores, query, groups)]))


def _figures(ranked: pd.DataFrame, check: Check) -> dict[str, float]:
    inspected, share = detection_curve(ranked)
    return {"found_in_first_half": float(share[np.searchsorted(inspected, 0.5)])} | figures_of(check)
