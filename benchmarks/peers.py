"""Side by side with other libraries: the same LeNet-5, training samples, checkpoints and queries, in one run.

    make bench-peers

An environment of its own (`.venv-peers`) holds captum, dattri, traker and kronfluence together with hydragrad. Every
job is a process of its own with one thread; its processor time is measured, from opening the input to the matrix
(queries, samples). The libraries compute different quantities. A product is one sample's gradient at one point of the
training times one query's direction there; "points" is the number of points at which a job evaluates each sample.
Three of them compute TracIn at the same points, and their matrices are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg
from benchmarks.costs import BATCH, Setting, data, fresh, loss
from hydragrad.models import LeNet5
from studies.baselines import tracin

COLUMNS, RATE = 2048, 0.01


@dataclass(frozen=True)
class Inputs:
    """The inputs of every job."""

    run: Path
    epochs: int
    train_set: TensorDataset
    queries: TensorDataset

    def recording(self) -> hg.Recording:
        """The run, opened."""
        return hg.Recording(self.run, LeNet5(), loss, self.train_set)

    def states(self) -> list[Path]:
        """Files of the weights at the beginning of every epoch, oldest first."""
        return [self.state(epoch) for epoch in range(self.epochs)]

    def state(self, epoch: int) -> Path:
        """File of the weights after `epoch` epochs."""
        return self.run.parent / f"state{epoch}.pt"

    def losses(self) -> Any:
        """One query per held-out sample."""
        return hg.sample_losses(self.queries, range(len(self.queries)))


def record(inputs: Inputs) -> None:
    """Train, record, and save the weights at the ends of the epochs."""
    model, optimizer = fresh()

    def save(trained: nn.Module) -> dict[str, float]:
        saved = sum(state.exists() for state in inputs.states())
        torch.save(trained.state_dict(), inputs.state(saved))
        return {}

    save(model)
    hg.train(
        model,
        loss,
        inputs.train_set,
        optimizer,
        epochs=inputs.epochs,
        batch_size=BATCH,
        out=inputs.run,
        monitor=save,
        checkpoint_every=-(-len(inputs.train_set) // BATCH),
    )


def plain(inputs: Inputs) -> None:
    """One training, nothing recorded."""
    from benchmarks.costs import plain as train

    train(inputs.train_set, inputs.epochs)


def whole_run(inputs: Inputs) -> Tensor:
    """Contributions over every step of the run, momentum and schedule included."""
    return hg.attribute(inputs.recording(), inputs.losses()).values


def from_store(inputs: Inputs) -> Tensor:
    """The same from projected rows: build the store, then query it."""
    store = hg.hypergradients(inputs.recording(), projection=COLUMNS)
    return store.contributions(inputs.losses()).values


def own_tracin(inputs: Inputs) -> Tensor:
    """TracIn at the beginnings of the epochs, where the run has its checkpoints."""
    return tracin(inputs.recording(), inputs.losses(), points=inputs.epochs)


def captum_tracin(inputs: Inputs) -> Tensor:
    """TracInCP, all layers."""
    from captum.influence import TracInCP

    model = LeNet5()

    def load(model: nn.Module, path: str) -> float:
        model.load_state_dict(torch.load(path, weights_only=True))
        return RATE

    attributor = TracInCP(
        model,
        inputs.train_set,
        [str(path) for path in inputs.states()],
        load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=BATCH,
        sample_wise_grads_per_batch=True,
    )
    scores: Tensor = attributor.influence(inputs.queries.tensors)
    return scores


def dattri_tracin(inputs: Inputs) -> Tensor:
    """TracIn, gradients by vmap; projected to 512 columns by default."""
    from dattri.algorithm import TracInAttributor

    attributor = TracInAttributor(_dattri_task(inputs), torch.full((inputs.epochs,), RATE), normalized_grad=False)
    return attributor.attribute(*_loaders(inputs)).T


def dattri_trak(inputs: Inputs) -> Tensor:
    """TRAK over the checkpoints."""
    from dattri.algorithm import TRAKAttributor

    model = LeNet5()

    def probability(params: Any, sample: Any) -> Tensor:
        image, label = sample
        return torch.exp(-F.cross_entropy(functional_call(model, params, image[None]), label[None]))

    attributor = TRAKAttributor(_dattri_task(inputs), probability, projector_kwargs={"proj_dim": COLUMNS})
    train, queries = _loaders(inputs)
    attributor.cache(train)
    return attributor.attribute(queries).T


def _dattri_task(inputs: Inputs) -> Any:
    from dattri.task import AttributionTask

    model = LeNet5()

    def sample_loss(params: Any, sample: Any) -> Tensor:
        image, label = sample
        return F.cross_entropy(functional_call(model, params, image[None]), label[None])

    return AttributionTask(sample_loss, model, [torch.load(path, weights_only=True) for path in inputs.states()])


def _loaders(inputs: Inputs) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(inputs.train_set, batch_size=BATCH), DataLoader(inputs.queries, batch_size=BATCH)


def traker(inputs: Inputs) -> Tensor:
    """TRAK over the checkpoints, with its dense projection."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    model = LeNet5().eval()
    width = sum(parameter.numel() for parameter in model.parameters())
    projector = BasicProjector(width, COLUMNS, 0, ProjectionType.rademacher, torch.device("cpu"))
    tracer = TRAKer(
        model,
        "image_classification",
        len(inputs.train_set),
        save_dir=str(inputs.run.parent / "trak"),
        device="cpu",
        projector=projector,
        proj_dim=COLUMNS,
        use_half_precision=False,
        logging_level=40,
    )
    train, queries = _loaders(inputs)
    for number, path in enumerate(inputs.states()):
        tracer.load_checkpoint(torch.load(path, weights_only=True), model_id=number)
        for batch in train:
            tracer.featurize(batch, num_samples=len(batch[0]))
    tracer.finalize_features()
    for number, path in enumerate(inputs.states()):
        state = torch.load(path, weights_only=True)
        tracer.start_scoring_checkpoint("queries", state, number, num_targets=len(inputs.queries))
        for batch in queries:
            tracer.score(batch, num_samples=len(batch[0]))
    return torch.as_tensor(tracer.finalize_scores("queries")).T


