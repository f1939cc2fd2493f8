"""`hydragrad verify`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hydragrad.attribution.advice import saved_advice
from hydragrad.cli.console import number, percent, say, table, write_json
from hydragrad.cli.forecast import announce, model_bytes, query_seconds, training_again_seconds
from hydragrad.cli.options import (
    CurvatureOption,
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
    SmoothingOption,
    Workers,
    jobs_at_a_time,
    keywords_of,
    slice_done,
)
from hydragrad.disk import make_folder
from hydragrad.errors import QueryError
from hydragrad.execution import Keywords
from hydragrad.execution.claims import exclusive
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.saved_scores import saved_or_computed, scores_path
from hydragrad.experiments.seeds import runs_of
from hydragrad.figures import predicted_against_actual
from hydragrad.progress import quiet
from hydragrad.scores import Check, Method
from hydragrad.scores.checks import Interval
from hydragrad.trust import verify as verify_scores


def verify(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    curvature: CurvatureOption = "ggn",
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    smoothing: SmoothingOption = None,
    replays: Annotated[int, typer.Option(min=0, help="Of scores averaged over this many replays.")] = 0,
    removal: RemovalOption = "weight",
    groups: Annotated[int, typer.Option(min=3, help="Random groups of every size.")] = 20,
    size: Annotated[
        str, typer.Option(help="Samples of a group: numbers or shares (0.1 is a tenth), with commas between.")
    ] = "1,0.01,0.1",
    seed: Annotated[int, typer.Option(help="Of the random groups.")] = 0,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling", help="Also what a repeat of the run, one rounding apart, reaches: twice as many retrainings."
        ),
    ] = False,
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
    """Check the scores: really retrain without groups of samples and compare with what was predicted.

    Leaves out random groups and the most harmful and most helpful ones, writes a picture of each size into
    RUN/verify/, and saves what was measured with the scores, so that reports show it. Retrainings are saved in
    RUN/retrained: after an interruption, or for another curvature, the same command reuses them. They can be divided
    among machines: --executor ray, or --part 1/16, --part 2/16, ... as the tasks of an array of jobs.

    Example: hydragrad verify runs/m --groups 10 --size 1,0.1
    """
    sizes, where = _parsed_sizes(size), keywords_of(executor, ray_address, workers, part)
    experiment, recording = open_run(run, data_dir=data_dir)
    trainings = len(sizes) * (groups + 2) * seeds * (1 + ceiling)
    method = Method.of(curvature, damping=damping, smoothing=smoothing, replays=replays, removal=removal)
    at_a_time = jobs_at_a_time(where)
    seconds = training_again_seconds(recording) * (trainings / at_a_time + method.trainings)
    seconds += trainings * query_seconds(experiment, recording.trained_model(), query) / 3 / at_a_time
    announce(f"verification ({trainings} retrainings)", seconds, trainings * model_bytes(recording), always=dry_run)
    if dry_run:
        return
    path = scores_path(run, query, method, seeds)
    with quiet(silent), slice_done():
        # The groups depend on the scores, so that no slice can begin without all of them.
        make_folder(path.parent)
        with exclusive(path.parent, path.stem):
            alone = Keywords(executor=where["executor"], workers=where["workers"], part=None)
            scores = saved_or_computed(experiment, recording, query, method, seeds=seeds, where=alone)
        checks = verify_scores(
            [recording] if seeds == 1 else runs_of(experiment, recording, seeds),
            scores.with_evidence(replace(scores.evidence, checks=())),
            groups=groups,
            size=sizes,
            seed=seed,
            queries=experiment.query(query),
            **where,
            ceiling=ceiling,
        ).checks
    scores.with_evidence(scores.evidence.with_checks(checks)).save(path)
    pictures = _draw(checks, run / "verify", path.stem)
    _show(checks, pictures)
    if saved_advice(recording) is None:
        say(f"which method suits this run, and whether any does: hydragrad smoothness {run}")
    say(f"written: {path}; next: hydragrad report {run}")
    write_json(json, {"run": str(run), "query": query, "curvature": curvature, **_figures(checks, ceiling=ceiling)})


def _parsed_sizes(text: str) -> list[int | float]:
    """Group sizes on the command line: numbers of samples, or shares.

    Raises:
        QueryError: Something else.
    """
    sizes: list[int | float] = []
    for word in text.split(","):
        try:
            size = float(word)
        except ValueError:
            size = -1.0
        if not size > 0 or (size >= 1 and not size.is_integer()):
            raise QueryError(f"--size takes numbers of samples, or shares below 1, with commas between, got {word!r}.")
        sizes.append(size if size < 1 else int(size))
    return sizes


def _draw(checks: Sequence[Check], folder: Path, stem: str) -> dict[int | None, Path]:
    """Draw predicted against actual changes over random groups; the pictures by the groups' size."""
    folder.mkdir(exist_ok=True)
    pictures: dict[int | None, Path] = {}
    for check in checks:
        if check.kind == "random":
            pictures[check.size] = folder / f"{stem}-{check.size}.png"
            figure = predicted_against_actual(check.predicted, check.actual, unit=check.unit)
            figure.savefig(pictures[check.size], dpi=160)
    return pictures


def _figures(checks: Sequence[Check], *, ceiling: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for check in checks:
        if check.kind == "random":
            for name in ("lds", "slope", "scale", "pearson", "sign_agreement", "groups"):
                figures[f"{name}_{check.size}"] = getattr(check, name)
            figures[f"lds_low_{check.size}"], figures[f"lds_high_{check.size}"] = check.lds_interval
            if ceiling:
                figures[f"ceiling_lds_{check.size}"] = check.ceiling_lds
    return figures


def _show(checks: Sequence[Check], pictures: Mapping[int | None, Path]) -> None:
    """Print what each check measured and means."""
    for check in checks:
        if check.kind == "random":
            rows = {
                "LDS (Spearman over groups)": _with_interval(check.lds, check.lds_interval),
                **_ceiling(check),
                "actual over predicted": f"{number(check.scale)} (slope with an offset: {number(check.slope)})",
                "same sign": percent(check.sign_agreement),
                "picture": str(pictures[check.size]),
            }
            table(check.name, rows)
            say(check.sentence)
        else:
            words = ("most harmful", "most helpful")
            for word, predicted, actual in zip(words, check.predicted, check.actual, strict=False):
                which = f"{word} sample" if check.size == 1 else f"{check.size:,} {word} samples"
                say(f"the {which} left out: predicted {predicted:+.3g}, actual {actual:+.3g}")


def _ceiling(check: Check) -> dict[str, str]:
    if check.ceiling_interval is None:
        return {}
    return {"of a repeat, one rounding apart": _with_interval(check.ceiling_lds, check.ceiling_interval)}


def _with_interval(value: float | None, interval: Interval) -> str:
    return f"{_correlation(value)} [{', '.join(map(_correlation, interval))}]"


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus before zero
