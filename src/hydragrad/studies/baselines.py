"""Rankings that others propose, from well-kept libraries where they exist: cleanlab, curvlinops.

They are given what our own rankings are given: the same run, and the same clean held-out data.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.attribution.attribute import query_point
from hydragrad.derivatives import Batch, LayerDots, Layout, LossModule, directional_derivatives, why_not_hooks
from hydragrad.derivatives.directional import differentiable_kernels
from hydragrad.errors import Unsupported
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.recording import Recording
from hydragrad.recording.checkpoints import Checkpoint
from hydragrad.scores import Query

CHUNK = 500
INSTALL = "Install what the studies compare with: pip install 'hydragrad[studies]'."


@dataclass(frozen=True, kw_only=True)
class ConfidentLearning:
    """What cleanlab says of the labels.

    Attributes:
        suspicion: Higher is more suspect, float64 (samples,).
        suspects: Which it takes for wrong, most suspect first.
    """

    suspicion: Tensor
    suspects: list[int]


def confident_learning(given: Tensor, out_of_fold: Tensor) -> ConfidentLearning:
    """Confident learning on out-of-fold probabilities, with cleanlab's defaults and its normalised margin.

    Args:
        given: Labels, int64 (samples,).
        out_of_fold: Probabilities, (samples, classes).

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021; library cleanlab.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise Unsupported(f"Confident learning comes from cleanlab, which is not there ({error}). {INSTALL}") from error
    labels, probabilities = given.numpy(), out_of_fold.double().numpy()
    quality = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    issues = find_label_issues(labels, probabilities, return_indices_ranked_by="normalized_margin", n_jobs=1)
    return ConfidentLearning(suspicion=torch.from_numpy(-np.asarray(quality, np.float64)), suspects=issues.tolist())


def influence_functions(
    run: Recording, asked: Query, *, damping: float, iterations: int, matrix_samples: int | None = None
) -> Tensor:
    """Influence of every training sample on every scalar of a query at the final weights, float64 (queries, samples).

    Sign and unit of a contribution: gradient of the sample, inverse damped Gauss-Newton matrix of the training set,
    gradient of the query, over the number of samples.

    Args:
        run: The recorded run.
        asked: The query.
        damping: Added to the matrix's diagonal.
        iterations: Of conjugate gradients, at most.
        matrix_samples: How many training samples the matrix is averaged over, drawn with a fixed seed; all if None.

    Source: Koh and Liang, ICML 2017; products with the matrix by curvlinops, conjugate gradients by scipy.
    """
    damped = damped_gauss_newton(run, run.trained_model(), damping, matrix_samples)
    directions = []
    gradients = _gradients(run, run.final, asked)
    with differentiable_kernels(), bar("influence functions", len(gradients), unit="queries") as progress:
        for gradient in gradients:
            direction, _ = cg(damped, gradient.cpu().double().numpy(), maxiter=iterations, rtol=1e-4)
            directions.append(torch.from_numpy(direction).to(gradient))
            progress.advance()
    length: int = run.manifest.data["length"]
    return _along(run, run.final, torch.stack(directions)) / length


def damped_gauss_newton(
    run: Recording, model: nn.Module, damping: float, matrix_samples: int | None = None
) -> LinearOperator:
    """The training set's mean Gauss-Newton matrix of a model with cross-entropy, plus damping times the identity.

    Args:
        run: Has the training set.
        model: At the weights in question, in eval mode.
        damping: Added to the matrix's diagonal.
        matrix_samples: How many training samples the matrix is averaged over, drawn with a fixed seed; all if None.

    Raises:
        Unsupported: curvlinops is not there.
    """
    try:
        from curvlinops import GGNLinearOperator
    except ImportError as error:
        raise Unsupported(f"Influence functions need curvlinops, which is not there ({error}). {INSTALL}") from error
    parameters = list(model.requires_grad_(True).parameters())
    assert isinstance(run.train_set, TensorDataset)
    data = list(_batches(run.train_set, run.device, matrix_samples))
    matrix = GGNLinearOperator(model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False).to_scipy()
    return LinearOperator(matrix.shape, lambda vector: matrix @ vector.astype(np.float32) + damping * vector)


def tracin(run: Recording, asked: Query, *, points: int = 10) -> Tensor:
    """Sum over checkpoints of rate x (gradient of the sample . gradient of the query), float64 (queries, samples).

    Source: Pruthi et al., NeurIPS 2020, TracInCP.
    """
    starts = [start for start, _ in run.segments]
    chosen = sorted({starts[int(place)] for place in np.linspace(0, len(starts) - 1, points)})
    parts = []
    with bar("TracIn", len(chosen), unit="checkpoints") as progress:
        for step in chosen:
            checkpoint = run.checkpoint(step)
            rate = float(run.steps[step].options[0]["lr"] or 0)
            parts.append(rate * _along(run, checkpoint, _gradients(run, checkpoint, asked)))
            progress.advance()
    return torch.stack(parts).sum(0)


def _gradients(run: Recording, at: Checkpoint, asked: Query) -> Tensor:
    """Gradients of the query's scalars at a checkpoint, (queries, parameters)."""
    # In the model's order, as `_along` and the matrix have it; a checkpoint's is the file's.
    layout = Layout({name: value.shape for name, value in run.model.named_parameters()})
    point = replace(
        query_point(run, layout, Layout({})),
        parameters={name: value.to(run.device) for name, value in at.parameters.items()},
        buffers={name: value.to(run.device) for name, value in at.buffers.items()},
    )
    with preserved():
        return torch.stack([row.w_bar for row in asked.rows(point)])


def _along(run: Recording, at: Checkpoint, directions: Tensor) -> Tensor:
    """Derivatives of every training sample's loss along directions (queries, parameters), (queries, samples)."""
    problem = LossModule(run.model, run.loss)
    problem.eval()
    # A checkpoint's parameters come in the file's order; the direction is in the model's.
    parameters = {name: at.parameters[name].to(run.device) for name, _ in run.model.named_parameters()}
    layout = Layout({name: value.shape for name, value in parameters.items()})
    buffers = {name: value.to(run.device) for name, value in at.buffers.items()}
    views = layout.views(directions)
    dots = None if why_not_hooks(problem.model) else LayerDots(problem.model, views, dict.fromkeys(views, 0))
    length, parts = run.manifest.data["length"], []
    for start in range(0, length, CHUNK):
        some = range(start, min(length, start + CHUNK))
        batch = Batch(run.collate(some), len(some), 0)
        if dots is None:
            given = (problem, layout, parameters, buffers, batch, directions)
            found = directional_derivatives(*given, at_once=True).losses_dot
        else:
            dots.begin(len(some), directions)
            weights = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            problem.at(weights, buffers, batch)[0].sum().backward()
            found = dots.totals[0]
        parts.append(found.double().cpu())
    return torch.cat(parts, dim=1)


def _batches(data: TensorDataset, device: torch.device, samples: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = data.tensors
    chosen = torch.arange(len(data))
    if samples is not None and samples < len(data):
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:samples]
    for part in chosen.split(CHUNK):
        yield images[part].to(device), labels[part].to(device)
