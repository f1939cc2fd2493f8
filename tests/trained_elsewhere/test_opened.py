"""hg.Checkpoints: states, checked once and read again, of a model that is never changed."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import CheckpointError, DataError, LossError, NonFinite, Unsupported
from trained_elsewhere.states import copied, data, loss, network, trained_states


@pytest.fixture(scope="module")
def states():
    return trained_states()


def saved(states, folder):
    for number, state in enumerate(states, start=1):
        torch.save(state, folder / f"epoch{number}.pt")
    return [folder / f"epoch{number}.pt" for number in range(1, len(states) + 1)]


def test_states_are_read_in_their_order_and_the_model_stays_as_it_is(states, tmp_path):
    model = network().train()
    before = copied(model.state_dict())
    checkpoints = hg.Checkpoints(saved(states, tmp_path), model, loss, data(24, 0))
    assert len(checkpoints) == 3 and checkpoints.names == ("epoch1.pt", "epoch2.pt", "epoch3.pt")
    for number, state in enumerate(states):
        at = checkpoints.at(number)
        assert list(at.parameters) == [name for name, _ in model.named_parameters()]
        assert all(torch.equal(value, state[name]) for name, value in (at.parameters | at.buffers).items())
    x = data(5, 3).tensors[0]
    network_at_end = network()
    network_at_end.load_state_dict(states[-1])
    assert torch.equal(checkpoints.trained_model()(x), network_at_end.eval()(x))
    hg.influence(checkpoints, hg.mean_loss(data(12, 1)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_state_dict_is_copied(states):
    own = copied(states[0])
    checkpoints = hg.Checkpoints(own, network(), loss, data(24, 0))
    own["0.weight"].zero_()
    assert torch.equal(checkpoints.at(0).parameters["0.weight"], states[0]["0.weight"])
    assert checkpoints.names == ("state 1",)


def test_digests_name_the_weights(states):
    def opened(*some):
        return hg.Checkpoints(some, network(), loss, data(24, 0))

    assert opened(*states).digest == opened(*map(copied, states)).digest
    assert len({opened(*states).digest, opened(*states[::-1]).digest, opened(*states[:2]).digest}) == 3
    assert len(set(opened(*states).digests)) == 3


def test_files_of_one_name_are_named_in_full(states, tmp_path):
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        torch.save(states[number], tmp_path / str(number) / "model.pt")
    checkpoints = hg.Checkpoints(
        [tmp_path / "0" / "model.pt", tmp_path / "1" / "model.pt"], network(), loss, data(9, 0)
    )
    assert checkpoints.names == (str(tmp_path / "0" / "model.pt"), str(tmp_path / "1" / "model.pt"))


def test_equal_states_are_refused():
    model = network()
    with pytest.raises(CheckpointError, match=r"state 1 and state 2 hold the same weights.*clone"):
        hg.Checkpoints([model.state_dict(), model.state_dict()], model, loss, data(24, 0))


def test_a_file_that_changes_is_refused(states, tmp_path):
    files = saved(states, tmp_path)
    checkpoints = hg.Checkpoints(files, network(), loss, data(24, 0))
    torch.save(states[1], files[0])
    with pytest.raises(CheckpointError, match=r"epoch1.pt has changed since it was opened"):
        hg.influence(checkpoints, hg.mean_loss(data(12, 1)))


def test_what_is_no_state_is_refused(states):
    with pytest.raises(CheckpointError, match="one state or more, got none"):
        hg.Checkpoints([], network(), loss, data(24, 0))
    with pytest.raises(CheckpointError, match=r"got a Sequential. Of a model, give model.state_dict"):
        hg.Checkpoints([network()], network(), loss, data(24, 0))
    with pytest.raises(CheckpointError, match="got a NoneType"):
        hg.Checkpoints(None, network(), loss, data(24, 0))


def test_models_data_and_losses_that_do_not_fit_are_refused(states):
    def opened(model=None, loss_=loss, train_set=None):
        return hg.Checkpoints(states, model or network(), loss_, data(24, 0) if train_set is None else train_set)

    with pytest.raises(Unsupported, match="half precision"):
        opened(network().half())
    with pytest.raises(CheckpointError, match="No parameter of the model requires a gradient"):
        opened(network().requires_grad_(False))
    with pytest.raises(DataError, match="training set is empty"):
        opened(train_set=TensorDataset(torch.zeros(0, 4), torch.zeros(0)))
    with pytest.raises(LossError, match="one number a sample"):
        opened(loss_=lambda model, batch: loss(model, batch).mean())
    with pytest.raises(LossError, match=r"of samples \[0, 1\] there was: RuntimeError: .*collate= of the training"):
        opened(train_set=TensorDataset(torch.zeros(9, 7), torch.zeros(9)))
    with pytest.raises(NonFinite, match=r"losses of samples \[0, 1\] at state 3 are \[nan"):
        opened(loss_=lambda model, batch: loss(model, batch) * torch.nan)


def test_frozen_parameters_are_left_out_and_buffers_that_are_not_saved_are_the_models():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            self.register_buffer("shift", torch.full((4,), 2.0), persistent=False)
            self.inner.requires_grad_(False)
            self.double()

        def forward(self, x):
            return self.head(self.inner(x + self.shift))

    torch.manual_seed(0)
    states = trained_states(Shifted())
    checkpoints = hg.Checkpoints(states, Shifted(), loss, data(24, 0))
    assert list(checkpoints.layout.names) == ["head.weight", "head.bias"]
    assert torch.equal(checkpoints.final.buffers["shift"], torch.full((4,), 2.0, dtype=torch.float64))
    assert hg.influence(checkpoints, hg.mean_loss(data(12, 1))).values.std() > 0
