"""Margins: values, gradients and contributions against the definition and autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import hydragrad as hg
from cases import HELD_OUT, Case, collate, record
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError
from hydragrad.randomness import preserved
from hydragrad.scores import QueryPoint


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