def ekfac(inputs: Inputs) -> Tensor:
    """EK-FAC influence functions at the final weights."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    class Classify(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            logits = model(batch[0])
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(1), 1).flatten() if sample else batch[1]
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    model, task = LeNet5(), Classify()
    model.load_state_dict(torch.load(inputs.state(inputs.epochs), weights_only=True))
    out = str(inputs.run.parent / "kronfluence")
    analyzer = Analyzer("peers", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=out)
    analyzer.fit_all_factors("ekfac", inputs.train_set, per_device_batch_size=BATCH)
    analyzer.compute_pairwise_scores(
        "pairs",
        "ekfac",
        inputs.queries,
        inputs.train_set,
        per_device_query_batch_size=BATCH,
        per_device_train_batch_size=BATCH,
    )
    scores: Tensor = analyzer.load_pairwise_scores("pairs")["all_modules"]
    return scores


JOBS: dict[str, Callable[[Inputs], Tensor | None]] = {
    "plain training": plain,
    "hydragrad, TracIn": own_tracin,
    "captum, TracInCP": captum_tracin,
    "dattri, TracIn, projected to 512": dattri_tracin,
    f"dattri, TRAK, {COLUMNS:,} columns": dattri_trak,
    f"traker, TRAK, {COLUMNS:,} columns": traker,
    "kronfluence, EK-FAC": ekfac,
    "hydragrad, whole run": whole_run,
    f"hydragrad, whole run by a store, {COLUMNS:,} columns": from_store,
}
PEERS = ("captum", "dattri", "traker", "kronfluence")


def main() -> None:
    """Read the size, run the jobs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-size", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="only jobs whose name contains this text")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        _one(options)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        record(_inputs(options))
        names = _job_names(options.only)
        _table(options, {name: [_measured(options, name) for _ in range(options.repeats)] for name in names})


def _job_names(only: str) -> list[str]:
    return [name for name in JOBS if only in name or name == "plain training"]


def _inputs(options: argparse.Namespace) -> Inputs:
    train_set, held_out = data(Setting(options.train_size, options.epochs))
    images, labels = held_out.tensors
    queries = TensorDataset(images[: options.queries], labels[: options.queries])
    return Inputs(options.folder / "run", options.epochs, train_set, queries)


def _one(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    inputs = _inputs(options)
    begin = time.process_time()
    matrix = JOBS[options.job](inputs)
    print(json.dumps({"seconds": time.process_time() - begin}))
    if matrix is not None:
        torch.save(matrix.float(), options.folder / f"{list(JOBS).index(options.job)}.matrix")


def _measured(options: argparse.Namespace, name: str) -> float:
    sizes = [f"--{key}={getattr(options, key.replace('-', '_'))}" for key in ("train-size", "epochs", "queries")]
    command = [sys.executable, "-m", "benchmarks.peers", *sizes, "--job", name, "--folder", str(options.folder)]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if process.returncode:
        print(f"{name}: {process.stderr.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
        return float("nan")
    seconds: float = json.loads(process.stdout.splitlines()[-1])["seconds"]
    print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def _table(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    base = statistics.median(seconds["plain training"])
    steps = options.epochs * -(-options.train_size // BATCH)
    versions = ", ".join(f"{name} {version(name)}" for name in PEERS)
    print(
        f"\nLeNet-5, {options.train_size:,} training samples, {options.epochs} epochs ({steps} steps), "
        f"{options.queries} queries, one thread, medians of {options.repeats}; "
        f"plain training: {base:.1f} s of processor time\n"
        f"{versions}, torch {torch.__version__}\n\n"
        f"{'':48} {'points':>8} {'seconds':>8} {'x training':>10} {'products a second':>18}"
    )
    for name, repeats in seconds.items():
        middle = statistics.median(repeats)
        # Every epoch evaluates every sample once, at its own step.
        points = 1 if "EK-FAC" in name else options.epochs
        products = "" if name == "plain training" else f"{points * options.train_size * options.queries / middle:,.0f}"
        shown = "" if name == "plain training" else points
        print(f"{name:48} {shown:>8} {middle:8.1f} {middle / base:10.1f} {products:>18}")
    _agreement(options)


def _agreement(options: argparse.Namespace) -> None:
    """Print how far the libraries that compute TracIn at the same points differ."""
    own = _matrix(options, "hydragrad, TracIn")
    for name in ("captum, TracInCP", "dattri, TracIn, projected to 512"):
        other = _matrix(options, name)
        if own is not None and other is not None:
            print(f"{name} differs from ours by {float((own - other).norm() / own.norm()):.1e} (relative norm)")


def _matrix(options: argparse.Namespace, name: str) -> Tensor | None:
    file = options.folder / f"{list(JOBS).index(name)}.matrix"
    matrix: Tensor | None = torch.load(file, weights_only=True) if file.exists() else None
    return matrix


if __name__ == "__main__":
    main()
