"""Single removals on small binary problems, as in SGD-influence.

For every seed: 200 training and 200 validation images of MNIST's ones and sevens, logistic regression and a network of
two hidden layers of 8; each training sample really left out, with initialisation, order and batch sizes as they were.
Contributions to the mean validation loss are compared with its real changes: Kendall's tau, and the Jaccard index of
the ten highest together with the ten lowest.

Source: Hara, Nitanda, Maehara, "Data Cleansing for Models Trained with SGD", NeurIPS 2019, section 7.1; settings as in
the authors' public code, which specifies everything. The penalty is inside the loss, so a sample that is left out takes
its share of it along (the gradient of the whole objective is rescaled by |S without i|/|S|). Ours: float64 in place of
float32, influence functions solved for exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import published
from hydragrad.derivatives import Layout
from hydragrad.derivatives.directional.forward_mode import differentiable_kernels
from hydragrad.progress import bar, quiet
from hydragrad.recording import Recorder
from hydragrad.replay import Recording
from hydragrad.scores import Method, Query, query
from studies.many_networks import outputs_together, train_together
from studies.rows import append_rows, saved_array, saved_rows

ROWS_FILE = "hara.jsonl"
SAMPLES, ENDS = 200, 10
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One of the two models; `published_tau` is of SGD-influence and of influence functions."""

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    falling_rate: bool
    published_tau: tuple[float, float]


MODELS: dict[str, Model] = {
    "logistic": Model(hidden=(), epochs=5, batch_size=5, falling_rate=True, published_tau=(0.95, 0.70)),
    "dnn": Model(hidden=(8, 8), epochs=10, batch_size=20, falling_rate=False, published_tau=(0.45, 0.27)),
}
METHODS: dict[str, Method] = {
    "none": Method.of("none"),
    "hessian": Method.of("hessian"),
    "hessian of 4 replays": Method.of("hessian", replays=4, drop=0.05),
    "ggn": Method.of("ggn"),
}
ESTIMATORS = (*METHODS, "influence functions")


@dataclass(frozen=True, kw_only=True)
class HaraRow:
    """One estimator on one run; `accuracy` of the validation images, `slope` of actual on predicted, through zero."""

    model: str
    seed: int
    estimator: str
    tau: float
    jaccard: float
    slope: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One seed's data and penalty."""

    train: TensorDataset
    validation: TensorDataset
    penalty: float


def reproduce_hara(
    out: Path,
    *,
    seeds: Sequence[int] = range(30),
    models: Sequence[str] = tuple(MODELS),
    estimators: Sequence[str] = ESTIMATORS,
    data_dir: Path | None = None,
) -> list[HaraRow]:
    """Measure; runs, removals and finished rows in `out` are reused.

    Args:
        out: Folder for the runs and the rows.
        seeds: Of data, initialisation and penalty.
        models: Some of `MODELS`.
        estimators: Some of `ESTIMATORS`.
        data_dir: Folder with MNIST's files.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = saved_rows(HaraRow, out / ROWS_FILE)
    done = {(row.model, row.seed, row.estimator) for row in rows}
    jobs = [(name, seed) for name in models for seed in seeds]
    pixels, labels = _ones_and_sevens(data_dir)
    with bar("runs", len(jobs)) as progress:
        for name, seed in jobs:
            missing = [estimator for estimator in estimators if (name, seed, estimator) not in done]
            if missing:
                measured = _measured(name, _problem(name, pixels, labels, seed), seed, out / f"{name}-{seed}", missing)
                append_rows(out / ROWS_FILE, measured)
                rows += measured
            progress.advance()
    return [row for row in rows if row.model in models and row.seed in seeds and row.estimator in estimators]


def _measured(name: str, problem: Problem, seed: int, folder: Path, estimators: Sequence[str]) -> list[HaraRow]:
    model = MODELS[name]
    actual = saved_array(folder / "left-out.npy", lambda: _really_left_out(name, problem, seed))
    run = _recorded(model, problem, seed, folder / "penalty-in-loss", inside=True)
    x, y = problem.validation.tensors
    accuracy = ((run.trained_model()(x) > 0) == (y > 0.5)).double().mean().item()
    rows = []
    for estimator in estimators:
        values = _contributions(model, estimator, problem, seed, run, folder)
        rows.append(
            HaraRow(
                model=name,
                seed=seed,
                estimator=estimator,
                tau=float(kendalltau(actual, values).statistic),
                jaccard=_jaccard(actual, values),
                slope=float(actual @ values / (values @ values)),
                accuracy=accuracy,
            )
        )
    return rows


def _contributions(model: Model, estimator: str, problem: Problem, seed: int, run: Recording, folder: Path) -> Array:
    if estimator not in METHODS:
        # The authors damp the network's matrix by 1, and take the penalty for the logistic regression.
        return _influence_functions(run, problem, 1.0 if model.hidden else problem.penalty)
    method = METHODS[estimator]
    if method.curvature == "ggn":
        run = _recorded(model, problem, seed, folder / "penalty-in-step", inside=False)
    scores = attribute(run, _validation_loss(problem.validation), **method.options)
    return np.asarray(scores.values[0].numpy(), np.float64)


def _ones_and_sevens(data_dir: Path | None) -> tuple[Array, Array]:
    """Ones, then sevens; without the first 5,000 images, which the authors' loader uses for validation."""
    digits = published("mnist", data_dir=data_dir)
    images = digits.train_images[5000:, 0, 2:-2, 2:-2].reshape(-1, 784) / np.float64(255)
    labels = digits.train_labels[5000:]
    ones, sevens = images[labels == 1], images[labels == 7]
    return np.concatenate([ones, sevens]), np.repeat([0.0, 1.0], [len(ones), len(sevens)])


