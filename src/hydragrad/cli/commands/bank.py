"""`hydragrad bank`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import say, write_json
from hydragrad.cli.forecast import announce, model_bytes, query_seconds, training_again_seconds
from hydragrad.cli.options import (
    DataDir,
    DryRun,
    ExecutorName,
    Json,
    Part,
    Quiet,
    RayAddress,
    RemovalOption,
    Run,
    Seeds,
    Workers,
    jobs_at_a_time,
    keywords_of,
    slice_done,
)
from hydragrad.errors import QueryError
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.seeds import runs_of
from hydragrad.progress import quiet
from hydragrad.trust import bank as make_bank

SHOWN_QUERIES = 5


def bank(
    run: Run,
    query: Annotated[
        list[str],
        typer.Option(help="validation, test, or one sample as in test:42; several are allowed."),
    ] = ["validation"],  # noqa: B006 - typer copies it
    subsets: Annotated[int, typer.Option(min=1, help="Random groups that are left out, one at a time.")] = 40,
    size: Annotated[float, typer.Option(help="Samples of a group: a number, or a share (0.1 is a tenth).")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the random groups.")] = 0,
    removal: RemovalOption = "weight",
    repeats: Annotated[
        int, typer.Option(min=0, help="Of so many groups also a repeat, one rounding apart: a ceiling for scores.")
    ] = 0,
    halves: Annotated[
        int, typer.Option(min=0, help="Of so many groups also both halves, one by one: how far removals add up.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where it is written (default: RUN/bank.safetensors).")
    ] = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    part: Part = None,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Retrain without random groups and save what really happened, to hold any scores against.

    Writes one small file: which samples were left out of each retraining, and what the queries were then. Retrainings
    are saved in RUN/retrained: after an interruption, or for further queries, the same command reuses them.

    Example: hydragrad bank runs/m --query test --subsets 40 --size 0.1 --out banks/m.safetensors
    """
    samples, where = _samples(size), keywords_of(executor, ray_address, workers, part)
    experiment, recording = open_run(run, data_dir=data_dir)
    trainings = (subsets + min(repeats, subsets) + 2 * min(halves, subsets)) * seeds
    seconds = training_again_seconds(recording) * trainings
    seconds += trainings * sum(query_seconds(experiment, recording.trained_model(), text) / 3 for text in query)
    announce(
        f"a bank ({trainings} retrainings)",
        seconds / jobs_at_a_time(where),
        trainings * model_bytes(recording),
        always=dry_run,
    )
    if dry_run:
        return
    path = out or run / "bank.safetensors"
    with quiet(silent), slice_done():
        made = make_bank(
            [recording] if seeds == 1 else runs_of(experiment, recording, seeds),
            [experiment.query(text) for text in query],
            subsets=subsets,
            size=samples,
            seed=seed,
            removal=removal,
            repeats=repeats,
            halves=halves,
            path=path,
            **where,
        )
    say(str(made))
    say(f"written: {path} ({path.stat().st_size / 1024:,.0f} KiB); next: hydragrad evaluate {path} SCORES")
    figures = {"bank": str(path), "bytes": path.stat().st_size, "subsets": subsets, "seeds": seeds}
    write_json(json, figures | {"queries": list(made.query_names), "samples": len(made.sample_ids)})


def _samples(size: float) -> int | float:
    if not size > 0 or (size >= 1 and not size.is_integer()):
        raise QueryError(f"--size takes a number of samples, or a share below 1, got {size:g}.")
    return size if size < 1 else int(size)
