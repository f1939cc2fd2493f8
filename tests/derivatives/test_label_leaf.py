"""What a label's leaf holds, how it is replaced, and what the value of the losses shows."""

import pytest
import torch
import torch.nn.functional as F

from hydragrad.derivatives import Label, labels_by_value
from hydragrad.derivatives.label_leaf import leaf_name
from hydragrad.errors import LossError

Y = torch.tensor([0, 2, 1, 1])
LABEL = Label(leaf=1, name="[1]", classes=3, one_hot=False, softmax=True)


@pytest.mark.parametrize(
    "wrong",
    [
        [torch.zeros(4, 2)],
        [torch.zeros(4, 2), torch.tensor([0, 1, -100, 2])],
        [torch.zeros(4, 2), torch.tensor([0, 1, 3, 2])],
        [torch.zeros(4, 2), torch.full((4, 3), 0.3)],
        [torch.zeros(4, 2), torch.tensor(1)],
    ],
)
def test_leaves_that_hold_no_classes_are_refused_by_name(wrong):
    with pytest.raises(LossError, match=r"must be a class, 0 to 2, or a one-hot row; tensor \[1\] of this batch"):
        LABEL.of(wrong)


def test_samples_without_a_label_are_left_alone_and_not_given_one():
    batch = [torch.zeros(4, 2), torch.tensor([0, 1, -100, 2])]
    assert LABEL.replaced(batch, torch.tensor([2, -1, -1, -1]))[1].tolist() == [2, 1, -100, 2]
    with pytest.raises(LossError, match="must be a class, 0 to 2"):
        LABEL.replaced(batch, torch.tensor([-1, -1, 1, -1]))


def test_labels_that_the_model_has_no_output_for_are_refused():
    with pytest.raises(LossError, match=r"Labels must be 0 to 2, as the model has 3 outputs; got 7"):
        LABEL.replaced([torch.zeros(4, 2), Y], torch.tensor([7, -1, -1, -1]))


def test_labels_that_share_memory_among_samples_are_refused():
    with pytest.raises(LossError, match=r"tensor \[1\] can't be written .*owns its memory"):
        LABEL.replaced([torch.zeros(4, 2), torch.zeros(1).long().expand(4)], torch.tensor([2, -1, -1, -1]))


def test_losses_show_their_labels_unless_two_leaves_with_other_values_fit(generator):
    logits = torch.randn(4, 3, generator=generator)
    losses = F.cross_entropy(logits, Y, reduction="none")
    other = torch.tensor([0, 2, 1, 0])
    for leaves in ([other, Y], [Y, Y.clone()], [F.one_hot(Y, 3), other]):
        assert labels_by_value(logits, losses, leaves).tolist() == Y.tolist()
    assert labels_by_value(logits, losses, [other]) is None
    assert labels_by_value(logits, losses + 1e-3, [Y]) is None
    assert labels_by_value(logits[None], losses, [Y]) is None
    flat = torch.zeros(4, 3)
    assert labels_by_value(flat, F.cross_entropy(flat, Y, reduction="none"), [Y, other]) is None


def test_a_leaf_is_named_by_where_it_stands():
    batch = {"a": [torch.zeros(1), ("text", torch.zeros(1))], "b": torch.zeros(1)}
    assert [leaf_name(batch, number) for number in range(3)] == ["['a'][0]", "['a'][1][1]", "['b']"]
    assert leaf_name(torch.zeros(1), 0) == "of the batch"
