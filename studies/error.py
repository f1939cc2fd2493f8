"""What dropping the curvature costs along a run, compared with influence functions at the same steps and with a bound.

One recorded run a network. Exact hypergradients of some random training samples are computed step by step,
together with those without curvature; at evenly spaced steps both, and those of influence functions, are compared: L2
distance of hypergradients, relative distance, and for contributions to the mean test loss the share of opposite signs
and Spearman over the samples. The hypergradient of influence functions is -(G + damping)^-1 g_i / N, with the training
set's mean Gauss-Newton matrix G and the gradient g_i of the sample at the weights of that step, in eval mode. The
bounds are those of `trust/error.py`.

Source: Chen et al. 2021, section 5.2, which compares the first two at the end of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from hydragrad.attribution.gauss_newton_matrix import DampedGaussNewton
from hydragrad.attribution.influence import query_gradients
from hydragrad.cli.console import columns, number, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among, require_one_of
from hydragrad.datasets import DATASETS, Splits, load
from hydragrad.derivatives import Layout
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.figures import error_over_time
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.runs import Checkpoint
from hydragrad.scores import mean_loss, sample_losses
from hydragrad.training import train
from hydragrad.trust import approximation_error
from hydragrad.trust.error import PairAt, distances
from studies.networks import NETWORKS
from studies.rows import append_rows, saved_rows

ROWS_FILE = "error.jsonl"
NONE, INFLUENCE = "none", "influence functions"
DAMPING, ITERATIONS = 0.1, 15


@dataclass(frozen=True, kw_only=True)
class ErrorRow:
    """One estimator after one step of one run; norms and distances are means over the samples used so far.

    Attributes:
        data, network, seed, train_size, epochs: The run.
        samples, points: How many training samples are compared, at how many steps.
        estimator: `NONE` or `INFLUENCE`.
        step: Steps made.
        error: L2 distance to the exact hypergradient.
        relative_error: The same over the size of the exact one.
        spearman: Of contributions with the exact ones, over samples.
        sign_disagreements: Share of the samples whose contributions have opposite signs.
        relative_contribution_error: L2 distance of the contributions over the L2 norm of the exact ones.
        exact: L2 norm of the exact hypergradient.
        measured_bound, bound: On the error without curvature; None for influence functions.
    """

    data: str
    network: str
    seed: int
    train_size: int
    epochs: int
    samples: int
    points: int
    estimator: str
    step: int
    error: float
    relative_error: float
    spearman: float
    sign_disagreements: float
    relative_contribution_error: float
    exact: float
    measured_bound: float | None = None
    bound: float | None = None


def reproduce_error(
    out: Path,
    *,
    data: str = "digits",
    data_dir: Path | None = None,
    networks: Sequence[str] = ("mlp", "lenet5", "lenet5-smooth"),
    seed: int = 0,
    train_size: int = 1_000,
    epochs: int = 10,
    samples: int = 16,
    points: int = 8,
    rows_file: Path | None = None,
) -> list[ErrorRow]:
    """Measure what is missing, and draw OUT/error-DATA-NETWORK.png; runs and rows are reused.

    Args:
        out: Folder for runs, rows and pictures.
        data: Name of the data set.
        data_dir: Folder with its files.
        networks: Some of `NETWORKS`.
        seed: Of initialisation, order and of the samples.
        train_size: Training samples.
        epochs: Passes over them.
        samples: Random training samples to compare.
        points: Steps at which they are compared, evenly spaced.
        rows_file: Where rows are saved, `ROWS_FILE` in `out` if None.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = rows_file or out / ROWS_FILE
    splits = load(data, data_dir=data_dir, train_size=train_size)
    rows: list[ErrorRow] = []
    for network in networks:
        sizes = {"train_size": len(splits.train), "epochs": epochs, "samples": samples, "points": points}
        setting: dict[str, Any] = {"data": splits.name, "network": network, "seed": seed, **sizes}
        folder = out / f"{splits.name}-{network}-{len(splits.train)}x{epochs}-{seed}"
        done = [row for row in saved_rows(ErrorRow, file) if setting.items() <= asdict(row).items()]
        if not any(row.estimator == NONE for row in done):  # written last
            done = _measured(setting, _trained(folder, splits, network, epochs, seed), splits, file, done)
        ordered = sorted(done, key=lambda row: row.step)
        draw(ordered).savefig(picture(out, ordered[0]), dpi=160)
        rows += ordered
    return rows


def draw(rows: Sequence[ErrorRow]) -> Any:
    """Return the figure of one run's rows."""
    points = {name: [asdict(row) for row in rows if row.estimator == name] for name in (NONE, INFLUENCE)}
    return error_over_time(points[NONE], others={INFLUENCE: points[INFLUENCE]})


def picture(out: Path, row: ErrorRow) -> Path:
    """Return the path of the picture of a row's run."""
    return out / f"error-{row.data}-{row.network}.png"


