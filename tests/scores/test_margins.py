"""Margins: values, gradients and contributions against the definition and autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from cases import HELD_OUT, Case, collate, record
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError
from hydragrad.randomness import preserved
from hydragrad.scores import QueryPoint
from labelled_items import LAYOUTS, held_out, loss_of, model, vectors


def point_of(case, model):
    return QueryPoint(
        model=model,
        loss=case.loss,
        parameters={name: p.detach() for name, p in model.named_parameters()},
        buffers={name: b.detach() for name, b in model.named_buffers()},
        weights=Layout({name: p.shape for name, p in model.named_parameters()}),
        statistics=Layout({}),
        fetch=collate,
    )


def log_odds(model, x, y):
    p = F.softmax(model(x[None]), dim=1)[0, y]
    return (p / (1 - p)).log()


@pytest.mark.parametrize("name", ["mlp", "convolution", "batch_norm"])
def test_margins_are_log_odds_of_the_label(name):
    case = Case(name, "plain")
    model = case.build().eval()
    asked, point = hg.sample_margins(case.held_out, [2, 5]), point_of(case, model)
    with preserved():
        rows, values = list(asked.rows(point)), asked.values(model, point)
    assert [row.name for row in rows] == asked.names() == ["margin of sample 2", "margin of sample 5"]
    for index, row, value in zip([2, 5], rows, values, strict=True):
        expected = log_odds(model, *case.held_out[index])
        gradients = torch.autograd.grad(expected, list(model.parameters()))
        assert row.value == pytest.approx(expected.item(), rel=1e-9)
        assert value == pytest.approx(expected.item(), rel=1e-9)
        torch.testing.assert_close(row.w_bar, torch.cat([g.flatten() for g in gradients]), rtol=1e-8, atol=1e-11)
    assert asked.single_samples() is None


def test_contributions_to_margins_foretell_a_removal(tmp_path):
    case = Case("mlp", "momentum")
    run = record(case, tmp_path / "run")
    asked = hg.sample_margins(case.held_out, [0, 1])
    scores = hg.attribute(run, asked, curvature="hessian")
    small = hg.counterfactual(run, [[3]], asked, weight=1 - 1e-7)
    torch.testing.assert_close(small.values[:, 0] / 1e-7, scores.values[:, 3], rtol=1e-4, atol=1e-7)
    assert scores.values[:, 3].abs().min() > 1e-5


@pytest.mark.parametrize("name", [*LAYOUTS, "mapping"])
def test_margins_are_of_the_label_whatever_else_the_items_hold(name, tmp_path):
    layout = LAYOUTS.get(name, LAYOUTS["index, x, y"])
    trained = Mapping(model()) if name == "mapping" else model()
    data, loss = held_out(layout), loss_of(layout)

    def of_logits(model, batch):
        return loss(lambda x: model(x)["logits"], batch)

    run = hg.train(
        trained,
        of_logits if name == "mapping" else loss,
        data,
        torch.optim.SGD(trained.parameters(), lr=0.3),
        epochs=2,
        batch_size=8,
        out=tmp_path / "run",
    )
    x, labels = vectors(len(data), 2)
    with torch.no_grad():
        logits = trained(x)
    odds = F.softmax(logits["logits"] if name == "mapping" else logits, dim=1)[torch.arange(len(data)), labels]
    scores = hg.attribute(run, hg.sample_margins(data, [0, 1, 2, 3, 17]))
    expected = (odds / (1 - odds)).log()[[0, 1, 2, 3, 17]]
    torch.testing.assert_close(scores.query_values, expected, rtol=1e-9, atol=1e-12)


class Mapping(nn.Module):
    """Returns its logits among other tensors of their shape, as models of language do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        logits = self.inner(x)
        return {"hidden": logits.sin(), "logits": logits, "rows": x}


def test_outputs_that_are_no_logits_have_no_margins(tmp_path):
    x, labels = vectors(12, 2)
    data, trained = TensorDataset(x, torch.tensor(labels)), nn.Sequential(model(), nn.Softmax(1))

    def likelihood(model, batch):
        return F.nll_loss(model(batch[0]).log(), batch[1], reduction="none")

    def labels_missing(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none", label_smoothing=0.1)

    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    run = hg.train(trained, likelihood, data, optimizer, epochs=1, batch_size=4, out=tmp_path / "run")
    with pytest.raises(QueryError, match="takes it as probabilities"):
        hg.attribute(run, hg.sample_margins(data, [0]))
    run = hg.train(trained, labels_missing, data, optimizer, epochs=1, batch_size=4, out=tmp_path / "ignored")
    ignored = TensorDataset(x, torch.tensor([-100, *labels[1:]]))
    with pytest.raises(QueryError, match=r"one label a sample.*must be a class, 0 to 2"):
        hg.attribute(run, hg.sample_margins(ignored, [0]))


def test_what_has_no_margins():
    case = Case("regression", "plain")
    model = case.build()
    with pytest.raises(QueryError, match="needs logits"), preserved():
        list(hg.sample_margins(case.held_out, [0]).rows(point_of(case, model)))
    case = Case("two_calls", "plain")
    with pytest.raises(QueryError, match="was called 2 times"), preserved():
        list(hg.sample_margins(case.held_out, [0]).rows(point_of(case, case.build())))
    with pytest.raises(QueryError, match=f"0 to {HELD_OUT - 1}"):
        hg.sample_margins(case.held_out, [HELD_OUT])
    with pytest.raises(QueryError, match="empty"):
        hg.sample_margins(TensorDataset(torch.zeros(0, 2)), [0])
