"""Which leaf is the label: found from what the loss does with it, whatever stands around it."""

from collections import OrderedDict, UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hydragrad.derivatives import find_label, probes
from hydragrad.errors import LossError

SIZE, CLASSES = 12, 3


@pytest.fixture
def x(generator):
    return torch.randn(SIZE, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def model(generator):
    layer = nn.Linear(4, CLASSES).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layer.requires_grad_(False)


Y = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2])
GROUP = torch.tensor([1, 1, 0, 2, 0, 1, 2, 0, 0, 2, 1, 1])


def cross_entropy(logits, labels, **options):
    return F.cross_entropy(logits, labels, reduction="none", **options)


def focal(logits, labels):
    losses = cross_entropy(logits, labels)
    return (1 - (-losses).exp()) ** 2 * losses


def in_place_margin(logits, labels):
    logits[torch.arange(len(labels)), labels] -= 0.5
    return cross_entropy(logits, labels)


LOSSES = {
    "plain": cross_entropy,
    "smoothed": lambda z, y: cross_entropy(z, y, label_smoothing=0.1),
    "class weights": lambda z, y: cross_entropy(z, y, weight=torch.tensor([1.0, 2.0, 0.0]).double()),
    "scaled": lambda z, y: cross_entropy(3 * z, y),
    "focal": focal,
    "margin": lambda z, y: F.multi_margin_loss(z, y, reduction="none"),
    "margin in place": in_place_margin,
    "squares": lambda z, y: (z - F.one_hot(y, CLASSES)).square().mean(1),
    "columns": lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, CLASSES).to(z), reduction="none").mean(
        1
    ),
}
SOFTMAX = {"plain", "smoothed", "class weights", "scaled", "focal", "margin", "margin in place"}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_of_classes_shows_its_label_among_groups_copies_and_indices(name, model, x):
    def loss(model, batch):
        return LOSSES[name](model(batch[0]), batch[3])

    batch = [x, GROUP, Y.clone(), Y, torch.arange(SIZE), torch.zeros(SIZE, dtype=torch.int64)]
    label = find_label(model, lambda data: loss(model, data), [batch])
    assert (label.leaf, label.name, label.classes, label.one_hot) == (3, "[3]", CLASSES, False)
    assert label.softmax == (name in SOFTMAX)
    assert label.of(batch).tolist() == Y.tolist()