def influence_hypergradients(
    run: Recording, layout: Layout, at: Checkpoint, samples: Sequence[int], *, damping: float, iterations: int
) -> Tensor:
    """Return what influence functions use as dw/d(weight of a sample), (samples, parameters).

    Args:
        run: Has loss and training set.
        layout: Lays out the parameters.
        at: The weights in question.
        samples: Training samples.
        damping: Added to the Gauss-Newton matrix's diagonal.
        iterations: Of conjugate gradients, at most.
    """
    matrix = DampedGaussNewton(run, layout, at, damping)
    gradients = query_gradients(run, layout, at, sample_losses(run.train_set, samples))
    length: int = run.manifest.data["length"]
    return -matrix.solve(gradients, iterations).x / length


def _trained(folder: Path, splits: Splits, network: str, epochs: int, seed: int) -> Recording:
    torch.manual_seed(seed)
    model = NETWORKS[network](splits.train.tensors[0].shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return train(
        model, cross_entropy, splits.train, optimizer, epochs=epochs, batch_size=64, out=folder, seed=seed, resume=True
    )


def _measured(
    setting: dict[str, Any], run: Recording, splits: Splits, file: Path, done: Sequence[ErrorRow]
) -> list[ErrorRow]:
    """All rows of a run: those of influence functions are saved one by one, the others when their replay ends."""
    rows = list(done)
    generator = torch.Generator().manual_seed(setting["seed"])
    compared = torch.randperm(len(splits.train), generator=generator)[: setting["samples"]].sort().values.tolist()
    error = approximation_error(
        run,
        samples=compared,
        query=mean_loss(splits.test, name="test loss"),
        points=setting["points"],
        observe=_measure_influence(setting, run, compared, file, rows),
    )
    fields = {field for field in ErrorRow.__dataclass_fields__ if field not in setting}
    last = [
        ErrorRow(**setting, estimator=NONE, **{name: value for name, value in asdict(at).items() if name in fields})
        for at in error.points
    ]
    append_rows(file, last)
    return rows + last


def _measure_influence(
    setting: dict[str, Any], run: Recording, samples: Sequence[int], file: Path, rows: list[ErrorRow]
) -> Callable[[PairAt], None]:
    """A callback that measures influence functions at a step of the run, unless `rows` has it, and saves the row."""
    measured_steps = {row.step for row in rows}

    def observe(at: PairAt) -> None:
        if at.step in measured_steps:
            return
        here = replace(run.final, parameters=dict(at.parameters), buffers=dict(at.buffers))
        other = influence_hypergradients(run, at.weights, here, samples, damping=DAMPING, iterations=ITERATIONS)
        size = float(at.exact[at.trained].double().norm(dim=1).mean())
        measured: dict[str, Any] = {"step": at.step, "exact": size, **distances(at, other)}
        row = ErrorRow(**setting, estimator=INFLUENCE, **measured)
        append_rows(file, [row])
        rows.append(row)

    return observe


def error(
    out: Annotated[Path, typer.Option(help="Folder for runs, rows and pictures.")] = Path("runs/error"),
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "digits",
    networks: Annotated[str, typer.Option(help=f"Networks: {', '.join(NETWORKS)}.")] = "mlp,lenet5,lenet5-smooth",
    train_size: Annotated[int, typer.Option(min=10, help="Training samples.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 10,
    samples: Annotated[int, typer.Option(min=3, help="Random training samples to compare.")] = 16,
    points: Annotated[int, typer.Option(min=1, help="Steps at which they are compared.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the run and of the samples.")] = 0,
    rows: Annotated[
        Path | None, typer.Option(help="File of rows, instead of OUT/error.jsonl; its rows are not measured again.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """What dropping the curvature costs along a run.

    Compares hypergradients without curvature, and influence functions, with exact ones, and with the bound. If
    interrupted, the same command resumes; runs and finished rows are saved.

    Example: python -m studies error --networks mlp --samples 8 --points 4
    """
    require_one_of(data, DATASETS, "--data")
    names = named_among(networks, NETWORKS, "--networks")
    with quiet(silent):
        measured = reproduce_error(
            out,
            data=data,
            data_dir=data_dir,
            networks=names,
            seed=seed,
            train_size=train_size,
            epochs=epochs,
            samples=samples,
            points=points,
            rows_file=rows,
        )
    for network in names:
        of_network = [row for row in measured if row.network == network]
        columns(
            f"{data}, {network}: {samples} samples against their exact hypergradients; contributions to the test loss",
            ("step", "estimator", "|exact|", "L2 error", "relative", "wrong signs", "Spearman", "Σ|κ||H∇|", "L M Σ|κ|"),
            [
                (
                    f"{row.step:,}",
                    row.estimator,
                    number(row.exact),
                    number(row.error),
                    number(row.relative_error),
                    percent(row.sign_disagreements),
                    f"{row.spearman:.2f}",
                    number(row.measured_bound),
                    number(row.bound),
                )
                for row in of_network
            ],
            left=["estimator"],
        )
        say(f"picture: {picture(out, of_network[0])}")
    write_json(
        json, {f"{row.network} {row.estimator} {row.step} relative error": row.relative_error for row in measured}
    )
