"""The commands: parse, call, print."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from hydragrad.cli import jobs
from hydragrad.cli.console import percent, say, table, write_json
from hydragrad.cli.demo import run_demo
from hydragrad.cli.experiment import Settings, experiment, open_run
from hydragrad.cli.explain import explained, show_explained
from hydragrad.cli.forecast import (
    announce,
    attribution_seconds,
    duration,
    model_bytes,
    training_disk,
    training_seconds,
)
from hydragrad.cli.reproduce import reproduce
from hydragrad.cli.showing import show_bound, show_cleaned, show_verified
from hydragrad.datasets import DATASETS
from hydragrad.errors import QueryError, UnknownName, Unsupported
from hydragrad.figures import error_over_time
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.recording.manifest import read_manifest
from hydragrad.report import report as write_report
from hydragrad.scores import MEANING, Scores
from hydragrad.studies.recipes import RECIPES
from hydragrad.training import epoch_logs
from hydragrad.trust import approximation_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which training samples made this model what it is.\n\n"
    "A first round: [bold]hydragrad demo[/bold]. On real data: [bold]train[/bold], then [bold]attribute[/bold], "
    "[bold]clean[/bold] and [bold]report[/bold] on the run directory it wrote.",
)

app.add_typer(reproduce, name="reproduce")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, as written by `hydragrad train`.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", envvar="HYDRAGRAD_DATA", help="Folder with the data sets' files.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only forecast time, memory and disk.")]
CurvatureOption = Annotated[
    Literal["none", "hessian", "ggn"],
    typer.Option(
        help="none: HYDRA, quick, a ranking; hessian: exact, for smooth runs; ggn: Gauss-Newton, steadier on kinks."
    ),
]


def _version(asked: bool) -> None:
    if asked:
        import hydragrad

        say(f"hydragrad {hydragrad.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the run and its report are written.")] = Path("runs/demo"),
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The main job on an embedded data set, in about a minute; writes OUT/report.html.

    Flips 40 % of the labels of 1,000 images of digits, trains LeNet-5, finds the flipped ones by their
    contributions, cleans, retrains, and checks predictions by really retraining without groups of samples.
    """
    with quiet(silent):
        write_json(json, run_demo(out))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    data: Annotated[str | None, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = None,
    model: Annotated[str | None, typer.Option(help=f"Model: {', '.join(MODELS)}.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODULE:FUNCTION",
            help="Your own: function() returns (model, loss, train_set, optimizer) and, if you like, a dict of "
            "held-out data sets ('validation', 'test').",
        ),
    ] = None,
    noise: Annotated[float, typer.Option(help="Share of training labels to flip, 0 to 1.")] = 0.0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data (default: the paper's).")] = None,
    train_size: Annotated[int | None, typer.Option(min=1, help="Training samples (default: all).")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 64,
    lr: Annotated[float | None, typer.Option(help="Initial rate (default: the paper's).")] = None,
    seed: Annotated[int, typer.Option(help="Initialisation, order, randomness and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT where it stopped.")] = False,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Train with recording, so that the run can be attributed afterwards.

    Example: hydragrad train --data mnist --model lenet5 --noise 0.5 --out runs/m
    """
    settings = _settings(source, data, model, epochs, device)
    settings = replace(
        settings, noise=noise, train_size=train_size, batch_size=batch_size, lr=lr, seed=seed, device=device
    )
    if source and (noise or train_size or lr):
        raise QueryError("--noise, --train-size and --lr are for data sets by name; do it in your function.")
    asked = experiment(settings, data_dir=data_dir, run=out if resume else None)
    plan = jobs.plan_of(asked)
    announce(
        "training",
        training_seconds(asked, plan),
        training_disk(asked, plan, jobs.checkpoints_every(asked)),
        always=dry_run,
    )
    if dry_run:
        return
    begin = time.monotonic()
    with quiet(silent):
        run = jobs.record(asked, out, resume=resume)
    accuracy = asked.test_accuracy(run.trained_model())
    last = epoch_logs(out)[-1]
    rows = {
        "run": str(out),
        "steps": f"{len(run.steps):,} in {settings.epochs} epochs",
        "training loss, last epoch": f"{last['train_loss']:.4f}",
        "test accuracy": percent(accuracy),
        "took": duration(time.monotonic() - begin),
    }
    table("trained", rows)
    say(f"next: hydragrad attribute {out} --query {next(iter([*asked.held_out, 'train']))}")
    figures = {"run": str(out), "steps": len(run.steps), "epochs": settings.epochs, "test_accuracy": accuracy}
    entries = {name: value for name, value in last.items() if name not in ("epoch", "lr")}
    write_json(json, figures | entries | {"seconds": time.monotonic() - begin})


@app.command()
def attribute(
    run: Run,
    query: Annotated[
        list[str],
        typer.Option(help="validation, test, train, or one sample as in test:42; several are allowed."),
    ] = ["validation"],  # noqa: B006 - typer copies it
    curvature: CurvatureOption = "none",
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    replays: Annotated[
        int,
        typer.Option(min=0, help="Average over replays that each leave out a random tenth; for runs with kinks."),
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that replay at the same time.")] = 1,
    labels: Annotated[
        bool | None,
        typer.Option("--labels/--no-labels", help="Contributions of every label (default: where possible)."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Attribute the trained model's loss to single training samples; writes RUN/scores/.

    A contribution is what the loss would rise by, to first order, had the sample not been trained on: positive
    helps. Interrupted, the same command goes on where it stopped.
    """
    asked, opened = open_run(run, data_dir=data_dir)
    seconds = attribution_seconds(opened, curvature) * len(query) * max(1, replays / workers)
    announce("attribution", seconds, 0, always=dry_run)
    if dry_run:
        return
    figures: dict[str, Any] = {"run": str(run), "curvature": curvature}
    for text in query:
        begin = time.monotonic()
        with quiet(silent):
            scores = jobs.score(
                asked, opened, text, curvature, damping=damping, labels=labels, replays=replays, workers=workers
            )
        path = jobs.scores_path(run, text, curvature, damping, replays)
        name = scores.query_names[0]
        harmful, helpful = scores.most_harmful(5, 0), scores.most_helpful(5, 0)
        rows = {
            name: f"{scores.query_values[0]:.4f}",
            "most harmful samples": ", ".join(map(str, harmful)),
            "most helpful samples": ", ".join(map(str, helpful)),
            "replay": "equal to the bit"
            if scores.evidence.replay_exact
            else f"drifted by {scores.evidence.replay_drift:.1e}",
            "written": str(path),
            "took": duration(time.monotonic() - begin),
        }
        table(f"{MEANING}, curvature {curvature}", rows)
        for note in scores.evidence.notes:
            say(f"note: {note}")
        figures |= {
            f"{text} value": scores.query_values[0].item(),
            f"{text} scores": str(path),
            f"{text} most harmful": harmful,
            f"{text} most helpful": helpful,
            f"{text} seconds": time.monotonic() - begin,
        }
    say(f"next: hydragrad clean {run}")
    write_json(json, figures)


@app.command()
def verify(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    curvature: CurvatureOption = "ggn",
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    replays: Annotated[int, typer.Option(min=0, help="Of scores averaged over so many replays.")] = 0,
    groups: Annotated[int, typer.Option(min=3, help="Random groups of every size.")] = 20,
    size: Annotated[
        str, typer.Option(help="Samples of a group: numbers or shares (0.1 is a tenth), with commas between.")
    ] = "1,0.01,0.1",
    seed: Annotated[int, typer.Option(help="Of the random groups.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Check the scores: really retrain without groups of samples and compare with what was predicted.

    Leaves out random groups and the most harmful and most helpful ones, writes a picture of each size into
    RUN/verify/, and keeps what was measured with the scores, so that reports show it. Retrainings are kept in
    RUN/retrained: interrupted, or for another curvature, the same command goes on with them.
    """
    sizes = jobs.parse_sizes(size)
    asked, opened = open_run(run, data_dir=data_dir)
    trainings = len(sizes) * (groups + 2)
    seconds = attribution_seconds(opened, "none") / 2 * trainings / workers + attribution_seconds(opened, curvature)
    announce(f"verification ({trainings} retrainings)", seconds, trainings * model_bytes(opened), always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        found = jobs.verify_scores(
            asked,
            opened,
            query,
            curvature,
            groups=groups,
            sizes=sizes,
            seed=seed,
            workers=workers,
            damping=damping,
            replays=replays,
        )
    show_verified(found)
    say(f"written: {found.path}; next: hydragrad report {run}")
    write_json(json, found.figures)


@app.command()
def bound(
    run: Run,
    query: Annotated[str, typer.Option(help="validation, test, or one sample as in test:42.")] = "validation",
    samples: Annotated[int, typer.Option(min=2, help="Random training samples to compare.")] = 16,
    points: Annotated[int, typer.Option(min=1, help="Points in time.")] = 10,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Measure the error of dropping the curvature along the run, beside its bound; writes RUN/bound.png.

    Follows exact and approximate hypergradients of some samples side by side. The bound is the paper's Theorem 1, for
    mini-batches, momentum and any schedule; it is loose, so the measured error stands beside it.
    """
    asked, opened = open_run(run, data_dir=data_dir)
    chosen = asked.query(query)
    announce("the comparison", attribution_seconds(opened, "none") / 2 * 3 * samples, 0, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        found = approximation_error(opened, samples=samples, query=chosen, points=points)
    show_bound(found)
    picture = run / "bound.png"
    error_over_time([asdict(point) for point in found.points]).savefig(picture, dpi=160)
    kept = jobs.scores_path(run, query, "none")
    if kept.exists():
        scores = Scores.load(kept)
        scores.with_evidence(found.noted(scores.evidence)).save(kept)
    say(f"picture: {picture}")
    write_json(json, {"run": str(run), "samples": samples, **asdict(found.points[-1])})


@app.command()
def clean(
    run: Run,
    remove: Annotated[
        float | None, typer.Option(help="Share of the training samples to remove (default: estimated).")
    ] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Relabel suspects instead of removing them.")] = False,
    curvature: CurvatureOption = "none",
    query: Annotated[str, typer.Option(help="Held-out data to help: validation or test.")] = "validation",
    reference: Annotated[
        bool,
        typer.Option("--reference/--no-reference", help="Where noise was planted, also train on true labels."),
    ] = True,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Find harmful samples, remove or relabel them, retrain afresh, and compare test accuracies.

    Writes RUN/suspects.csv and RUN/report.html. Scores are computed if they are not there.
    """
    asked, opened = open_run(run, data_dir=data_dir)
    retrainings = 1 + (asked.labels is not None and reference)
    have = jobs.scores_path(run, query, curvature).exists()
    seconds = training_seconds(asked, jobs.plan_of(asked)) * retrainings
    seconds += 0 if have else attribution_seconds(opened, curvature)
    disk = retrainings * training_disk(asked, jobs.plan_of(asked), jobs.checkpoints_every(asked))
    announce("cleaning", seconds, disk, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        scores = jobs.kept_scores(asked, opened, query, curvature)
        found = jobs.clean(asked, opened, scores, remove=remove, relabel=relabel, reference=reference)
    suspects_file, page = run / "suspects.csv", run / "report.html"
    jobs.with_names(found.suspects, asked.classes).to_csv(suspects_file, index=False)
    write_report(
        opened,
        scores,
        page,
        suspects=found.suspects,
        picture=asked.picture,
        classes=asked.classes,
        accuracies=found.accuracies,
    )
    show_cleaned(found)
    say(f"suspects: {suspects_file}\nreport: {page}")
    write_json(json, found.figures | {"suspects": str(suspects_file), "report": str(page)})


@app.command()
def report(
    run: Run,
    query: Annotated[str, typer.Option(help="Which scores: validation, test, or as in test:42.")] = "validation",
    curvature: CurvatureOption = "none",
    out: Annotated[Path | None, typer.Option(help="File to write (RUN/report.html where not given).")] = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Write one HTML page about a run and its scores; it needs no network."""
    from hydragrad.cleaning import suspects

    asked, opened = open_run(run, data_dir=data_dir)
    with quiet(silent):
        scores = jobs.kept_scores(asked, opened, query, curvature)
    page = out or run / "report.html"
    ranked = suspects(opened, scores) if scores.label_contributions is not None else None
    write_report(opened, scores, page, suspects=ranked, picture=asked.picture, classes=asked.classes)
    say(f"report: {page}")
    write_json(json, {"report": str(page)})


@app.command()
def explain(
    run: Run,
    test: Annotated[int | None, typer.Option(help="Number of the test sample whose prediction to explain.")] = None,
    validation: Annotated[int | None, typer.Option(help="The same of the validation set.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many samples to show on either side.")] = 5,
    projection: Annotated[
        int, typer.Option(min=0, help="Columns kept of every training sample's row; 0 keeps them all (large!).")
    ] = 2048,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Show which training samples moved one prediction, with small pictures where the data are pictures.

    The first time, the rows of all training samples are computed by one replay and kept in RUN/store (interrupted,
    the same command goes on); after that any sample is explained at once. Contributions are to the sample's loss,
    without curvature: positive helps; read the ranking, not the scale.
    """
    if (test is None) == (validation is None):
        raise QueryError("Say which prediction: --test NUMBER, or --validation NUMBER.")
    name, number = ("test", test) if test is not None else ("validation", validation)
    assert number is not None
    asked, opened = open_run(run, data_dir=data_dir)
    with quiet(silent):
        found = explained(asked, opened, name, number, top=top, projection=projection or None)
    show_explained(asked, found)
    write_json(json, found.figures)


@app.command()
def info(run: Run, json: Json = None) -> None:
    """Tell what a run directory holds; needs neither data nor model."""
    manifest = read_manifest(run)
    logs = epoch_logs(run)
    parameters = sum(torch.Size(shape).numel() for shape, _ in manifest.model["parameters"].values())
    files = [file for file in run.rglob("*") if file.is_file() and run / "clean" not in file.parents]
    size = sum(file.stat().st_size for file in files)
    scores = sorted(file.stem for file in (run / "scores").glob("*.safetensors") if "partial" not in file.name)
    about = manifest.about.get("settings", manifest.about)
    figures: dict[str, Any] = {
        "status": manifest.status,
        "steps": manifest.steps,
        "epochs": len(logs),
        "samples": manifest.data["length"],
        "model": manifest.model["class"],
        "parameters": parameters,
        "bytes": size,
        "checkpoints": sum(file.parent.name == "checkpoints" for file in files),
        "scores": scores,
        "schema": manifest.schema,
    }
    rows = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in figures.items()}
    rows |= {"bytes": f"{size / 2**20:.1f} MiB", "scores": ", ".join(scores) or "none yet"}
    rows |= {f"asked: {name}": str(value) for name, value in about.items() if value is not None}
    rows |= {f"machine: {name}": str(value) for name, value in manifest.machine.items()}
    if logs:
        rows["last epoch"] = ", ".join(f"{n} {v:.4g}" for n, v in logs[-1].items() if n != "epoch")
    table(str(run), rows)
    write_json(json, figures | {"run": str(run)})


def _settings(source: str | None, data: str | None, model: str | None, epochs: int | None, device: str) -> Settings:
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise Unsupported(f"--device {device}: choose cpu" + (", or cuda" if torch.cuda.is_available() else "") + ".")
    if source is not None:
        if data or model:
            raise QueryError("Give either --from, or --data and --model.")
        return Settings(source=source, epochs=epochs or 10)
    if data is None or model is None:
        raise QueryError(
            f"Say what to train: --data ({', '.join(DATASETS)}) and --model ({', '.join(MODELS)}), or "
            f"--from module:function."
        )
    if data not in DATASETS:
        raise UnknownName(f"There is no data set named {data!r}; choose one of: {', '.join(DATASETS)}.")
    if model not in MODELS:
        raise UnknownName(f"There is no model named {model!r}; choose one of: {', '.join(MODELS)}.")
    return Settings(data=data, model=model, epochs=epochs or RECIPES[data].epochs)
