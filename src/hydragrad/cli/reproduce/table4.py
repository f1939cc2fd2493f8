"""`hydragrad reproduce table4`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.studies import METHODS, Setting, reproduce_table4
from hydragrad.studies.recipes import RECIPES
from hydragrad.studies.table4 import ACTIONS, DEFAULT, FILTERING, summary

EPOCHS = ", ".join(f"{name} {recipe.epochs}" for name, recipe in RECIPES.items())


def table4(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "mnist",
    noise: Annotated[
        str,
        typer.Option(
            help="Share of uniform flips (0.5); of swaps between similar classes, at random (swap-0.3) or in one "
            "corner of every class (cluster-0.1); of copies (copies-0.1) or patched images (patch-0.02); human-worst."
        ),
    ] = "0.5",
    train_size: Annotated[int | None, typer.Option(min=100, help="Training samples (default: all).")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help=f"Passes over them (default: the paper's: {EPOCHS}).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="Which comes first, to measure some seeds only.")] = 0,
    model: Annotated[str, typer.Option(help=f"Model: {', '.join(MODELS)}.")] = "lenet5",
    validation_noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of validation labels that are flipped too.")
    ] = 0.0,
    methods: Annotated[str, typer.Option(help="Which rankings, with commas between.")] = ",".join(DEFAULT),
    filtering: Annotated[str, typer.Option(help="Those of them to train again after; none: only rank.")] = ",".join(
        FILTERING
    ),
    actions: Annotated[str, typer.Option(help="What to do before training again.")] = ",".join(ACTIONS),
    references: Annotated[bool, typer.Option(help="Also train on the labels as given, and on the true ones.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/table4"),
    workers: Annotated[int, typer.Option(min=1, help="Processes for out-of-fold trainings.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Wrong labels found by several methods, and what training again without them gives.

    A seed of the paper's setting takes about twenty trainings. Interrupted, the same command goes on after the last
    single training.

    Example: hydragrad reproduce table4 --data mnist --train-size 10000 --seeds 1
    """
    asked = named_among(methods, METHODS, "--methods")
    after = [] if filtering == "none" else named_among(filtering, METHODS, "--filtering")
    done = named_among(actions, ACTIONS, "--actions")
    if data not in DATASETS or model not in MODELS:
        raise UnknownName(
            f"--data takes one of {', '.join(DATASETS)}, --model one of {', '.join(MODELS)}; {data} and {model} came."
        )
    rows = []
    with quiet(silent):
        for seed in range(first_seed, first_seed + seeds):
            setting = Setting(
                data=data,
                noise=noise,
                size=train_size,
                epochs=epochs or RECIPES[data].epochs,
                seed=seed,
                model=model,
                validation_noise=validation_noise,
            )
            rows += reproduce_table4(
                out,
                setting,
                data_dir=data_dir,
                methods=asked,
                filtering=after,
                actions=done,
                references=references,
                workers=workers,
            )
    title = f"{data}, noise {noise}, {seeds} seed{'s' if seeds > 1 else ''}"
    columns(title, list(summary([]).columns), summary(rows).itertuples(index=False), left=["method"])
    write_json(json, {f"{row.setting} {row.method} {row.action}": row.accuracy or row.auc for row in rows})
