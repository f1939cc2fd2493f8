"""`hydragrad demo --text`: the main job on a small language model, for a person who does not know the paper."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from hydragrad.attribution import attribute
from hydragrad.cleaning import area_under_roc, found_in_first
from hydragrad.cli.commands.demo_check import figures_of, left_out, show
from hydragrad.cli.console import columns, console, percent, say, table
from hydragrad.datasets import load_text
from hydragrad.datasets.sequences import END
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.run_report import by_harm, write_report
from hydragrad.experiments.saved_scores import DATA_SET, RUN, scores_path
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.training import record
from hydragrad.replay import Recording
from hydragrad.scores import Check, Method, Scores, amounts_of, mean_loss, sample_losses

SETTINGS = Settings(
    data="names",
    model="gpt",
    optimizer="adamw",
    noise=0.1,
    train_size=3000,
    epochs=4,
    batch_size=32,
    clip_norm=1.0,
)
METHOD = Method(curvature="ggn")
EXPLAINED = 6
"""Test names whose predictions are explained."""
GROUPS = (60, 300)
"""Sizes of the most harmful and most helpful groups that are really left out."""
SHOWN, INVENTED = 10, 8


def run_text_demo(out: Path, data_dir: Path | None) -> dict[str, Any]:
    """Run it and return its figures; `out` is free."""
    experiment = build_experiment(SETTINGS, data_dir=data_dir)
    assert experiment.planted is not None
    wrong = int(experiment.planted.sum())
    console.rule("hydragrad demo: a language model")
    say(
        f"{len(experiment.planted):,} first names; {wrong} of them are spelled backwards on purpose. A small GPT "
        f"learns to write names from them, and every step is recorded."
    )
    run = record(experiment, out, resume=False)
    say(f"Names that it invents: {', '.join(_invented(run.trained_model(), data_dir))}.")
    say(
        "Now the run is differentiated: every training name gets its contribution, how much it lowered the loss on "
        "held-out names. None of those is spelled backwards."
    )
    scores, explained = _scores(experiment, run)
    ranked = by_harm(scores, experiment.planted)
    amounts = amounts_of(scores)
    names = _texts(experiment, "train", range(len(experiment.planted)))
    columns(
        "The most harmful names",
        ("sample", "contribution", "name", ""),
        [
            (str(sample), amounts.text(contribution), names[sample], _truth(names[sample], wrong=flipped))
            for sample, contribution, flipped in zip(
                *(ranked[name].head(SHOWN).tolist() for name in ("sample", "contribution", "flipped")), strict=True
            )
        ],
        left={"name", ""},
    )
    figures: dict[str, Any] = {
        "auc": area_under_roc(ranked),
        "found_in_first_10_percent": found_in_first(ranked, 0.1),
        "found_in_first_20_percent": found_in_first(ranked, 0.2),
    }
    share = wrong / len(ranked)
    table(
        "How many of the names spelled backwards are found?",
        {
            "one of them harms more than another name in": f"{percent(figures['auc'])} of all pairs (AUC)",
            "found among the first 10 % inspected": f"{percent(figures['found_in_first_10_percent'])} (at random 10 %)",
            "found among the first 20 % inspected": f"{percent(figures['found_in_first_20_percent'])} (at random 20 %)",
            "all of them": f"{percent(share)} of the names",
        },
    )
    check = _check(experiment, run, scores, ranked)
    show(check, digits=4)
    _show_explained(experiment, explained)
    page = write_report(
        experiment,
        run,
        scores.with_evidence(scores.evidence.with_checks([check])),
        out / "report.html",
        suspects=ranked,
        title=f"hydragrad demo: names, {percent(share)} of them spelled backwards",
    )
    say(f"\nLook at the names: {page}\nOn your own text: docs/text.md; hydragrad train --help.")
    return figures | figures_of(check) | {"report": str(page)}


def _scores(experiment: Experiment, run: Recording) -> tuple[Scores, Scores]:
    """Contributions to the validation loss, and to the losses of some test names, in one pass; both are saved."""
    test = experiment.data_set("test")
    first = tuple(range(min(EXPLAINED, len(test))))  # type: ignore[arg-type]
    both = attribute(
        run,
        [mean_loss(experiment.data_set("validation"), name="validation loss"), sample_losses(test, first)],
        **METHOD.options,
        stretches=SETTINGS.epochs,
    )
    about = {DATA_SET: "validation", RUN: run.digest}
    scores = replace(_rows(both, slice(0, 1)), about=about)
    explained = replace(_rows(both, slice(1, None)), about=about | {DATA_SET: "test"}, query_samples=first)
    scores.save(scores_path(run.path, "validation", METHOD))
    explained.save(scores_path(run.path, "test-first", METHOD))
    return scores, explained


def _rows(scores: Scores, rows: slice) -> Scores:
    return replace(
        scores,
        values=scores.values[rows],
        query_names=scores.query_names[rows],
        query_values=scores.query_values[rows],
        queries=None,
        query_samples=None,
        over_time=None if scores.over_time is None else scores.over_time[rows],
    )


def _invented(model: nn.Module, data_dir: Path | None) -> list[str]:
    """Names written by the model, character by character."""
    splits = load_text("names", data_dir=data_dir)
    end, generator = splits.tokenizer(END)[0], torch.Generator().manual_seed(0)
    tokens = torch.full((INVENTED, 1), end)
    model.eval()
    with torch.no_grad():
        for _ in range(splits.length - 1):
            chances = model(tokens)[:, -1].softmax(1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return [splits.tokenizer.decode(row[1:]).partition(END)[0] for row in tokens]


def _texts(experiment: Experiment, data_set: str, samples: Sequence[int]) -> list[str]:
    assert experiment.render is not None
    items = experiment.data_set(data_set)
    return [str(experiment.render(items[sample])) for sample in samples]


def _truth(name: str, *, wrong: bool) -> str:
    return f"{name[::-1]} spelled backwards" if wrong else ""


def _check(experiment: Experiment, run: Recording, scores: Scores, ranked: pd.DataFrame) -> Check:
    """Predicted and actual change of the validation loss, for groups that are really left out."""
    assert experiment.planted is not None
    planted = experiment.planted.nonzero().flatten().tolist()
    some = torch.randperm(len(ranked), generator=torch.Generator().manual_seed(1))[: len(planted)].tolist()
    worst_first = ranked["sample"].tolist()
    groups = {f"the {size} most harmful": worst_first[:size] for size in GROUPS}
    groups |= {f"the {size} most helpful": worst_first[-size:] for size in GROUPS}
    groups |= {f"the {len(planted)} spelled backwards": planted, f"{len(planted)} random ones": some}
    query = mean_loss(experiment.data_set("validation"), name="validation loss")
    return left_out(run, scores, query, groups)


def _show_explained(experiment: Experiment, explained: Scores) -> None:
    """For each explained test name, the training names that helped and harmed it most."""
    assert explained.query_samples is not None
    rows = [
        (
            name,
            ", ".join(_texts(experiment, "train", explained.most_helpful(3, row))),
            ", ".join(_texts(experiment, "train", explained.most_harmful(3, row))),
        )
        for row, name in enumerate(_texts(experiment, "test", explained.query_samples))
    ]
    headings = ("held-out name", "helped most by", "harmed most by")
    columns("Which training names moved the prediction of a held-out name?", headings, rows, left=set(headings))
