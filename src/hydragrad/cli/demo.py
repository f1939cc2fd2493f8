"""The demo: the whole main job on scikit-learn's digits, in a form that a person understands without the paper."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loky import cpu_count

from hydragrad.attribution import attribute
from hydragrad.cleaning import detection_curve
from hydragrad.cli import jobs
from hydragrad.cli.console import console, percent, say, table
from hydragrad.cli.experiment import Settings, experiment
from hydragrad.cli.reporting import write_report
from hydragrad.errors import HydragradError, RunExists
from hydragrad.runs.manifest import FILE, read_manifest
from hydragrad.scores import Check, Method
from hydragrad.tracking import hypergradients
from hydragrad.trust import counterfactual

SETTINGS = Settings(data="digits", model="lenet5", noise=0.4, epochs=24, batch_size=64)
QUERY = "validation"
HARMFUL, HELPFUL, RANDOM_GROUPS = (20, 40), (30, 60), 2
"""Groups really left out: so many of the most harmful, of the most helpful, and random ones."""
RANDOM_SIZE = 50
SUSPECTS_SHOWN = 8
WORKERS = 2
"""Processes that train without groups, where there are so many cores."""
PROJECTION = 2048
"""Columns of the rows that explain predictions."""


def run_demo(out: Path) -> dict[str, Any]:
    """Run it and return its figures.

    Raises:
        RunExists: `out` holds something that is no earlier demo.
    """
    _make_room(out)
    asked = experiment(SETTINGS, data_dir=None)
    assert asked.labels is not None
    flipped = int(asked.labels.flipped.sum())
    console.rule("hydragrad demo")
    say(
        f"1,000 images of handwritten digits; {flipped} of their labels are wrong on purpose. LeNet-5 is trained on "
        f"them, and every step recorded."
    )
    run = jobs.record(asked, out, resume=False)
    say(
        "Now the run is replayed, and every training sample gets its contribution: how much it lowered the loss on "
        "held-out images whose labels are right."
    )
    scores = jobs.score(asked, run, QUERY, Method())
    say(
        "A label is suspect if the network leaned to another one for most of the training, and the more so if the "
        "sample harms. Trained again without the suspects, with their labels replaced, and with the true labels:"
    )
    found = jobs.clean(asked, run, scores, QUERY, remove=None, relabel=False, reference=True)
    replaced = jobs.clean(asked, run, scores, QUERY, remove=None, relabel=True, reference=False)
    ranked, figures = found.suspects, found.figures
    accuracies = found.accuracies | replaced.accuracies
    accuracies["true labels"] = accuracies.pop("true labels")  # what can be reached stands last
    figures["test_accuracy_relabelled"] = replaced.figures["test_accuracy_cleaned"]
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
    table(
        f"Does it help to train again without the {found.changed} most suspect samples (their number is estimated), "
        f"or with {replaced.changed} labels replaced?",
        {f"test accuracy, {name}": percent(value) for name, value in accuracies.items()},
    )
    check = _check(asked, run, ranked)
    _show_check(check)
    say("Last, a row is kept of every training sample, by which the report explains single predictions.")
    hypergradients(run, projection=PROJECTION, store=out / "store")
    page = write_report(
        asked,
        run,
        scores,
        out / "report.html",
        suspects=ranked,
        accuracies=accuracies,
        checks=[check],
        title="hydragrad demo: digits with 40 % wrong labels",
    )
    jobs.with_names(ranked, asked.classes).to_csv(out / "suspects.csv", index=False)
    say(f"\nLook at the pictures: {page}\nThe ranked samples: {out / 'suspects.csv'}")
    say("On your own data: README.md, 'Your own model and loop'; hydragrad train --help.")
    inspected, share = detection_curve(ranked)
    halfway = float(share[np.searchsorted(inspected, 0.5)])
    predicted = {f"predicted_{n}": p for n, p in enumerate(check.predicted)}
    actual = {f"actual_{n}": a for n, a in enumerate(check.actual)}
    return figures | {"found_in_first_half": halfway, "report": str(page)} | predicted | actual


def _make_room(out: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    if not (out / FILE).exists():
        return
    try:
        ours = read_manifest(out).about.get("settings", {})
    except HydragradError:
        ours = {}
    if (ours.get("data"), ours.get("noise")) != (SETTINGS.data, SETTINGS.noise):
        raise RunExists(f"{out} holds a run that is no demo. Choose another --out, or delete it.")
    shutil.rmtree(out)


def _found(figures: dict[str, Any], ranked: Any, share: int) -> str:
    best = share / 100 / float(ranked["flipped"].mean())
    return f"{percent(figures[f'found_in_first_{share}_percent'])} of all wrong ones (at most {percent(best)})"


def _show_suspects(ranked: Any) -> None:
    rows = {
        f"sample {row.sample}": f"labelled {row.given_label}, suggested {row.suggested_label}, truly {row.true_label}"
        + ("" if row.flipped else "  (its label was right)")
        for row in ranked.head(SUSPECTS_SHOWN).itertuples()
    }
    table("The most suspect samples", rows)


def _check(asked: Any, run: Any, ranked: Any) -> Check:
    """Predicted (Gauss-Newton) against actual change of the validation loss, over groups really left out."""
    query = asked.query(QUERY)
    scores = attribute(run, query, curvature="ggn")
    generator = torch.Generator().manual_seed(0)
    worst = ranked.sort_values("contribution")["sample"].tolist()
    groups = [worst[:size] for size in HARMFUL] + [worst[-size:] for size in HELPFUL]
    groups += [torch.randperm(len(worst), generator=generator)[:RANDOM_SIZE].tolist() for _ in range(RANDOM_GROUPS)]
    workers = max(1, min(WORKERS, cpu_count() // torch.get_num_threads()))
    actual = counterfactual(run, groups, query, workers=workers)
    names = [f"the {size} most harmful" for size in HARMFUL] + [f"the {size} most helpful" for size in HELPFUL]
    names += [f"{RANDOM_SIZE} chosen at random ({n + 1})" for n in range(RANDOM_GROUPS)]
    return Check(
        name="leaving groups out, predicted with curvature ggn",
        curvature="ggn",
        groups=len(groups),
        group_names=tuple(names),
        predicted=tuple(float(scores.total(group)) for group in groups),
        actual=tuple(actual.values[0].tolist()),
        unit="validation loss",
    )


def _show_check(check: Check) -> None:
    rows = {
        f"without {name}": f"predicted {predicted:+.3f}, actual {actual:+.3f}"
        for name, predicted, actual in zip(check.group_names or (), check.predicted, check.actual, strict=True)
    }
    table("Is a prediction right? Change of the validation loss, really trained without", rows)
