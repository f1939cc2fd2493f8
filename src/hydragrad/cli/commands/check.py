"""`hydragrad check`."""

from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import torch
import typer

from hydragrad.checking import Checked, Part
from hydragrad.checking import check as check_setup
from hydragrad.checking.checked import MODE_HEADINGS, PART_HEADINGS
from hydragrad.checking.refused import refusal_of
from hydragrad.cli.console import columns, say, write_json
from hydragrad.cli.options import (
    Accumulate,
    BatchSize,
    Bf16,
    BlockSize,
    ClipNorm,
    DataDir,
    DropLast,
    Dropout,
    Heads,
    Json,
    Layers,
    Quiet,
    TrainSize,
    Untied,
    Width,
    sizes_of,
)
from hydragrad.errors import DataError, QueryError
from hydragrad.experiments.by_name import DATA_NAMES, MODEL_NAMES, require_fitting
from hydragrad.experiments.defaults import OWN, Defaults, defaults_of
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.own_function import returned_by
from hydragrad.experiments.recipes import OptimizerName
from hydragrad.experiments.settings import Settings
from hydragrad.progress import quiet

LEFT = {"part", "ok", "found", "mode", "works", "route", "why"}


def check(
    data: Annotated[str | None, typer.Option(help=f"Data set: {', '.join(DATA_NAMES)}.")] = None,
    model: Annotated[str | None, typer.Option(help=f"Model: {', '.join(MODEL_NAMES)}.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODULE:FUNCTION",
            help="Your own: function() returns (model, loss, train_set, optimizer), as `hydragrad train` takes it.",
        ),
    ] = None,
    optimizer: Annotated[
        OptimizerName | None,
        typer.Option(help="sgd or adamw, for data sets by name (default: sgd; of texts adamw)."),
    ] = None,
    block_size: BlockSize = None,
    layers: Layers = None,
    heads: Heads = None,
    width: Width = None,
    untied: Untied = False,
    dropout: Dropout = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data that costs are forecast for (default: as in train).")
    ] = None,
    train_size: TrainSize = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = 1,
    clip_norm: ClipNorm = None,
    bf16: Bf16 = False,
    drop_last: DropLast = False,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Make two steps of a training on a copy, and say what can be recorded, by which routes, and at what cost.

    Nothing is written but the JSON. Exit code 0: it can be recorded. 1: it can't; the table says why.

    Example: hydragrad check --from my_training:setup --batch-size 32
    """
    try:
        sizes = sizes_of(block_size=block_size, layers=layers, heads=heads, width=width, untied=untied, dropout=dropout)
        defaults = defaults_of(data) if source is None and data in DATA_NAMES else OWN
        defaults = replace(defaults, epochs=epochs or defaults.epochs, optimizer=optimizer or defaults.optimizer)
        setup = _setup(source, data, model, optimizer, sizes, train_size, defaults, data_dir)
    except DataError as error:  # what the function returned is a part of the setup, too
        checked = Checked(parts=(Part(name="setup", ok=False, refusal=refusal_of(error)),))
    else:
        with quiet(silent):
            checked = check_setup(
                setup.model,
                setup.optimizer,
                setup.loss,
                setup.train_set,
                batch_size=batch_size or defaults.batch_size,
                drop_last=drop_last,
                clip_norm=defaults.clip_norm if clip_norm is None else clip_norm,
                accumulate=accumulate,
                autocast=torch.bfloat16 if bf16 else None,
                epochs=defaults.epochs,
            )
    show(checked)
    write_json(json, checked.to_dict())
    if not checked.recordable:
        raise typer.Exit(1)


def show(checked: Checked) -> None:
    """Print the tables, what to change, and the notes."""
    columns(checked.headline, PART_HEADINGS, checked.part_rows(), left=LEFT)
    if checked.modes:
        columns(checked.costs_of, MODE_HEADINGS, checked.mode_rows(), left=LEFT)
    for name, message in checked.changes():
        say(f"{name}: {message}")
    for note in checked.notes:
        say(f"note: {note.text}")


class _Setup(NamedTuple):
    model: Any
    loss: Any
    train_set: Any
    optimizer: Any


def _setup(
    source: str | None,
    data: str | None,
    model: str | None,
    optimizer: OptimizerName | None,
    sizes: dict[str, Any] | None,
    train_size: int | None,
    defaults: Defaults,
    data_dir: Any,
) -> _Setup:
    if source is not None:
        if data or model or train_size or optimizer or sizes:
            raise QueryError(
                "--data, --model, --optimizer, --train-size and the sizes of a gpt are for data sets by name, not for "
                "--from."
            )
        own_model, loss, train_set, own_optimizer, _ = returned_by(source)
        return _Setup(own_model, loss, train_set, own_optimizer)
    if data is None or model is None:
        raise QueryError(
            f"Say what to check: --data ({', '.join(DATA_NAMES)}) and --model ({', '.join(MODEL_NAMES)}), or "
            f"--from module:function."
        )
    require_fitting(data, model)
    settings = Settings(
        data=data,
        model=model,
        optimizer=defaults.optimizer,
        sizes=sizes,
        train_size=train_size,
        epochs=defaults.epochs,
        batch_size=defaults.batch_size,
    )
    experiment = build_experiment(settings, data_dir=data_dir)
    start = experiment.start(settings.seed)
    return _Setup(start.model, experiment.loss, experiment.train_set, start.optimizer)
