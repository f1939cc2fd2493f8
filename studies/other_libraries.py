"""Score matrices (queries, samples) of captum, dattri and traker, each from its own package, if it is installed.

All get the same network, training samples and checkpoints; the queries are the losses of single test samples, and
positive helps. They install next to torch without what they ask for beyond it:
`pip install --no-deps captum dattri traker`.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

BATCH, COLUMNS = 64, 512
State = Mapping[str, Tensor]
Matrix = Callable[[nn.Module, Sequence[State], TensorDataset, TensorDataset, float], Tensor]
"""Network, states along the training, training and test samples, learning rate to (tests, samples)."""


def captum_tracin(
    model: nn.Module, states: Sequence[State], train: TensorDataset, tests: TensorDataset, rate: float
) -> Tensor:
    """Sum rate x gradient products over the checkpoints: TracInCP, all layers."""
    from captum.influence import TracInCP

    def load(model: nn.Module, number: int) -> float:
        model.load_state_dict(states[number])
        return rate

    attributor = TracInCP(
        model,
        train,
        list(range(len(states))),
        load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=BATCH,
        sample_wise_grads_per_batch=True,
    )
    scores: Tensor = attributor.influence(tests.tensors)
    return scores.detach()


def dattri_tracin(
    model: nn.Module, states: Sequence[State], train: TensorDataset, tests: TensorDataset, rate: float
) -> Tensor:
    """Sum rate x gradient products over the checkpoints, gradients projected as by default."""
    from dattri.algorithm import TracInAttributor

    attributor = TracInAttributor(_task(model, states), torch.full((len(states),), rate), normalized_grad=False)
    return _attributed(attributor, train, tests)


def dattri_trak(
    model: nn.Module, states: Sequence[State], train: TensorDataset, tests: TensorDataset, rate: float
) -> Tensor:
    """TRAK over the checkpoints."""
    from dattri.algorithm import TRAKAttributor

    def probability(params: Any, sample: Any) -> Tensor:
        image, label = sample
        return torch.exp(-F.cross_entropy(functional_call(model, params, image[None]), label[None]))

    attributor = TRAKAttributor(_task(model, states), probability, projector_kwargs={"proj_dim": COLUMNS})
    attributor.cache(DataLoader(train, batch_size=BATCH))
    return _attributed(attributor, None, tests)


def traker(
    model: nn.Module, states: Sequence[State], train: TensorDataset, tests: TensorDataset, rate: float
) -> Tensor:
    """TRAK over the checkpoints; its matrix is about the log-odds of the right label."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    width = sum(parameter.numel() for parameter in model.parameters())
    projector = BasicProjector(width, COLUMNS, 0, ProjectionType.rademacher, torch.device("cpu"))
    with TemporaryDirectory() as folder:
        tracer = TRAKer(
            model.eval(),
            "image_classification",
            len(train),
            save_dir=str(Path(folder) / "trak"),
            device="cpu",
            projector=projector,
            proj_dim=COLUMNS,
            use_half_precision=False,
            logging_level=40,
        )
        for number, state in enumerate(states):
            tracer.load_checkpoint(dict(state), model_id=number)
            for batch in DataLoader(train, batch_size=BATCH):
                tracer.featurize(batch, num_samples=len(batch[0]))
        tracer.finalize_features()
        for number, state in enumerate(states):
            tracer.start_scoring_checkpoint("tests", dict(state), number, num_targets=len(tests))
            for batch in DataLoader(tests, batch_size=BATCH):
                tracer.score(batch, num_samples=len(batch[0]))
        # What raises the odds of the right label lowers its loss.
        return torch.as_tensor(tracer.finalize_scores("tests")).T.clone()


def _task(model: nn.Module, states: Sequence[State]) -> Any:
    from dattri.task import AttributionTask

    def sample_loss(params: Any, sample: Any) -> Tensor:
        image, label = sample
        return F.cross_entropy(functional_call(model, params, image[None]), label[None])

    return AttributionTask(sample_loss, model, [dict(state) for state in states])


def _attributed(attributor: Any, train: TensorDataset | None, tests: TensorDataset) -> Tensor:
    loaders = [DataLoader(part, batch_size=BATCH) for part in (train, tests) if part is not None]
    scores: Tensor = attributor.attribute(*loaders)
    return scores.detach().T


LIBRARIES: dict[str, tuple[str, Matrix]] = {
    "captum, TracInCP": ("captum", captum_tracin),
    "dattri, TracIn": ("dattri", dattri_tracin),
    "dattri, TRAK": ("dattri", dattri_trak),
    "traker, TRAK": ("trak", traker),
}


def installed() -> dict[str, Matrix]:
    """Return the methods whose library is there."""
    return {name: matrix for name, (package, matrix) in LIBRARIES.items() if find_spec(package) is not None}
