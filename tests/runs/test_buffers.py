"""Buffers that appear, grow or are sparse: restored as they were, and of no effect on the answers."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import Unsupported
from hydragrad.runs.buffers import put_buffers, put_state, require_dense, same_values
from twins import CLASSES, SAMPLES, answers, assert_same, made, mlp, record, vectors


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + torch.linspace(0, 1, 4, dtype=x.dtype))


class Appears(Plain):
    """Registers its positions at the first forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "positions"):
            self.register_buffer("positions", torch.linspace(0, 1, 4, dtype=x.dtype))
        return self.net(x + self.positions)


class Grows(Plain):
    """Keeps a mask as long as the largest batch so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mask) < len(x):
            self.mask = torch.ones(len(x), dtype=x.dtype)
        return super().forward(x) * self.mask[: len(x), None]


class Graph(nn.Module):
    """A node is classified by what its neighbours are."""

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        self.net = mlp()
        dense = torch.eye(SAMPLES) + torch.eye(SAMPLES).roll(1, 0)
        adjacency = {
            torch.strided: dense,
            torch.sparse_coo: dense.to_sparse(),
            torch.sparse_csr: dense.to_sparse_csr(),
        }[layout]
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("features", vectors().tensors[0])

    def forward(self, nodes: Tensor) -> Tensor:
        return self.net(self.adjacency.to(self.features.dtype) @ self.features)[nodes]


NO_FORWARD_MODE = ["hooks or forward mode", "forward mode", "hessian"]
"""Routes that torch has no rule for where a sparse matrix is multiplied."""

GROWING_STEPS = [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [0, 5, 7]]


def test_a_buffer_that_appears_changes_no_answer(tmp_path):
    assert_same(answers(record(tmp_path / "a", Appears)), answers(record(tmp_path / "b", Plain)))


def test_a_run_is_opened_with_a_model_whose_buffer_has_appeared(tmp_path):
    run = record(tmp_path, Appears)
    model = made(Appears)
    model(torch.ones(1, 4, dtype=torch.float64))
    again = hg.Recording(tmp_path, model, run.loss, run.train_set)
    assert_same(answers(again), answers(run))


def test_a_buffer_that_grows_changes_no_answer(tmp_path):
    unknown = ["hessian"]  # its derivative is not known
    ours = answers(record(tmp_path / "a", Grows, steps=GROWING_STEPS), leave_out=unknown)
    theirs = answers(record(tmp_path / "b", Plain, steps=GROWING_STEPS), leave_out=unknown)
    assert_same(ours, theirs)


def test_a_buffer_that_grows_has_no_known_derivative(tmp_path):
    run = record(tmp_path, Grows, steps=GROWING_STEPS)
    with pytest.raises(Unsupported, match="The buffers mask update themselves"):
        answers(run)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_buffer_changes_no_answer(tmp_path, layout):
    nodes = TensorDataset(torch.arange(SAMPLES), torch.arange(SAMPLES) % CLASSES)
    queried = TensorDataset(torch.arange(5), torch.arange(5) % 2)
    ours, theirs = (
        answers(record(tmp_path / str(kind), lambda kind=kind: Graph(kind), nodes), queried, leave_out=NO_FORWARD_MODE)
        for kind in (layout, torch.strided)
    )
    assert_same(ours, theirs)


def test_a_sparse_buffer_is_refused_where_rows_go_to_disk(tmp_path):
    nodes = TensorDataset(torch.arange(SAMPLES), torch.arange(SAMPLES) % CLASSES)
    run = record(tmp_path / "run", lambda: Graph(torch.sparse_coo), nodes)
    with pytest.raises(Unsupported, match=r"the model's buffer adjacency is sparse\. Keep the store in memory"):
        hg.hypergradients(run, store=tmp_path / "store")
    with pytest.raises(Unsupported, match="adjacency is sparse"):
        hg.hypergradients(run).save(tmp_path / "saved")
    require_dense({"adjacency": torch.eye(2).to_sparse()}, None)


def test_buffers_of_a_state_are_put_into_any_model():
    model = nn.Module()
    model.part = nn.Linear(2, 2)
    model.register_buffer("same", torch.zeros(2))
    model.register_buffer("grown", torch.zeros(1))
    model.register_buffer("gone", torch.zeros(1))
    same, state = model.same, {"same": torch.ones(2), "grown": torch.ones(3), "part.new": torch.ones(1)}
    put_buffers(model, state)
    assert model.same is same
    assert {name: value.tolist() for name, value in model.named_buffers()} == {
        name: value.tolist() for name, value in state.items()
    }
    model.grown.zero_()
    assert state["grown"].tolist() == [1.0] * 3


def test_a_state_is_put_into_parameters_and_buffers():
    model = nn.BatchNorm1d(2)
    state = {name: value.detach() + 1 for name, value in (*model.named_parameters(), *model.named_buffers())}
    put_state(model, state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_buffers_are_compared_by_values_and_layout():
    eye = torch.eye(2)
    assert same_values(eye, eye.clone()) and same_values(eye.to_sparse(), eye.to_sparse())
    assert same_values(eye.to_sparse_csr(), eye.to_sparse_csr())
    for other in (eye * 2, eye[0], eye.to_sparse()):
        assert not same_values(eye, other)
    assert not same_values(eye.to_sparse(), (2 * eye).to_sparse())
