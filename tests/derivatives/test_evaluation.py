"""Every evaluation gets a batch of its own: whatever loss and model do to it, the next one gets the same data."""

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from hydragrad.derivatives import Evaluator, OwnBatches
from hydragrad.errors import LossError
from twins import answers, assert_same, held_out, loss, mlp, record, track, vectors


class Dicts(Dataset[Any]):
    """The vectors as dicts, as trainers of language models have them."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = self._data[index]
        return {"x": x, "labels": y}


@dataclass
class Bag:
    x: Any
    labels: Any


def popping(model: Any, batch: Any) -> Tensor:
    labels = batch.pop("labels")
    return F.cross_entropy(model(batch["x"]), labels, reduction="none")


def keyed(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"], reduction="none")


def reassigning(model: Any, batch: Any) -> Tensor:
    batch.x = torch.tanh(batch.x)
    return F.cross_entropy(model(batch.x), batch.labels, reduction="none")


def in_place(model: Any, batch: Any) -> Tensor:
    x, y = batch
    x.sub_(0.5).mul_(2)
    return F.cross_entropy(model(x), y, reduction="none")


def out_of_place(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model((batch[0] - 0.5) * 2), batch[1], reduction="none")


def bags(items: Any) -> Bag:
    return Bag(**default_collate(items))


def user_dicts(items: Any) -> Any:
    return UserDict(default_collate(items))


KINDS = {
    "labels popped": (Dicts, popping, None, loss),
    "labels popped from a user dict": (Dicts, popping, user_dicts, loss),
    "a user dict": (Dicts, keyed, user_dicts, loss),
    "attributes reassigned": (Dicts, reassigning, bags, lambda m, b: loss(m, [torch.tanh(b[0]), b[1]])),
    "in place": (lambda data: data, in_place, None, out_of_place),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_changes_its_batch_gives_the_answers_of_one_that_does_not(tmp_path, kind):
    wrap, changing, collate, plain = KINDS[kind]
    run = record(tmp_path / "a", mlp, wrap(vectors()), changing, collate=collate)
    ours, theirs = answers(run, wrap(held_out())), answers(record(tmp_path / "b", mlp, vectors(), plain))
    assert_same(ours, theirs)
    tracked = track(mlp, wrap(vectors()), changing, wrap(held_out()), collate=collate)
    torch.testing.assert_close(tracked, theirs["store"])


def test_data_stay_as_they_are_and_memory_is_shared_from_the_second_evaluation_on():
    x, seen = torch.ones(2), []
    evaluate = Evaluator(lambda _model, batch: seen.append(batch["x"]) or batch.pop("x"))
    data = {"x": x}
    for _ in range(3):
        evaluate(None, data)
    assert data["x"] is x and [tensor is x for tensor in seen] == [False] * 3
    assert [tensor.data_ptr() == x.data_ptr() for tensor in seen] == [False, True, True]


def test_a_loss_that_writes_into_its_batch_always_gets_a_copy():
    x = torch.ones(2)
    evaluate = Evaluator(lambda _model, batch: batch[0].mul_(2))
    assert [evaluate(None, [x]).tolist() for _ in range(3)] == [[2.0, 2.0]] * 3
    assert x.tolist() == [1.0, 1.0]


def test_arrays_are_copied_too():
    x = np.ones(2)
    evaluate = Evaluator(lambda _model, batch: batch["x"].__imul__(2))
    for _ in range(2):
        evaluate(None, {"x": x})
    assert x.tolist() == [1.0, 1.0]


def test_what_is_set_on_a_tensor_stays_with_the_evaluation():
    x = torch.ones(2)
    evaluate = Evaluator(lambda _model, batch: batch[0].requires_grad_())
    for _ in range(2):
        evaluate(None, [x])
    assert not x.requires_grad


def test_data_that_require_a_gradient_still_do():
    x = torch.ones(2, requires_grad=True)
    evaluate = Evaluator(lambda _model, batch: torch.autograd.grad(batch[0].square().sum(), batch[0])[0])
    assert [evaluate(None, [x]).tolist() for _ in range(2)] == [[2.0, 2.0]] * 2
    assert x.grad is None


def test_a_loss_is_evaluated_inside_a_transform():
    evaluate = Evaluator(lambda model, batch: model(batch[0].mul_(2)))
    x, rows = torch.ones(2), torch.arange(6.0).reshape(3, 2)
    for _ in range(2):
        values = torch.vmap(lambda row: torch.func.jvp(lambda w: evaluate(lambda y: w @ y, [x]), (row,), (row,))[1])
        assert values(rows).tolist() == [2.0, 10.0, 18.0]
    assert x.tolist() == [1.0, 1.0]


def test_a_loss_that_writes_into_some_batches_only_is_refused():
    evaluate = Evaluator(lambda _model, batch: batch[0].mul_(2) if batch[0].sum() > 2 else batch[0])
    evaluate(None, [torch.ones(2)])
    with pytest.raises(LossError, match=r"changed this batch in place, but not the first one\. Write x = x - mean"):
        evaluate(None, [torch.ones(3)])


def test_tensors_of_inference_mode_are_copied():
    with torch.inference_mode():
        x = torch.ones(2)
    evaluate = Evaluator(lambda _model, batch: batch[0])
    assert not [evaluate(None, [x]).is_inference() for _ in range(2)][1]


def test_the_loop_may_write_into_a_batch_of_which_a_copy_was_made_before():
    batches, x = OwnBatches(), torch.ones(2)
    for _ in range(2):
        own = batches.own([x], original_is_evaluated=True)
        x.mul_(2)
        batches.evaluated(own)
    assert own.data[0].tolist() == [2.0, 2.0]
