"""labels=True: what each sample would contribute under every label, at an unchanged trajectory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

import hydragrad as hg
from attribution import oracle
from case_models import cross_entropy_loss, mlp, two_calls_loss, vectors
from cases import SAMPLES, Case
from hydragrad.errors import LossError, QueryError

NAMES = ["mlp-two_groups", "mlp-maximize", "mlp-sum", "dropout-all", "tied-all", "two_inputs-all", "batch_norm-all"]


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("name", NAMES)
def test_label_contributions_are_recomputed_with_that_label(name, curvature, recorded):
    case = Case(*name.split("-"))
    samples, classes = [1, 6, 13], case.model.classes
    columns = [(sample, label) for sample in samples for label in range(classes)]
    carried = oracle.tangents(case, columns, curvature=curvature)
    query = oracle.mean_loss(case, case.held_out)
    statistics = bool(carried.r_dot) and curvature != "none"
    expected = carried.differences(query) if statistics else carried.contributions(query)
    scores = hg.attribute(
        recorded(case), hg.mean_loss(case.held_out), curvature=curvature, samples=samples, labels=True
    )
    assert scores.label_contributions.shape == (1, 3, classes)
    assert scores.label_contributions.dtype == torch.float64
    given = scores.label_contributions.flatten()
    assert oracle.relative(given, expected) < (1e-6 if statistics else 1e-10)


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("name", NAMES)
def test_the_given_labels_column_is_the_contribution(name, curvature, recorded):
    case = Case(*name.split("-"))
    queries = [hg.mean_loss(case.held_out), hg.sample_losses(case.held_out, [0, 1])]
    scores = hg.attribute(recorded(case), queries, curvature=curvature, labels=True)
    plain = hg.attribute(recorded(case), queries, curvature=curvature)
    labels = given_labels(case)
    column = scores.label_contributions[:, torch.arange(SAMPLES), labels]
    assert oracle.relative(column, scores.values) < 1e-12
    assert oracle.relative(scores.values, plain.values) < 1e-12
    assert plain.label_contributions is None


def test_the_best_label_is_the_largest_contribution(recorded):
    case = Case("mlp", "all")
    scores = hg.attribute(recorded(case), hg.mean_loss(case.held_out), labels=True)
    assert scores.suggested_labels().tolist() == scores.label_contributions[0].argmax(1).tolist()
    assert scores.evidence.route == "jvp"
    with pytest.raises(QueryError, match=r"no label contributions.*labels=True"):
        hg.attribute(recorded(case), hg.mean_loss(case.held_out)).suggested_labels()


def given_labels(case: Case) -> torch.Tensor:
    items = [case.train_set[i] for i in range(SAMPLES)]
    return torch.stack([item["label"] if isinstance(item, dict) else item[1] for item in items])


# --- losses for which there is no such thing


def smoothed(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none", label_smoothing=0.1)


def weighted(model, batch):
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    return F.cross_entropy(model(batch[0]), batch[1], weight=weight, reduction="none")


def one_hot_squares(model, batch):
    return (model(batch[0]) - F.one_hot(batch[1], 3)).square().mean(1)


def around_the_call(model, batch):
    return F.cross_entropy(model.forward(batch[0]), batch[1], reduction="none")


def scaled_logits(model, batch):
    return F.cross_entropy(2.0 * model(batch[0]), batch[1], reduction="none")


class Tupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return self.inner(x), x


def tupled(model, batch):
    return F.cross_entropy(model(batch[0])[0], batch[1], reduction="none")


def quick_run(path, model, loss, train_set) -> hg.Recording:
    model = model.double()
    optimizer = SGD(model.parameters(), lr=0.1)
    return hg.train(model, loss, train_set, optimizer, epochs=2, batch_size=4, out=path)


NOT_PLAIN = "plain cross-entropy .no smoothing, no class weights."
REFUSED = {
    "smoothing": (mlp, smoothed, NOT_PLAIN),
    "class weights": (mlp, weighted, NOT_PLAIN),
    "squares of integers": (mlp, one_hot_squares, NOT_PLAIN),
    "scaled logits": (mlp, scaled_logits, NOT_PLAIN),
    "two calls": (mlp, two_calls_loss, "was called 2 times"),
    "no call": (mlp, around_the_call, "was called 0 times"),
    "a tuple": (Tupled, tupled, "returned a tuple"),
}


@pytest.mark.parametrize("curvature", ["none", "hessian"])
@pytest.mark.parametrize("name", REFUSED)
def test_losses_without_labels_are_refused(name, curvature, tmp_path):
    build, loss, message = REFUSED[name]
    run = quick_run(tmp_path / "run", build(), loss, vectors(4)(8, 1))
    query = hg.mean_loss(vectors(4)(4, 2))
    with pytest.raises(LossError, match=message):
        hg.attribute(run, query, curvature=curvature, labels=True)
    assert hg.attribute(run, query, curvature=curvature).values.abs().min() > 0


def test_losses_without_integer_labels_are_refused(recorded):
    case = Case("regression", "all")
    with pytest.raises(LossError, match=r"integer labels of shape \(batch,\) in the batch"):
        hg.attribute(recorded(case), hg.mean_loss(case.held_out), labels=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_calls-all", "calls the model once and gets one tensor; here the model was called 2 times"),
        ("penalised-all", "depends on the parameters through the model's output alone"),
    ],
)
def test_gauss_newton_needs_the_loss_to_see_the_output_alone(name, message, recorded):
    case = Case(*name.split("-"))
    with pytest.raises(LossError, match=message):
        hg.attribute(recorded(case), hg.mean_loss(case.held_out), curvature="ggn")


def test_gauss_newton_takes_any_loss_of_the_output(tmp_path):
    """Smoothing, class weights and scaled logits are no obstacle: only labels need plain cross-entropy."""
    for name, loss in (("smoothed", smoothed), ("weighted", weighted), ("plain", cross_entropy_loss)):
        run = quick_run(tmp_path / name, nn.Linear(4, 3), loss, vectors(4)(8, 1))
        query = hg.mean_loss(vectors(4)(4, 2))
        ggn, hessian = (hg.attribute(run, query, curvature=c).values for c in ("ggn", "hessian"))
        assert oracle.relative(ggn, hessian) < 1e-12