def _problem(name: str, pixels: Array, labels: Array, seed: int) -> Problem:
    x, rest, y, rest_labels = train_test_split(
        pixels, labels, train_size=SAMPLES, test_size=2 * SAMPLES, random_state=seed
    )
    held_out, _, held_out_labels, _ = train_test_split(
        rest, rest_labels, train_size=SAMPLES, test_size=SAMPLES, random_state=seed + 1
    )
    scaler = StandardScaler().fit(x)
    x, held_out = scaler.transform(x), scaler.transform(held_out)
    return Problem(
        train=TensorDataset(torch.tensor(x), torch.tensor(y)[:, None]),
        validation=TensorDataset(torch.tensor(held_out), torch.tensor(held_out_labels)[:, None]),
        penalty=0.001 if MODELS[name].hidden else _cross_validated_penalty(x, y, seed),
    )


def _cross_validated_penalty(x: Array, y: Array, seed: int) -> float:
    """By five-fold cross-validation, as the authors do."""
    classifier = LogisticRegressionCV(
        random_state=seed, fit_intercept=False, cv=5, use_legacy_attributes=False, l1_ratios=(0.0,), scoring="accuracy"
    ).fit(x, y)
    return 1 / (float(classifier.C_) * SAMPLES)


def _network(model: Model, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = (784, *model.hidden, 1)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def _batches(model: Model) -> list[list[int]]:
    """The authors' order, which is the same for every seed."""
    return [
        part.tolist()
        for epoch in range(model.epochs)
        for part in np.array_split(np.random.RandomState(epoch).permutation(SAMPLES), SAMPLES // model.batch_size)
    ]


def _rate(model: Model) -> Callable[[int], float]:
    return lambda step: 0.1 / np.sqrt(step + 1) if model.falling_rate else 0.1


def _loss(penalty: float) -> Callable[[Any, Any], Tensor]:
    def loss(model: Any, batch: Any) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none")[:, 0]
        return losses + 0.5 * penalty * sum(p.square().sum() for p in model.parameters()) if penalty else losses

    return loss


def _validation_loss(data: TensorDataset) -> Query:
    x, y = data.tensors
    return query("validation loss", lambda model: F.binary_cross_entropy_with_logits(model(x), y))


def _really_left_out(name: str, problem: Problem, seed: int) -> Array:
    """Change of the validation loss without each sample, by training them all at once."""
    model = MODELS[name]
    network = _network(model, seed)
    weights = torch.cat([torch.ones(1, SAMPLES), 1 - torch.eye(SAMPLES)]).double()
    batches = [torch.tensor(indices) for indices in _batches(model)]
    trained = train_together(
        [network] * len(weights), _loss(problem.penalty), problem.train, batches, lr=_rate(model), weights=weights
    )
    x, y = problem.validation.tensors
    logits = outputs_together(network, trained, x)
    losses = F.binary_cross_entropy_with_logits(logits, y.expand_as(logits), reduction="none").mean((1, 2))
    return np.asarray((losses[1:] - losses[0]).numpy(), np.float64)


def _recorded(model: Model, problem: Problem, seed: int, path: Path, *, inside: bool) -> Recording:
    """The run; `inside` has the penalty in the loss. The optimizer's is the same run, and one that "ggn" takes."""
    network, rate = _network(model, seed), _rate(model)
    loss = _loss(problem.penalty if inside else 0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.0 if inside else problem.penalty)
    with Recorder(path, network, optimizer, loss, problem.train, resume=(path / "manifest.json").exists()) as recorder:
        for step, indices in enumerate(_batches(model)):
            if step < recorder.next_step:
                continue
            optimizer.param_groups[0]["lr"] = rate(step)
            with recorder.step(indices):
                optimizer.zero_grad()
                loss(network, [part[indices] for part in problem.train.tensors]).mean().backward()
                optimizer.step()
    return Recording(path, network, loss, problem.train)


def _influence_functions(run: Recording, problem: Problem, damping: float) -> Array:
    """Koh and Liang 2017 with the exact Hessian of the training loss without penalty, damped."""
    model = run.trained_model()
    parameters = dict(model.named_parameters())
    layout = Layout({name: value.shape for name, value in parameters.items()})
    at = layout.flatten(parameters, torch.zeros(0, dtype=torch.float64))

    def losses(flat: Tensor, data: TensorDataset) -> Tensor:
        x, y = data.tensors
        logits: Tensor = functional_call(model, layout.views(flat), (x,))
        return F.binary_cross_entropy_with_logits(logits, y, reduction="none")[:, 0]

    gradient = grad(lambda flat: losses(flat, problem.train).mean())

    def product(vector: Array) -> Array:
        curved = jvp(gradient, (at,), (torch.from_numpy(vector),))[1] + damping * torch.from_numpy(vector)
        return np.asarray(curved.numpy())

    with differentiable_kernels():
        query_gradient = grad(lambda flat: losses(flat, problem.validation).mean())(at).numpy()
        matrix = LinearOperator((layout.size, layout.size), product, dtype=np.float64)
        direction, _ = cg(matrix, query_gradient, rtol=1e-8, maxiter=500)
        along = jvp(lambda flat: losses(flat, problem.train), (at,), (torch.from_numpy(direction),))[1]
    return np.asarray(along.numpy()) / SAMPLES


def _jaccard(actual: Array, predicted: Array) -> float:
    ends = [set(np.r_[order[:ENDS], order[-ENDS:]].tolist()) for order in map(np.argsort, (actual, predicted))]
    return len(ends[0] & ends[1]) / len(ends[0] | ends[1])


def summary(rows: list[HaraRow]) -> Iterator[tuple[str, str, int, Array, Array, float]]:
    """Yield model, estimator, runs, tau and Jaccard of each run, median slope."""
    for name in MODELS:
        for estimator in ESTIMATORS:
            pooled = [row for row in rows if (row.model, row.estimator) == (name, estimator)]
            if pooled:
                tau, jaccard = (np.array([getattr(row, what) for row in pooled]) for what in ("tau", "jaccard"))
                yield name, estimator, len(pooled), tau, jaccard, float(np.median([row.slope for row in pooled]))


def hara(
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/hara"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(MODELS),
    estimators: Annotated[str, typer.Option(help="Which estimators, with commas between.")] = ",".join(ESTIMATORS),
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 30,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Single removals on ones and sevens: SGD-influence's protocol.

    Compares contributions with every real removal. A seed of one model takes about 20 seconds of processor time. If
    interrupted, the same command resumes after the last finished run.

    Example: python -m studies hara --models dnn --seeds 5
    """
    with quiet(silent):
        rows = reproduce_hara(
            out,
            seeds=range(seeds),
            models=named_among(models, MODELS, "--models"),
            estimators=named_among(estimators, ESTIMATORS, "--estimators"),
            data_dir=data_dir,
        )
    lines = []
    figures = {}
    for model, estimator, runs, tau, jaccard, slope in summary(rows):
        spread = f"{tau.mean():.3f} ± {tau.std():.3f}"
        lines.append(
            (model, estimator, str(runs), spread, f"{jaccard.mean():.3f} ± {jaccard.std():.3f}", number(slope))
        )
        figures[f"{model} {estimator} tau"] = float(tau.mean())
        figures[f"{model} {estimator} jaccard"] = float(jaccard.mean())
    title = "every sample left out on its own: mean ± standard deviation over runs"
    headings = ("model", "estimator", "runs", "Kendall's tau", "Jaccard, 10 at each end", "median slope")
    columns(title, headings, lines, left=["model", "estimator"])
    write_json(json, figures)
