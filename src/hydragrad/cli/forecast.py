"""Forecasts before long jobs: time, memory and disk, from a few real steps."""

import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.data import Subset

from hydragrad.attribution.gauss_newton_matrix import POWER_ITERATIONS
from hydragrad.attribution.influence import ITERATIONS, MATRIX
from hydragrad.cleaning import held_out
from hydragrad.cleaning.signals import signals_file
from hydragrad.cli.console import say
from hydragrad.derivatives import BatchStatistics, check_losses, normalises_batches
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.saved_scores import scores_path
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, fetch, samples_in
from hydragrad.scores import Method
from hydragrad.trained_elsewhere import Checkpoints
from hydragrad.training import (
    Plan,
    batch_losses,
    forecast_bytes,
    require_trainable,
    under_autocast,
)

WARM_UP, TIMED, EVALUATED = 2, 5, 250
SHOWN_FROM_SECONDS = 60
EVALUATIONS_FOR_SUSPECTS = 20
"""Of the training set, before suspects are ranked."""
PRODUCTS = held_out.CHECKPOINTS * (held_out.ITERATIONS + POWER_ITERATIONS)
"""Of the Gauss-Newton matrix, for their influence on held-out data."""
EVALUATIONS_A_PRODUCT = 4.0
"""Cost of a sample's Gauss-Newton product."""
ATTRIBUTIONS_A_SAMPLE = 0.4
"""Cost of the backward pass of a single sample, in attributions without curvature: see docs/tracking.md."""


def announce(what: str, seconds: float, disk: int, *, always: bool) -> None:
    """Print a forecast if the job is long."""
    if always or seconds >= SHOWN_FROM_SECONDS:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        say(
            f"forecast: {what} will take about {duration(seconds)}, {memory / 2**30:.1f} GiB of memory or somewhat "
            f"more, and {disk / 2**20:,.0f} MiB of disk"
        )


def training_seconds(experiment: Experiment, plan: Plan) -> float:
    """Seconds of the whole training, from a few steps on a throw-away model.

    Raises:
        Unsupported, DataError, LossError: What the training itself would refuse.
    """
    start = experiment.start(experiment.settings.seed)
    require_trainable(start.model, experiment.loss, experiment.train_set, start.optimizer, plan.batch_size)
    length = len(experiment.train_set)  # type: ignore[arg-type]
    device = next(start.model.parameters()).device

    def step(number: int) -> None:
        indices = [(number * plan.batch_size + i) % length for i in range(min(plan.batch_size, length))]
        batch = fetch(experiment.train_set, indices, seed=0, collate=None, device=device)
        start.optimizer.zero_grad()
        with under_autocast(plan, device):
            losses = batch_losses(partial(experiment.loss, start.model), batch, indices)
        check_losses(losses, len(indices))
        losses.mean().backward()
        start.optimizer.step()

    with preserved():
        return _seconds_a_step(step) * plan.passes(length) + _seconds_of_held_out(experiment, start.model, plan)


def training_disk(experiment: Experiment, plan: Plan, every: int) -> int:
    """Bytes of the run directory."""
    start = experiment.start(experiment.settings.seed)
    length = len(experiment.train_set)  # type: ignore[arg-type]
    return forecast_bytes(start.model, start.optimizer, length, plan, every)


def attribution_seconds(run: Recording, method: Method) -> float:
    """Seconds of an attribution, one replay after the other."""
    return training_again_seconds(run) * method.trainings


def training_again_seconds(run: Recording) -> float:
    """Seconds of one replay of the whole run, from a few replayed steps."""
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)

        def step(number: int) -> None:
            record = run.steps[number % len(run.steps)]
            replay.trajectory.advance(record, run.batches(record))

        return _seconds_a_step(step) * len(run.steps)


def store_seconds(run: Recording, statistics: BatchStatistics) -> float:
    """Seconds of building a store: with exact statistics of a BatchNorm's batches, a backward pass a sample."""
    attribution = attribution_seconds(run, Method())
    if statistics == "frozen" or not normalises_batches(run.model):
        return attribution
    return attribution * max(1.0, ATTRIBUTIONS_A_SAMPLE * max(len(record.indices) for record in run.steps))