BATCHES = {
    "x, y, index": (lambda x, y: (x, y, torch.arange(SIZE)), lambda b: (b[0], b[1]), "[1]"),
    "x, length, y": (lambda x, y: (x, GROUP, y), lambda b: (b[0], b[2]), "[2]"),
    "index, x, y": (lambda x, y: (torch.arange(SIZE), x, y), lambda b: (b[1], b[2]), "[2]"),
    "x, (y, meta)": (lambda x, y: [x, [y, {"site": GROUP, "names": ["a"]}]], lambda b: (b[0], b[1][0]), "[1][0]"),
    "a dict": (lambda x, y: {"id": GROUP, "y": y, "x": x}, lambda b: (b["x"], b["y"]), "['y']"),
    "int32": (lambda x, y: [x, y.int()], lambda b: (b[0], b[1].long()), "[1]"),
    "uint8": (lambda x, y: [x, y.to(torch.uint8)], lambda b: (b[0], b[1]), "[1]"),
    "uint16": (lambda x, y: [x, y.to(torch.uint16)], lambda b: (b[0], b[1].long()), "[1]"),
    "half floats": (lambda x, y: [x, y.half(), GROUP.to(torch.uint32)], lambda b: (b[0], b[1].long()), "[1]"),
    "one-hot bytes": (
        lambda x, y: [x, F.one_hot(y).to(torch.uint16), GROUP > 1],
        lambda b: (b[0], b[1].long().argmax(1)),
        "[1]",
    ),
    "whole floats": (lambda x, y: [x, y.double()], lambda b: (b[0], b[1].long()), "[1]"),
    "a column": (lambda x, y: [x, y[:, None]], lambda b: (b[0], b[1][:, 0]), "[1]"),
    "one-hot rows": (lambda x, y: [x, F.one_hot(y).double(), GROUP], lambda b: (b[0], b[1]), "[1]"),
    "one-hot integers": (lambda x, y: [x, F.one_hot(y)], lambda b: (b[0], b[1].argmax(1)), "[1]"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_label_is_found_wherever_it_stands_and_whatever_its_dtype(name, model, x):
    make, take, place = BATCHES[name]

    def loss(data):
        inputs, labels = take(data)
        return cross_entropy(model(inputs), labels)

    batch = make(x, Y)
    label = find_label(model, loss, [batch])
    assert label.name == place and label.softmax
    assert label.of(batch).tolist() == Y.tolist()
    wanted = torch.full((SIZE,), -1)
    wanted[[1, 4]] = torch.tensor([0, 2])
    changed, expected = label.replaced(batch, wanted), torch.where(wanted < 0, Y, wanted)
    assert label.of(changed).tolist() == expected.tolist()
    assert label.of(batch).tolist() == Y.tolist()
    torch.testing.assert_close(loss(changed), cross_entropy(model(x), expected), rtol=1e-12, atol=0)


def test_one_tensor_that_stands_twice_in_a_batch_is_one_label(model, x):
    batch = [x, Y, Y]
    label = find_label(model, lambda data: cross_entropy(model(data[0]), data[1]), [batch])
    changed = label.replaced(batch, torch.where(torch.arange(SIZE) == 1, 0, -1))
    assert label.name == "[1]" and changed[1][1] == changed[2][1] == 0 and Y[1] == 2


def test_a_loss_that_takes_its_batch_apart_is_given_copies(model, x):
    batch = {"x": x, "id": GROUP, "labels": Y}
    label = find_label(model, lambda data: cross_entropy(model(data["x"]), data.pop("labels")), [batch])
    assert label.name == "['labels']" and list(batch) == ["x", "id", "labels"]


class Lengths(nn.Module):
    """Its output depends on an integer input, which must be sorted; its logits stand in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES).double()

    def forward(self, x, lengths):
        assert (lengths.diff() >= 0).all()
        hidden = x / (1 + lengths[:, None])
        return OrderedDict(hidden=hidden, logits=self.layer(hidden))


def test_inputs_of_the_model_are_no_labels_and_it_is_called_once(x):
    model, calls = Lengths(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    lengths = GROUP.sort().values
    label = find_label(model, lambda data: cross_entropy(model(data[0], data[1])["logits"], data[2]), [[x, lengths, Y]])
    assert label.name == "[2]" and label.classes == CLASSES
    assert "forward" not in vars(model)
    assert model(x, lengths)["logits"].requires_grad


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_leaves_of_any_kind_may_stand_next_to_the_label(model, x):
    ragged = [torch.ones(1 + i % 2) for i in range(SIZE)]
    nested = torch.nested.nested_tensor(ragged, layout=torch.jagged)
    others = [nested, x.to_sparse(), x.cfloat(), torch.tensor(2), torch.empty(0), (x > 0)[:, :CLASSES], x / 0]
    batch = [*others, Y, x]
    assert find_label(model, lambda data: cross_entropy(model(data[8]), data[7]), [batch]).name == "[7]"
    batch[0] = torch.nested.nested_tensor(ragged)
    with pytest.raises(LossError, match=r"this one can't be copied .*tensors in lists, tuples or dicts"):
        find_label(model, lambda data: cross_entropy(model(data[8]), data[7]), [batch])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 4).double())])
def test_models_of_other_kinds_are_held_and_left_as_they_were(wrap, model, x):
    model = wrap(model)
    before = model(x)
    for _ in range(2):
        assert find_label(model, lambda data: cross_entropy(model(data[0]), data[2]), [[x, GROUP, Y]]).name == "[2]"
    assert torch.equal(model(x), before)


def test_a_loss_that_draws_is_given_the_same_draws(model, x):
    def mixed_up(data):
        share = 0.5 + np.random.beta(2, 2) / 2
        other = torch.randperm(SIZE)
        logits = model(share * data[0] + (1 - share) * data[0][other])
        return share * cross_entropy(logits, data[1]) + (1 - share) * cross_entropy(logits, data[1][other])

    state = np.random.get_state()[1].tolist()
    assert find_label(model, mixed_up, [[x, Y, GROUP]]).name == "[1]"
    assert np.random.get_state()[1].tolist() == state


def test_weights_by_group_are_no_labels(model, x):
    weights = torch.tensor([0.5, 2.0, 3.0]).double()
    batch = [x, Y, GROUP]
    label = find_label(model, lambda data: weights[data[2]] * cross_entropy(model(data[0]), data[1]), [batch])
    assert label.name == "[1]"


def test_equal_logits_tell_labels_apart_all_the_same(x):
    model = nn.Linear(4, CLASSES).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    label = find_label(model, lambda data: cross_entropy(model(data[0]), data[2]), [[x, GROUP, Y]])
    assert label.name == "[2]"


def test_a_model_that_is_sure_has_a_label(x):
    model = nn.Linear(4, CLASSES).float().requires_grad_(False)
    model.weight.zero_()
    labels = torch.arange(SIZE) % CLASSES

    def loss(data):
        return cross_entropy(model(data[0].float()) + 200 * F.one_hot(labels), data[2])

    assert find_label(model, loss, [[x, GROUP, labels]]).name == "[2]"


def test_data_of_one_class_have_a_label(model, x):
    zeros = torch.zeros(SIZE, dtype=torch.int64)
    for loss in (cross_entropy, LOSSES["smoothed"]):
        label = find_label(model, lambda data, loss=loss: loss(model(data[0]), data[2]), [[x, zeros, zeros + 2]])
        assert label.name == "[2]"


def test_a_model_of_one_class_has_a_label(x):
    model = nn.Linear(4, 1).double()
    zeros = torch.zeros(SIZE, dtype=torch.int64)
    label = find_label(model, lambda data: cross_entropy(model(data[0]), data[1]), [[x, zeros]])
    assert label.name == "[1]" and label.classes == 1
    with pytest.raises(LossError, match="Exactly one tensor"):
        find_label(model, lambda data: cross_entropy(model(data[0]), data[1]), [[x, zeros, zeros]])


def test_further_batches_are_looked_at_until_everything_was_tried(model, x):
    ignored = torch.full((SIZE,), -100)
    seen = []

    def loss(data):
        seen.append(data)
        return cross_entropy(model(data[0]), data[1])

    assert find_label(model, loss, [[x, ignored], [x, Y], [x, Y]]).name == "[1]"
    assert len(seen) == 3  # one evaluation of the first batch, two of the second


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colour, self.shape = nn.Linear(4, CLASSES).double(), nn.Linear(4, 2).double()

    def forward(self, x):
        return self.colour(x), self.shape(x)


def two_losses(model, data):
    colour, shape = model(data["x"])
    return cross_entropy(colour, data["colour"]) + cross_entropy(shape, data["shape"])


def mixed(model, data):
    logits = model(data["x"])
    return 0.7 * cross_entropy(logits, data["colour"]) + 0.3 * cross_entropy(logits, data["shape"])


@pytest.mark.parametrize("name", ["two heads", "mixed labels"])
def test_two_targets_are_refused_by_name(name, model, x):
    model, loss = (TwoHeads(), two_losses) if name == "two heads" else (model, mixed)
    batch = UserDict(x=x, colour=Y, shape=GROUP % 2).data
    with pytest.raises(LossError, match=r"must be the label.* with 2: \['colour'\] and \['shape'\]\. Leave out"):
        find_label(model, lambda data: loss(model, data), [batch])


NONE = {
    "regression": lambda model, data: (model(data[0]) - data[0][:, :CLASSES]).square().mean(1),
    "labels of the loss's own": lambda model, data: cross_entropy(model(data[0]), Y),
    "several labels at once": lambda model, data: F.binary_cross_entropy_with_logits(
        model(data[0]), data[2], reduction="none"
    ).mean(1),
    "no call": lambda model, data: data[0].sum(1),
}


@pytest.mark.parametrize("name", NONE)
def test_losses_without_a_label_in_the_batch_are_refused(name, model, x):
    batch = [x, Y, (x[:, :CLASSES] > 0).double()]
    with pytest.raises(LossError, match=r"must be the label.*with no such tensor of the batch\. Leave out"):
        find_label(model, lambda data: NONE[name](model, data), [batch])


def test_a_target_that_is_no_class_of_the_output_is_refused_by_name(x):
    model = nn.Linear(4, 1).double()

    def loss(data):
        return F.binary_cross_entropy_with_logits(model(data[0])[:, 0], data[1], reduction="none")

    with pytest.raises(LossError, match=r"depends on \[1\], but not as on the class"):
        find_label(model, loss, [[x, (Y > 0).double()]])
    with pytest.raises(LossError, match=r"depends on \[1\], but not as on the class"):  # labels that start at 1
        wide = nn.Linear(4, CLASSES + 2).double()
        find_label(wide, lambda data: cross_entropy(wide(data[0]), data[1] - 1), [[x, Y + 1]])


def test_probes_are_spread_and_within_the_data():
    assert list(probes(3)) == [[0, 1, 2]]
    spread, first, random = probes(1000)
    assert len(spread) == len(set(spread)) == 32 and spread[-1] > 950
    assert first == list(range(32)) and max(random) < 1000
