"""Suspects in groups: how many of the samples that a person judges with ten groups are wrong.

A quarter of one class is labelled as another one, as by an annotator who mistakes it, and a hundred other labels are
flipped at random. The first ten groups are compared with the ten largest ones, the ten most frequent pairs of given and
suggested label, and as many first suspects as the ten groups hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import Labels, save_labels, suspect_groups, suspects
from hydragrad.cli.console import columns, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import load
from hydragrad.experiments.recipes import fresh, recipe_loss
from hydragrad.progress import quiet
from hydragrad.scores import mean_loss
from hydragrad.training import train
from studies.rows import append_rows, saved_rows

ROWS_FILE = "groups.jsonl"
MISTAKEN = {"mnist": (4, 9), "fashion": (6, 0), "digits": (4, 9)}
"""The class that is labelled as another one."""
SCATTERED, GROUPS = 100, 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """What ten groups hold, in one order.

    Attributes:
        data, seed: The setting.
        order: How the groups, pairs or samples are ordered.
        samples: How many there are in ten of them.
        wrong: How many of these have a wrong label.
        all_wrong: How many labels are wrong.
    """

    data: str
    seed: int
    order: str
    samples: int
    wrong: int
    all_wrong: int


def reproduce_groups(
    out: Path, *, data: str, seeds: Sequence[int], size: int = 3000, epochs: int = 10, data_dir: Path | None = None
) -> list[Row]:
    """Measure what is not saved in OUT/groups.jsonl, and return all rows of the data set."""
    out.mkdir(parents=True, exist_ok=True)
    done = {(row.data, row.seed) for row in saved_rows(Row, out / ROWS_FILE)}
    for seed in seeds:
        if (data, seed) not in done:
            append_rows(out / ROWS_FILE, _measured(out / f"{data}-{seed}", data, seed, size, epochs, data_dir))
    return [row for row in saved_rows(Row, out / ROWS_FILE) if row.data == data and row.seed in seeds]


def _measured(folder: Path, data: str, seed: int, size: int, epochs: int, data_dir: Path | None) -> list[Row]:
    splits = load(data, data_dir=data_dir, train_size=size)
    images, true = splits.train.tensors
    given = planted(true, *MISTAKEN[data], seed)
    save_labels(folder, Labels(given, true))
    start = fresh(splits, "lenet5", seed=seed)
    run = train(
        start.model,
        recipe_loss(data),
        TensorDataset(images, given),
        start.optimizer,
        epochs=epochs,
        batch_size=64,
        out=folder,
        resume=True,
    )
    question = mean_loss(splits.validation)
    ranked = suspects(run, attribute(run, question), held_out=question)
    groups = suspect_groups(run, ranked)
    ten = {
        "groups, most harmful first": groups.head(GROUPS),
        "groups, largest first": groups.sort_values("size", ascending=False, kind="stable").head(GROUPS),
        "pairs of labels, most frequent first": _pairs(ranked).head(GROUPS),
    }
    first = ranked.head(int(ten["groups, most harmful first"]["size"].sum()))
    counted = {
        name: (int(part["size"].sum()), round((part["size"] * part["flipped"]).sum())) for name, part in ten.items()
    }
    counted["as many first suspects"] = len(first), int(first["flipped"].sum())
    everything = int(ranked["flipped"].sum())
    return [
        Row(data=data, seed=seed, order=name, samples=samples, wrong=wrong, all_wrong=everything)
        for name, (samples, wrong) in counted.items()
    ]


def planted(true: torch.Tensor, mistaken: int, taken_for: int, seed: int) -> torch.Tensor:
    """Labels of which a quarter of one class is another one, and some others are random."""
    random, given = np.random.RandomState(seed), true.clone()
    members = random.permutation((true == mistaken).nonzero()[:, 0].numpy())
    others = random.permutation((true != mistaken).nonzero()[:, 0].numpy())[:SCATTERED]
    given[others] = (given[others] + torch.tensor(random.randint(1, 10, len(others)))) % 10
    given[members[: len(members) // 4]] = taken_for
    return given


def _pairs(ranked: pd.DataFrame) -> pd.DataFrame:
    """Size and share of wrong ones of every pair of given and suggested label, the most frequent first."""
    other = ranked[ranked["given_label"] != ranked["suggested_label"]]
    flipped = other.groupby(["given_label", "suggested_label"])["flipped"]
    pairs = pd.DataFrame({"size": flipped.size(), "flipped": flipped.mean()})
    return pairs.sort_values("size", ascending=False, kind="stable")


def groups(
    data: Annotated[
        str, typer.Option(help=f"Data sets, with commas between: {', '.join(MISTAKEN)}.")
    ] = "mnist,fashion",
    seeds: Annotated[int, typer.Option(min=1, help="How many: 2, 3, ...")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="The first one.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/groups"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Wrong labels among the samples of ten groups of suspects.

    If interrupted, the same command resumes after the last seed.

    Example: python -m studies groups --data mnist --seeds 1
    """
    rows = []
    with quiet(silent):
        for name in named_among(data, MISTAKEN, "--data"):
            rows += reproduce_groups(out, data=name, seeds=range(first_seed, first_seed + seeds), data_dir=data_dir)
    cells = [[row.data, str(row.seed), row.order, str(row.samples), str(row.wrong), str(row.all_wrong)] for row in rows]
    columns("ten groups", ["data", "seed", "order", "samples", "wrong", "of"], cells, left=("data", "order"))
    write_json(json, {"rows": [vars(row) for row in rows]})