def query_seconds(experiment: Experiment, model: nn.Module, text: str) -> float:
    """Seconds that differentiating a mean loss takes, forward and backward; that of a single sample is not counted."""
    query = experiment.named_query(text)
    if query.sample is not None or query.data_set not in experiment.held_out:
        return 0.0
    return 3 * seconds_of_evaluation(experiment, model, query.data_set)


def signals_seconds(experiment: Experiment, run: Recording, folds: int, training: float) -> float:
    """Seconds that evaluating the training set along the run, influence functions and folds take, if not yet done.

    Args:
        experiment: What is trained.
        run: The recorded run.
        folds: Trainings for out-of-fold probabilities.
        training: Seconds of one training.
    """
    if signals_file(run, folds=folds).exists():
        return 0.0
    share: float = min(1.0, MATRIX / run.manifest.data["length"])
    evaluation = seconds_of_evaluation(experiment, run.trained_model(), "train")
    return (EVALUATIONS_FOR_SUSPECTS + EVALUATIONS_A_PRODUCT * PRODUCTS * share) * evaluation + folds * training


def ranking_seconds(
    experiment: Experiment, run: Recording, query: str, method: Method, *, seeds: int, folds: int, training: float
) -> float:
    """Seconds that ranking suspects takes, scores included, as far as it is not yet done.

    Args:
        experiment: What is trained.
        run: The recorded run.
        query: Name of the held-out data.
        method: How scores are computed.
        seeds: Independent runs that scores are averaged over.
        folds: Trainings for out-of-fold probabilities.
        training: Seconds of one training.
    """
    seconds = signals_seconds(experiment, run, folds, training)
    if not scores_path(run.path, query, method, seeds).exists():
        seconds += query_seconds(experiment, run.trained_model(), query) * seeds
        seconds += attribution_seconds(run, method) * seeds
        seconds += training * (seeds - 1)
    return seconds


def influence_seconds(checkpoints: Checkpoints, count: int, queries: int) -> float:
    """Seconds of influence functions at up to `count` checkpoints of a model trained elsewhere, in round figures.

    Args:
        checkpoints: The states.
        count: How many are averaged over.
        queries: How many there are.
    """
    length = samples_in(checkpoints)
    timed = list(range(min(EVALUATED, length)))
    begin = time.perf_counter()
    with preserved(), torch.no_grad():
        checkpoints.loss(checkpoints.trained_model(), checkpoints.collate(timed))
    evaluation = (time.perf_counter() - begin) * length / len(timed)
    share = min(1.0, MATRIX / length)
    products = (ITERATIONS * queries + POWER_ITERATIONS) * share
    return len(checkpoints.spread(count)) * (EVALUATIONS_A_PRODUCT * products + 2 * queries) * evaluation


def model_bytes(run: Recording) -> int:
    """Bytes of the model's parameters and buffers."""
    final = run.final
    return sum(value.nbytes for value in [*final.parameters.values(), *final.buffers.values()])


def duration(seconds: float) -> str:
    """Format seconds as a person says them."""
    if seconds < 0.5:
        return "less than a second"
    if seconds < 90:
        return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _seconds_of_held_out(experiment: Experiment, model: nn.Module, plan: Plan) -> float:
    """Seconds that measuring the held-out data takes: the validation set once an epoch, the test set once."""
    evaluations = {"validation": plan.epochs, "test": 1}
    return sum(
        count * seconds_of_evaluation(experiment, model, name)
        for name, count in evaluations.items()
        if name in experiment.held_out
    )


def seconds_of_evaluation(experiment: Experiment, model: nn.Module, name: str) -> float:
    """Seconds that evaluating a data set once takes."""
    samples = experiment.data_set(name)
    length = len(samples)  # type: ignore[arg-type]
    timed = Subset(samples, range(min(EVALUATED, length)))
    begin = time.perf_counter()
    with preserved():
        experiment.loss_and_accuracy(model, timed)
    return (time.perf_counter() - begin) * length / len(timed)


def _seconds_a_step(step: Callable[[int], None]) -> float:
    for number in range(WARM_UP):
        step(number)
    begin = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + TIMED):
        step(number)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / TIMED
