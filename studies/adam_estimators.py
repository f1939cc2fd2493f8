"""What predicts the removals of `adam`: contributions of one run by each estimator, computed once and saved."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from hydragrad.attribution import attribute, reverse_step
from hydragrad.attribution.influence import influence_functions
from hydragrad.errors import Unsupported
from hydragrad.replay.histories import trained_layout
from hydragrad.runs.lines import save_file
from hydragrad.scores import Query
from hydragrad.steps import Cotangent, StepPoint, smoothing_of
from hydragrad.steps.flat import Part
from studies.adam_runs import AdamRun
from studies.baselines import tracin

Array = NDArray[np.float64]
Compute = Callable[[AdamRun, Sequence[Query]], Tensor]

SMOOTHINGS = (0.0, 0.001, 0.01, 0.1, 1.0)
COLUMNS = 2048


def _by(**options: Any) -> Compute:
    return lambda adam, queries: attribute(adam.run, list(queries), **options).values


def _per_tensor(share: float) -> Compute:
    def compute(adam: AdamRun, queries: Sequence[Query]) -> Tensor:
        with _smoothed_per_tensor(adam, share):
            # A share of its own, so that no interrupted sweep over all coordinates is resumed as this one.
            return attribute(adam.run, list(queries), curvature="hessian", smoothing=share * (1 + 1e-7)).values

    return compute


@contextmanager
def _smoothed_per_tensor(adam: AdamRun, share: float) -> Iterator[None]:
    """Smooth with a share of every tensor's own mean second moment; a variant of the library's for this study."""
    spans = list(trained_layout(adam.run).spans.values())

    def transpose(
        parts: Sequence[Part], after: Cotangent[Tensor], point: StepPoint | None, _: float
    ) -> tuple[Tensor, Cotangent[Tensor]]:
        g_bar, w_bar = torch.zeros_like(after.w_bar), after.w_bar.clone()
        states = tuple(state.clone() for state in after.states)
        for part in parts:
            for own in (part._replace(span=span) for span in spans if _within(span, part.span)):
                rho = smoothing_of([own], point, share)
                g, before = own.rule.transpose(Cotangent(*own.cut(*after)), own.move, own.at(point), rho=rho)
                g_bar[..., own.span], w_bar[..., own.span] = g, before.w_bar
                own.put(states, before.states)
        return g_bar, Cotangent(w_bar, states)

    with patch.object(reverse_step, "transpose_all", transpose):
        yield


def _within(inner: slice, outer: slice) -> bool:
    return bool(outer.start <= inner.start and inner.stop <= outer.stop)


def _influence(**options: Any) -> Compute:
    def compute(adam: AdamRun, queries: Sequence[Query]) -> Tensor:
        return torch.cat([influence_functions(adam.run, query, damping=0.1, **options) for query in queries])

    return compute


def _tracin(adam: AdamRun, queries: Sequence[Query]) -> Tensor:
    return torch.cat([tracin(adam.run, query) for query in queries])


def _trak(adam: AdamRun, queries: Sequence[Query]) -> Tensor:
    """TRAK by dattri at the trained weights; the mean loss is the mean over its tests."""
    try:
        from dattri.algorithm import TRAKAttributor
        from dattri.task import AttributionTask
    except ImportError as error:
        raise Unsupported(
            f"TRAK needs dattri, which is not installed ({error}). Run this study by .venv-peers/bin/python (`make "
            f"bench-peers` makes it), or leave trak out of --estimators."
        ) from error
    model = adam.run.trained_model().requires_grad_(True)  # dattri takes the gradients of such parameters only

    def loss(params: Any, sample: Any) -> Tensor:
        """Of one sample: the mean cross-entropy of what it predicts."""
        x, y = sample
        logits = functional_call(model, params, x[None])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))

    def margin(params: Any, sample: Any) -> Tensor:
        log_probability = -loss(params, sample)
        return log_probability - torch.log1p(-torch.exp(log_probability))

    task = AttributionTask(margin, model, {name: value.detach() for name, value in model.state_dict().items()})
    attributor = TRAKAttributor(
        task, lambda params, sample: torch.exp(-loss(params, sample)), projector_kwargs={"proj_dim": COLUMNS}
    )
    attributor.cache(DataLoader(adam.train_set, batch_size=512))
    tests = TensorDataset(*(part[: adam.subject.held_out] for part in adam.tests.tensors))
    scores = attributor.attribute(DataLoader(tests, batch_size=500)).T.double()
    singles = queries[-1].single_samples()
    assert singles is not None
    rows = scores[singles[1]]
    return rows if len(queries) == 1 else torch.cat([scores.mean(0, keepdim=True), rows])


OF_KIND: dict[str, dict[str, Compute]] = {
    "smoothing": {f"exact smoothing {rho:g}": _by(curvature="hessian", smoothing=rho) for rho in SMOOTHINGS},
    "per-tensor": {f"exact per tensor {rho:g}": _per_tensor(rho) for rho in SMOOTHINGS[1:]},
    "ggn": {f"ggn smoothing {rho:g}": _by(curvature="ggn", smoothing=rho) for rho in (0.01, 0.0)},
    "none": {f"none smoothing {rho:g}": _by(curvature="none", smoothing=rho) for rho in (0.01, 0.0)},
    "replays": {"exact 4 replays": _by(curvature="hessian", replays=4)},
    "tracin": {"TracIn": _tracin},
    "influence": {"influence functions": _influence(matrix_samples=1000, iterations=10)},
    "influence-over": {
        "influence functions over training": _influence(matrix_samples=500, iterations=5, checkpoints=5)
    },
    "trak": {"TRAK": _trak},
}
"""Kind on the command line → its estimators by name."""
ESTIMATORS: dict[str, Compute] = {name: compute for some in OF_KIND.values() for name, compute in some.items()}


def contributions(adam: AdamRun, name: str, chunks: int) -> tuple[Array, float]:
    """Contributions (queries, samples) to the queries of the first chunks, and processor seconds."""
    parts, seconds = [], 0.0
    for chunk in range(chunks):
        file = adam.folder / "estimates" / f"{name} {chunk}.safetensors"
        if not file.exists():
            begin = time.process_time()
            values = ESTIMATORS[name](adam, adam.queries(chunk))
            taken = torch.tensor(time.process_time() - begin, dtype=torch.float64)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"values": values.float().contiguous(), "seconds": taken}, file, {})
        saved = load_file(file)
        parts.append(saved["values"].double().numpy())
        seconds += saved["seconds"].item()
    return np.concatenate(parts), seconds
