"""Rankings that others propose, from a maintained library where there is one: cleanlab.

They get what our own rankings get: the same run, and the same clean held-out data.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hydragrad.attribution.influence import query_gradients
from hydragrad.attribution.losses_along import losses_along
from hydragrad.errors import Unsupported
from hydragrad.progress import bar
from hydragrad.replay import Recording
from hydragrad.replay.checkpoint_spread import spread_steps
from hydragrad.replay.histories import trained_layout
from hydragrad.scores import Query

INSTALL = "Install what the studies compare with: pip install 'hydragrad[studies]'."


@dataclass(frozen=True, kw_only=True)
class ConfidentLearning:
    """What cleanlab says of the labels.

    Attributes:
        suspicion: Higher is more suspect, float64 (samples,).
        suspects: Samples whose labels it considers wrong, most suspect first.
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
        raise Unsupported(f"Confident learning needs cleanlab, which is not installed ({error}). {INSTALL}") from error
    labels, probabilities = given.numpy(), out_of_fold.double().numpy()
    quality = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    issues = find_label_issues(labels, probabilities, return_indices_ranked_by="normalized_margin", n_jobs=1)
    return ConfidentLearning(suspicion=torch.from_numpy(-np.asarray(quality, np.float64)), suspects=issues.tolist())


def tracin(run: Recording, query: Query, *, points: int = 10) -> Tensor:
    """Sum over checkpoints of rate x (gradient of the sample . gradient of the query), float64 (queries, samples).

    Source: Pruthi et al., NeurIPS 2020, TracInCP.
    """
    layout, steps = trained_layout(run), spread_steps(run, points, at="starts")
    parts = []
    with bar("TracIn", len(steps), unit="checkpoints") as progress:
        for step in steps:
            checkpoint = run.checkpoint(step)
            rate = float(run.steps[step].options[0]["lr"] or 0)
            gradients = query_gradients(run, layout, checkpoint, query)
            parts.append(rate * losses_along(run, layout, checkpoint, gradients))
            progress.advance()
    return torch.stack(parts).sum(0)
