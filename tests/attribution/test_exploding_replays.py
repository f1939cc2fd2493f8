"""A replay whose derivative explodes does not decide a mean over replays, and the scores say that it was left out."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.replays import leave_out
from hydragrad.attribution.robust_mean import mean_over, not_exploded
from hydragrad.errors import NonFinite

CURVATURES = (1.0, 1.0, 1.0, -0.8)


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, curvature, centre):
        return curvature * (self.w - centre) ** 2 / 2


def loss(model, batch):
    return model(*batch)


@pytest.fixture
def run(tmp_path):
    """Gradient descent at a rate that is stable only as long as the last, concave sample is there."""
    centres = torch.tensor([0.0, 0.3, -0.2, 0.1], dtype=torch.float64)
    data = TensorDataset(torch.tensor(CURVATURES, dtype=torch.float64), centres)
    model = Point()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    return hg.train(model, loss, data, optimizer, epochs=40, batch_size=4, out=tmp_path / "run")


@pytest.fixture
def queries():
    return [hg.query("w", lambda model: model.w), hg.query("w cubed", lambda model: model.w**3)]


def replays_without(sample, count=1):
    numbers = [n for n in range(200) if set(leave_out(4, 0.25, n).weights) == {sample}]
    return numbers[:count]


def test_one_exploding_replay_is_not_in_the_mean_and_a_note_names_it(run, queries):
    calm = [replays_without(sample)[0] for sample in range(3)]
    (wild,) = replays_without(3)
    options = {"curvature": "hessian", "drop": 0.25}
    expected = hg.attribute(run, queries, replays=calm, **options)
    alone = hg.attribute(run, queries, replays=[wild], **options)
    assert (alone.values.norm(dim=1) > 100 * expected.values.norm(dim=1)).all()
    scores = hg.attribute(run, queries, replays=[calm[0], wild, *calm[1:]], **options)
    assert torch.equal(scores.values, expected.values)
    notes = [note.text for note in scores.evidence.notes if note.kind == "replays"]
    assert f"Replay {wild} exploded: its contributions to 2 of 2 queries" in notes[1]
    assert len([note for note in expected.evidence.notes if note.kind == "replays"]) == 1
    one_row_a_pass = hg.attribute(run, queries, replays=[calm[0], wild, *calm[1:]], memory=1, **options)
    assert torch.allclose(one_row_a_pass.values, scores.values, rtol=1e-12)
    assert notes[1] in [note.text for note in one_row_a_pass.evidence.notes]


def test_of_two_replays_the_smaller_one_is_trusted(run, queries):
    calm, wild = replays_without(0)[0], replays_without(3)[0]
    options = {"curvature": "hessian", "drop": 0.25}
    scores = hg.attribute(run, queries, replays=[wild, calm], **options)
    assert torch.equal(scores.values, hg.attribute(run, queries, replays=[calm], **options).values)


def test_each_query_has_its_own_mean():
    norms = torch.tensor([[1.0, 50.0], [2.0, 1.0], [30.0, 2.0]])
    kept = not_exploded(norms)
    assert kept.tolist() == [[True, False], [True, True], [False, True]]
    sums = [{"values": torch.full((2, 3), float(n)), "visits": torch.full((3,), float(n))} for n in range(3)]
    mean = mean_over(sums, kept)
    assert mean["values"][:, 0].tolist() == [0.5, 1.5]
    assert mean["visits"].tolist() == [1.0, 1.0, 1.0]


def test_contributions_that_are_zero_or_not_finite_are_told_apart():
    norms = torch.tensor([[0.0, torch.nan], [0.0, 1.0], [3.0, 2.0]])
    assert not_exploded(norms).tolist() == [[True, False], [True, True], [True, True]]
    assert not_exploded(torch.tensor([[0.0]])).all()


def test_replays_that_are_mostly_not_finite_are_refused():
    with pytest.raises(NonFinite, match=r"Only 1 of 3 replays have finite contributions.*Use curvature='ggn'"):
        not_exploded(torch.tensor([[torch.inf], [torch.nan], [1.0]]))
