"""Nothing of the user's changes, and the loader is asked for its batches only."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import hydragrad as hg
from case_models import MODELS
from cases import warmed
from checked_setups import built, works
from hydragrad.checking.setup import Setup
from hydragrad.randomness import every_generator_state
from recording.test_faults import relabelled
from recording.toys import build, loss, samples, sgd


def state(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))


def same(a, b):
    return str(a) == str(b)


@pytest.mark.parametrize("name", ["batch_norm", "dropout", "stopped"])
def test_model_optimizer_scheduler_loader_and_generators_are_left_as_they_were(name):
    case, model = MODELS[name], built(name).eval()
    optimizer = warmed(Adam(model.parameters(), 0.1), model)
    scheduler = StepLR(optimizer, 1, gamma=0.1)
    loader = DataLoader(case.draw(18, 1), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
    before, rates = state(model, optimizer), copy.deepcopy(scheduler.state_dict())
    generators = [t.tolist() for t in (*every_generator_state().values(), loader.generator.get_state())]
    result = hg.check(model, optimizer, case.loss, loader.dataset, loader=loader, scheduler=scheduler, timed=False)
    assert result.recordable, result
    assert same(state(model, optimizer), before) and scheduler.state_dict() == rates
    assert [t.tolist() for t in (*every_generator_state().values(), loader.generator.get_state())] == generators
    assert not model.training and not any(module._forward_hooks for module in model.modules())
    assert not optimizer._optimizer_step_pre_hooks and result.part("schedule").found.startswith("StepLR")


def test_copies_have_the_states_of_the_originals_and_share_nothing_with_them():
    model = build()
    optimizer = warmed(SGD(model.parameters(), 0.1, momentum=0.9), model)
    optimizer.note = [1]
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    setup = Setup(
        model=model,
        optimizer=optimizer,
        loss=loss,
        train_set=samples(),
        data=samples(),
        samples=range(22),
        groups=[[[0, 1]]],
        scheduler=scheduler,
    )
    copied, (own,), schedule = setup.copies()
    assert schedule.optimizer is own and own.note == [1] and own.note is not optimizer.note
    for p, q in zip(model.parameters(), copied.parameters(), strict=True):
        assert torch.equal(p, q) and p is not q
        assert torch.equal(optimizer.state[p]["momentum_buffer"], own.state[q]["momentum_buffer"])
        assert optimizer.state[p]["momentum_buffer"] is not own.state[q]["momentum_buffer"]


def test_a_plateau_schedule_is_given_the_loss():
    model = build()
    optimizer = sgd(model)
    result = hg.check(model, optimizer, loss, samples(), scheduler=ReduceLROnPlateau(optimizer), timed=False)
    assert result.recordable and "ReduceLROnPlateau" in result.part("schedule").found


def padded(items):
    """Sequences of different lengths, made equally long."""
    x = nn.utils.rnn.pad_sequence([item[0] for item in items], batch_first=True)
    return x, torch.tensor([item[1] for item in items])


class Sequences(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.full((2 + index % 3,), index % 5), index % 3


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.embedding(x).sum(1))


def test_the_loader_gives_batch_size_collate_function_and_steps():
    loader = DataLoader(Sequences(), batch_size=4, collate_fn=padded, shuffle=True, drop_last=True)
    model = Bag()
    result = hg.check(model, sgd(model), loss, loader.dataset, loader=loader, epochs=3, accumulate=2, timed=False)
    assert result.recordable, result
    assert all(works(result).values())
    assert result.steps == 3 and result.samples == 11
    assert "2 batches an epoch, 4 samples each" in result.part("loader").found


def test_a_loader_over_other_samples_than_the_training_set_is_refused():
    data, model = samples(), build()
    result = hg.check(model, sgd(model), loss, data, loader=DataLoader(Subset(data, [1, 2, 3])), timed=False)
    assert "The loader's data set must be train_set" in result.part("loader").refusal.cause


def test_a_loader_without_batches_is_refused():
    data, model = samples(), build()
    empty = DataLoader(data, batch_size=30, drop_last=True)
    assert "has no batch" in hg.check(model, sgd(model), loss, data, loader=empty).part("loader").refusal.cause
    single = DataLoader(data, batch_size=None)
    assert "Set the loader's batch_size" in str(hg.check(model, sgd(model), loss, data, loader=single).changes())


class Own(Dataset):
    """Samples one by one, so that nothing is known of them before they are fetched."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def test_samples_are_named_by_their_numbers_in_the_training_set():
    x, y = (tensor.clone() for tensor in samples().tensors)
    x[20] = torch.nan
    data, model = Own(TensorDataset(x, y)), build()
    loader = DataLoader(data, sampler=[19, 20, 21, 18], batch_size=2)
    result = hg.check(model, sgd(model), loss, data, loader=loader, timed=False)
    assert "in samples [20] of the training set" in result.part("two steps").refusal.message
    data = Own(relabelled(20, 7))
    loader = DataLoader(data, sampler=[19, 20, 21, 18], batch_size=2)
    result = hg.check(model, sgd(model), loss, data, loader=loader, timed=False)
    assert "the batch of samples [19, 20]" in result.part("loss").refusal.message
