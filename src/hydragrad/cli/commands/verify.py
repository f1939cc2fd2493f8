"""`hydragrad verify`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hydragrad.attribution.advice import kept_advice
from hydragrad.cli.console import number, percent, say, table, write_json
from hydragrad.cli.forecast import announce, attribution_seconds, model_bytes, query_seconds
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run, Seeds
from hydragrad.errors import QueryError
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.saved_scores import saved_scores, scores_path
from hydragrad.experiments.seeds import runs_of
from hydragrad.figures import predicted_against_actual
from hydragrad.progress import quiet
from hydragrad.trust import verify as verify_scores


def verify(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    curvature: CurvatureOption = "ggn",
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    replays: Annotated[int, typer.Option(min=0, help="Of scores averaged over this many replays.")] = 0,
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
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Check the scores: really retrain without groups of samples and compare with what was predicted.

    Leaves out random groups and the most harmful and most helpful ones, writes a picture of each size into
    RUN/verify/, and saves what was measured with the scores, so that reports show it. Retrainings are saved in
    RUN/retrained: after an interruption, or for another curvature, the same command reuses them.

    Example: hydragrad verify runs/m --groups 10 --size 1,0.1
    """
    sizes = _parsed_sizes(size)
    experiment, recording = open_run(run, data_dir=data_dir)
    trainings = len(sizes) * (groups + 2) * seeds * (1 + ceiling)
    seconds = attribution_seconds(recording, "none") / 2 * trainings / workers
    seconds += attribution_seconds(recording, curvature)
    seconds += trainings * query_seconds(experiment, recording.trained_model(), query) / 3 / workers
    announce(f"verification ({trainings} retrainings)", seconds, trainings * model_bytes(recording), always=dry_run)
    if dry_run:
        return
    path = scores_path(run, query, curvature, damping, replays, seeds)
    with quiet(silent):
        scores = saved_scores(
            experiment, recording, query, curvature, damping=damping, replays=replays, seeds=seeds, workers=workers
        )
        evidence = verify_scores(
            [recording] if seeds == 1 else runs_of(experiment, recording, seeds),
            scores,
            groups=groups,
            size=sizes,
            seed=seed,
            queries=experiment.query(query),
            workers=workers,
            ceiling=ceiling,
        )
    scores.with_evidence(evidence).save(path)
    earlier = {id(check) for check in scores.evidence.checks}
    checks = [check for check in evidence.checks if id(check) not in earlier]
    pictures = _draw(checks, run / "verify", path.stem)
    _show(checks, pictures)
    if kept_advice(run) is None:
        say(f"which estimator suits this run, and whether any can: hydragrad smoothness {run}")
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
            raise QueryError(f"--size takes numbers of samples, or shares below 1, with commas between; got {word!r}.")
        sizes.append(size if size < 1 else int(size))
    return sizes


def _draw(checks: Sequence[dict[str, Any]], folder: Path, stem: str) -> dict[str, Path]:
    """Draw predicted against actual changes; the pictures by the name of their check."""
    folder.mkdir(exist_ok=True)
    pictures = {check["name"]: folder / f"{stem}-{check['size']}.png" for check in checks if check["random"]}
    for check in checks:
        if check["random"]:
            figure = predicted_against_actual(check["predicted"], check["actual"], unit=check["unit"])
            figure.savefig(pictures[check["name"]], dpi=160)
    return pictures


def _figures(checks: Sequence[dict[str, Any]], *, ceiling: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for check in checks:
        if check["random"]:
            size = check["size"]
            for key in ("lds", "slope", "scale", "pearson", "sign_agreement", "groups"):
                figures[f"{key}_{size}"] = check[key]
            figures[f"lds_low_{size}"], figures[f"lds_high_{size}"] = check["lds_interval"]
            if ceiling:
                figures[f"ceiling_lds_{size}"] = check["ceiling_lds"]
    return figures


def _show(checks: Sequence[dict[str, Any]], pictures: dict[str, Path]) -> None:
    """Print what each check measured and means."""
    for check in checks:
        if check["random"]:
            rows = {
                "LDS (Spearman over groups)": _correlation(check["lds"])
                + f" [{', '.join(_correlation(end) for end in check['lds_interval'])}]",
                **_ceiling(check),
                "actual over predicted": f"{number(check['scale'])} (slope with an offset: {number(check['slope'])})",
                "same sign": percent(check["sign_agreement"]),
                "picture": str(pictures[check["name"]]),
            }
            table(check["name"], rows)
            say(check["sentence"])
        else:
            words = ("most harmful", "most helpful")
            for word, predicted, actual in zip(words, check["predicted"], check["actual"], strict=False):
                which = f"{word} sample" if check["size"] == 1 else f"{check['size']:,} {word} samples"
                say(f"the {which} left out: predicted {predicted:+.3g}, actual {actual:+.3g}")


def _ceiling(check: dict[str, Any]) -> dict[str, str]:
    if "ceiling_lds" not in check:
        return {}
    ends = ", ".join(_correlation(end) for end in check["ceiling_interval"])
    return {"of a repeat, one rounding apart": f"{_correlation(check['ceiling_lds'])} [{ends}]"}


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus before zero
