"""`hydragrad train`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from hydragrad.cli.console import number, percent, say, table, write_json
from hydragrad.cli.forecast import announce, duration, training_disk, training_seconds
from hydragrad.cli.options import (
    Accumulate,
    BatchSize,
    Bf16,
    BlockSize,
    ClipNorm,
    DataDir,
    DropLast,
    Dropout,
    DryRun,
    Heads,
    Json,
    Layers,
    Quiet,
    TokenizerOption,
    TrainSize,
    Untied,
    Width,
    sizes_of,
)
from hydragrad.errors import QueryError, Unsupported
from hydragrad.experiments.by_name import DATA_NAMES, MODEL_NAMES, require_fitting
from hydragrad.experiments.defaults import OWN, defaults_of
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.own_function import tokenizer_named
from hydragrad.experiments.recipes import OptimizerName
from hydragrad.experiments.settings import Settings, require_same_settings
from hydragrad.experiments.training import checkpoints_every, plan_of, record, require_free
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.runs.manifest import FILE as MANIFEST
from hydragrad.training import epoch_logs


def train(
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    data: Annotated[str | None, typer.Option(help=f"Data set: {', '.join(DATA_NAMES)}.")] = None,
    model: Annotated[str | None, typer.Option(help=f"Model: {', '.join(MODEL_NAMES)}.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODULE:FUNCTION",
            help="Your own: function() returns (model, loss, train_set, optimizer) and optionally a dict of held-out "
            "data sets ('validation', 'test').",
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    optimizer: Annotated[
        OptimizerName | None,
        typer.Option(
            help="sgd, as in the paper, or adamw, with a rate of 0.001 and a weight decay of 0.01 (default: sgd; of "
            "texts adamw, with a decay of 0.1 of matrices)."
        ),
    ] = None,
    block_size: BlockSize = None,
    layers: Layers = None,
    heads: Heads = None,
    width: Width = None,
    untied: Untied = False,
    dropout: Dropout = None,
    noise: Annotated[float, typer.Option(help="Share of training labels to flip, 0 to 1.")] = 0.0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data (default: the recipe's).")] = None,
    train_size: TrainSize = None,
    validation_size: Annotated[
        int | None, typer.Option(min=1, help="Validation samples, measured once an epoch (default: all).")
    ] = None,
    test_size: Annotated[int | None, typer.Option(min=1, help="Test samples (default: all).")] = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = 1,
    clip_norm: ClipNorm = None,
    bf16: Bf16 = False,
    drop_last: DropLast = False,
    lr: Annotated[float | None, typer.Option(min=0, help="Initial rate (default: the recipe's).")] = None,
    seed: Annotated[int, typer.Option(help="Initialisation, order, randomness and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in OUT where it stopped.")] = False,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Train with recording, so that the run can be attributed afterwards.

    Example: hydragrad train --data mnist --model lenet5 --noise 0.5 --out runs/m
    """
    sizes = sizes_of(block_size=block_size, layers=layers, heads=heads, width=width, untied=untied, dropout=dropout)
    settings = _settings(source, data, model, device)
    defaults = OWN if settings.data is None else defaults_of(settings.data)
    settings = replace(
        settings,
        tokenizer=tokenizer,
        epochs=epochs or defaults.epochs,
        optimizer=None if source else optimizer or defaults.optimizer,
        sizes=sizes,
        noise=noise,
        train_size=train_size,
        validation_size=validation_size,
        test_size=test_size,
        batch_size=batch_size or defaults.batch_size,
        drop_last=drop_last,
        accumulate=accumulate,
        clip_norm=defaults.clip_norm if clip_norm is None else clip_norm,
        bf16=bf16,
        lr=lr,
        seed=seed,
        device=device,
    )
    if source and any((optimizer, sizes, noise, train_size, validation_size, test_size, lr)):
        raise QueryError(
            "--optimizer, --noise, --train-size, --validation-size, --test-size, --lr and the sizes of a gpt are for "
            "data sets by name; with --from, set them in your function."
        )
    if tokenizer and not source:
        raise QueryError("--tokenizer shows your own data, of --from; data sets by name have their own. Leave it out.")
    if tokenizer:
        tokenizer_named(tokenizer)  # refused before it is trained
    if not resume:
        require_free(out)
    elif (out / MANIFEST).exists():
        require_same_settings(out, settings)
    experiment = build_experiment(settings, data_dir=data_dir, run=out if resume else None)
    plan = plan_of(experiment)
    disk = training_disk(experiment, plan, checkpoints_every(experiment))
    announce("training", training_seconds(experiment, plan), disk, always=dry_run)
    if dry_run:
        return
    begin = time.monotonic()
    with quiet(silent):
        run = record(experiment, out, resume=resume)
    loss, accuracy = _test(experiment, run)
    last = epoch_logs(out)[-1]
    rows = {
        "run": str(out),
        "steps": f"{len(run.steps):,} in {settings.epochs} epochs",
        "training loss, last epoch": f"{last['train_loss']:.4f}",
        **({"test loss, nats a character": number(loss)} if experiment.is_text else {}),
        f"test {experiment.accuracy_name}": percent(accuracy),
        "took": duration(time.monotonic() - begin),
    }
    table("trained", rows)
    say(f"next: hydragrad attribute {out} --query {next(iter([*experiment.held_out, 'train']))}")
    figures = {
        "run": str(out),
        "steps": len(run.steps),
        "epochs": settings.epochs,
        "test_loss": loss,
        "test_accuracy": accuracy,
    }
    entries = {name: value for name, value in last.items() if name not in ("epoch", "lr")}
    write_json(json, figures | entries | {"seconds": time.monotonic() - begin})


def _test(experiment: Experiment, run: Recording) -> tuple[float | None, float | None]:
    """Loss and accuracy of the test set, if there is one."""
    if "test" not in experiment.held_out:
        return None, None
    return experiment.loss_and_accuracy(run.trained_model(), experiment.held_out["test"])


def _settings(source: str | None, data: str | None, model: str | None, device: str) -> Settings:
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise Unsupported(f"--device {device}: choose cpu" + (", or cuda" if torch.cuda.is_available() else "") + ".")
    if source is not None:
        if data or model:
            raise QueryError("Give either --from, or --data and --model.")
        return Settings(source=source)
    if data is None or model is None:
        raise QueryError(
            f"Say what to train: --data ({', '.join(DATA_NAMES)}) and --model ({', '.join(MODEL_NAMES)}), or "
            f"--from module:function."
        )
    require_fitting(data, model)
    return Settings(data=data, model=model)
