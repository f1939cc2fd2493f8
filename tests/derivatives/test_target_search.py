"""Which leaf is the target: values, several labels and positions, found from what the loss does with it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hydragrad.derivatives import find_target
from hydragrad.errors import LossError

SIZE, CLASSES, LENGTH = 12, 3, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zeros_and_ones(*shape):
    return (normal(*shape, seed=2) > 0).double()


X, WEIGHT = normal(SIZE, 4), normal(SIZE, seed=5).abs() + 0.1
CLASS_AT = (normal(SIZE, LENGTH, seed=3).abs() * 1.5).long().clamp(max=CLASSES - 1)
PADDED = CLASS_AT.masked_fill(torch.arange(LENGTH) >= 3, -100)


def linear(outputs):
    torch.manual_seed(0)
    return nn.Linear(4, outputs).double()


class AtPositions(nn.Module):
    """Logits (batch, positions, classes), or with the classes second."""

    def __init__(self, *, second):
        super().__init__()
        self.layer, self.second = linear(LENGTH * CLASSES), second

    def forward(self, x):
        logits = self.layer(x).reshape(len(x), LENGTH, CLASSES)
        return logits.movedim(-1, 1) if self.second else logits


def mean(losses):
    return losses.flatten(1).mean(1)


def by_position(logits, target, **options):
    return F.cross_entropy(logits, target, reduction="none", **options).mean(1)


def shifted(logits, target):
    return by_position(logits[:, :-1].movedim(-1, 1), target[:, 1:])


VALUES = {
    "squares": lambda m, b: (m(b[1])[:, 0] - b[2]).square(),
    "weighted squares": lambda m, b: b[0] * (m(b[1])[:, 0] - b[2]).square(),
    "absolute": lambda m, b: (m(b[1])[:, 0] - b[2]).abs(),
    "huber": lambda m, b: F.huber_loss(m(b[1])[:, 0], b[2], reduction="none"),
    "log cosh": lambda m, b: (m(b[1])[:, 0] - b[2]).cosh().log(),
}


@pytest.mark.parametrize("loss", VALUES.values(), ids=VALUES)
def test_values_are_found_among_weights_and_inputs(loss):
    model = linear(1)
    target = find_target(model, lambda b: loss(model, b), [(WEIGHT, X, normal(SIZE, seed=1))])
    assert (target.kind, target.name, target.leaf) == ("values", "[2]", 2)


def test_counts_are_values_and_so_are_several_columns():
    model = linear(1)
    data = {"x": X, "age": (normal(SIZE, seed=1) * 9).round().long()}
    target = find_target(model, lambda b: (model(b["x"])[:, 0] - b["age"]).square(), [data])
    assert (target.kind, target.name) == ("values", "['age']")
    wide = linear(2)
    data = (X, normal(SIZE, 2, seed=1))
    assert find_target(wide, lambda b: mean((wide(b[0]) - b[1]).square()), [data]).kind == "values"


def bounded(probabilities, target):
    """Binary cross-entropy as a GPU computes it: what is no probability must not reach it."""
    assert bool(((probabilities >= 0) & (probabilities <= 1)).all()) and bool(((target >= 0) & (target <= 1)).all())
    return F.binary_cross_entropy(probabilities, target, reduction="none")


@pytest.mark.parametrize("kind", ["values", "multi-label"])
def test_no_loss_of_probabilities_gets_anything_else(kind):
    model, seen = nn.Sequential(linear(CLASSES), nn.Sigmoid()), []

    def loss(data):
        probabilities = model(data[0])
        seen.append(bool(((probabilities >= 0) & (probabilities <= 1)).all()))
        return mean(bounded(probabilities, data[1]))

    target = normal(SIZE, CLASSES, seed=1).sigmoid() if kind == "values" else zeros_and_ones(SIZE, CLASSES)
    found = find_target(model, loss, [(X, target)])
    assert found.kind == kind and found.counted(model, loss, (X, target)).all()
    assert len(seen) > 5 and all(seen)


SCALED = {
    "another scale": lambda m, b: (m(b[0])[:, 0] - b[1] / 7).square(),
    "poisson": lambda m, b: F.poisson_nll_loss(m(b[0])[:, 0], b[1].abs(), reduction="none"),
    "quantile": lambda m, b: torch.maximum(0.9 * (b[1] - m(b[0])[:, 0]), 0.1 * (m(b[0])[:, 0] - b[1])),
    "nothing": lambda m, b: m(b[0])[:, 0].square(),
    "two calls": lambda m, b: (m(b[0])[:, 0] + m(b[0])[:, 0] - b[1]).square(),
}


@pytest.mark.parametrize("loss", SCALED.values(), ids=SCALED)
def test_values_whose_residual_would_mean_nothing_are_refused(loss):
    model = linear(1)
    with pytest.raises(LossError, match="no tensor of the batch behaves as one"):
        find_target(model, lambda b: loss(model, b), [(X, normal(SIZE, seed=1))])


def test_the_same_numbers_twice_are_told_apart():
    model, y = linear(1), normal(SIZE, seed=1)
    target = find_target(model, lambda b: (model(b[0])[:, 0] - b[2]).square(), [(X, y, y.clone())])
    assert target.name == "[2]"


MULTI_LABEL = {
    "cross-entropy": (lambda m, b: mean(bce(m(b[0]), b[1])), False),
    "one class": (lambda m, b: bce(m(b[0])[:, 0], b[1][:, 0]), False),
    "class weights": (lambda m, b: mean(bce(m(b[0]), b[1], pos_weight=torch.tensor([2.0, 9.0, 0.3]))), False),
    "margin": (lambda m, b: mean((1 - (2 * b[1] - 1) * m(b[0])).clamp(min=0)), False),
    "probabilities": (lambda m, b: mean(F.binary_cross_entropy(m(b[0]), b[1], reduction="none")), True),
    "squares of probabilities": (lambda m, b: mean((m(b[0]) - b[1]).square()), True),
}


def bce(logits, target, **options):
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none", **options)


@pytest.mark.parametrize(("loss", "probabilities"), MULTI_LABEL.values(), ids=MULTI_LABEL)
def test_several_labels_are_told_from_values(loss, probabilities):
    model = nn.Sequential(linear(CLASSES), nn.Sigmoid()) if probabilities else linear(CLASSES)
    labels = zeros_and_ones(SIZE, CLASSES)
    if loss is MULTI_LABEL["one class"][0]:
        model, labels = linear(1), labels[:, :1]
    target = find_target(model, lambda b: loss(model, b), [(X, labels)])
    assert (target.kind, target.leaf, target.probabilities) == ("multi-label", 1, probabilities)


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    model = nn.Sequential(linear(CLASSES), nn.Sigmoid())
    data = (X, zeros_and_ones(SIZE, CLASSES))
    target = find_target(model, lambda b: mean(bce(model(b[0]), b[1])), [data])
    assert (target.kind, target.probabilities) == ("multi-label", False)


def test_squares_of_0_and_1_by_a_linear_output_are_values():
    model, labels = linear(CLASSES), zeros_and_ones(SIZE, CLASSES)
    assert find_target(model, lambda b: mean((model(b[0]) - b[1]).square()), [(X, labels)]).kind == "values"


POSITIONS = {
    "classes second": (AtPositions(second=True), CLASS_AT, by_position, (1, 0)),
    "classes last": (AtPositions(second=False), CLASS_AT, lambda z, y: by_position(z.movedim(-1, 1), y), (-1, 0)),
    "padded": (AtPositions(second=True), PADDED, by_position, (1, 0)),
    "smoothed": (AtPositions(second=True), CLASS_AT, lambda z, y: by_position(z, y, label_smoothing=0.1), (1, 0)),
    "the next token": (AtPositions(second=False), CLASS_AT, shifted, (-1, 1)),
}


@pytest.mark.parametrize(("model", "labels", "loss", "expected"), POSITIONS.values(), ids=POSITIONS)
def test_classes_at_positions_are_found_wherever_the_classes_stand(model, labels, loss, expected):
    target = find_target(model, lambda b: loss(model(b[0]), b[1]), [(X, labels)])
    assert (target.kind, target.leaf, target.classes, target.shift) == ("positions", 1, *expected)


def test_what_the_loss_leaves_out_does_not_count():
    model, mask = AtPositions(second=True), normal(SIZE, LENGTH, seed=7) > 0
    masked = lambda b: (F.cross_entropy(model(b[0]), b[1], reduction="none") * b[2]).mean(1)  # noqa: E731
    data = (X, CLASS_AT, mask)
    target = find_target(model, masked, [data])
    assert torch.equal(target.counted(model, masked, data), mask)
    padded = lambda b: by_position(model(b[0]), b[1])  # noqa: E731
    assert torch.equal(target.counted(model, padded, (X, PADDED)), PADDED >= 0)
    values = linear(2)
    weights = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double().repeat(SIZE // 2, 1)
    weighted = lambda b: mean(b[2] * (values(b[0]) - b[1]).square())  # noqa: E731
    data = (X, normal(SIZE, 2, seed=1), weights)
    target = find_target(values, weighted, [data])
    assert torch.equal(target.counted(values, weighted, data), weights > 0)


def test_a_batch_of_another_shape_is_refused():
    model, data = linear(2), (X, normal(SIZE, 2, seed=1))
    target = find_target(model, lambda b: mean((model(b[0]) - b[1]).square()), [data])
    assert torch.equal(target.of(data, model(X)), data[1])
    with pytest.raises(LossError, match=r"the shape of what the model returns, \(12, 2\); tensor \[1\] of this batch"):
        target.of((X, normal(SIZE, 3)), model(X))


def test_a_batch_that_shows_nothing_is_passed_over():
    model, same = linear(1), torch.ones(SIZE, dtype=torch.float64)
    loss = lambda b: (model(b[0])[:, 0] - b[1]).square()  # noqa: E731
    assert find_target(model, loss, [(X, same), (X, normal(SIZE, seed=1))]).kind == "values"
    with pytest.raises(LossError, match="no tensor of the batch behaves as one"):
        find_target(model, loss, [(X, same)])


def test_two_targets_are_refused():
    model, y = linear(1), normal(SIZE, seed=1)

    def both(data):
        output = model(data[0])[:, 0]
        return sum(F.huber_loss(output, part, reduction="none") for part in data[1:])

    with pytest.raises(LossError, match=r"compares the output with \[1\] and \[2\]"):
        find_target(model, both, [(X, y, y.clone())])
