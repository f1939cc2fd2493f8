"""Queries: values and gradients against autograd, and what is no query."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

import hydragrad as hg
from cases import HELD_OUT, Case, collate, reseed_for_query
from hydragrad.derivatives import Layout, running_statistics
from hydragrad.errors import QueryError
from hydragrad.randomness import preserved
from hydragrad.scores import Query, QueryPoint, numbered, queries

NAMES = ["mlp", "regression", "batch_norm", "dropout", "tied", "transformer", "two_inputs", "two_calls"]


def point_of(case: Case, model: nn.Module, *, statistics: bool = False) -> QueryPoint:
    known = running_statistics(model) if statistics else set()
    return QueryPoint(
        model=model,
        loss=case.loss,
        parameters={name: p.detach() for name, p in model.named_parameters()},
        buffers={name: b.detach() for name, b in model.named_buffers()},
        weights=Layout({name: p.shape for name, p in model.named_parameters()}),
        statistics=Layout({name: b.shape for name, b in model.named_buffers() if name in known}),
        fetch=collate,
    )


def trained(case: Case) -> nn.Module:
    """Weights and statistics away from their initial values."""
    model = case.build()
    generator = torch.Generator().manual_seed(4)
    for value in [*model.parameters(), *model.buffers()]:
        if value.is_floating_point():
            value.data += 0.3 * torch.rand(value.shape, generator=generator, dtype=value.dtype)
    return model


def expected(case: Case, model: nn.Module, indices, *, training: bool) -> tuple[float, Tensor]:
    model = copy.deepcopy(model).train(training)
    with preserved():
        reseed_for_query()
        value = case.loss(model, collate(case.held_out, indices)).mean()
    gradients = torch.autograd.grad(value, list(model.parameters()))
    return value.item(), torch.cat([g.flatten() for g in gradients])


def answers(query: Query, point: QueryPoint) -> list[queries.QueryRow]:
    with preserved():
        return list(query.rows(point))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_mean_loss_is_autograd(name, training):
    case = Case(name, "plain")
    model = trained(case)
    query, point = hg.mean_loss(case.held_out, training=training), point_of(case, model)
    (row,) = answers(query, point)
    value, gradient = expected(case, model, range(HELD_OUT), training=training)
    assert row.value == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(row.w_bar, gradient, rtol=1e-10, atol=1e-13)
    assert row.r_bar.shape == (0,)
    with preserved():
        assert query.values(copy.deepcopy(model), point) == pytest.approx([value], rel=1e-12)


@pytest.mark.parametrize("name", ["mlp", "batch_norm", "two_inputs"])
def test_sample_losses_are_one_row_a_sample(name):
    case = Case(name, "plain")
    model = trained(case)
    query, point = hg.sample_losses(case.held_out, [5, 0, 5]), point_of(case, model)
    assert query.names() == ["loss of sample 5", "loss of sample 0", "loss of sample 5"]
    rows = answers(query, point)
    for row, index in zip(rows, (5, 0, 5), strict=True):
        value, gradient = expected(case, model, [index], training=False)
        assert row.value == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(row.w_bar, gradient, rtol=1e-10, atol=1e-13)
    assert query.values(copy.deepcopy(model), point) == pytest.approx([row.value for row in rows])


def test_any_scalar_of_the_model():
    case = Case("mlp", "plain")
    model = trained(case)
    x = torch.ones(1, 4, dtype=torch.float64)
    query = hg.query("margin", lambda m: m(x)[0, 0] - m(x)[0, 1])
    (row,) = answers(query, point_of(case, model))
    value = model(x)[0, 0] - model(x)[0, 1]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])
    assert (row.name, row.value) == ("margin", pytest.approx(value.item()))
    torch.testing.assert_close(row.w_bar, gradient)
    assert query.values(model, point_of(case, model)) == [pytest.approx(value.item())]


@pytest.mark.parametrize("kind", ["mean_loss", "query"])
def test_running_statistics_have_a_gradient(kind):
    case = Case("batch_norm", "plain")
    model = trained(case)
    data = collate(case.held_out, range(HELD_OUT))
    query = {
        "mean_loss": hg.mean_loss(case.held_out),
        "query": hg.query("by hand", lambda m: case.loss(m, data).mean()),
    }[kind]
    (row,) = answers(query, point_of(case, model, statistics=True))
    h, differences = 1e-6, []
    for name, buffer in model.named_buffers():
        if name in running_statistics(model):
            for at in range(len(buffer)):
                ends = []
                for sign in (1, -1):
                    moved = copy.deepcopy(model).eval()
                    dict(moved.named_buffers())[name][at] += sign * h
                    ends.append(case.loss(moved, data).mean().item())
                differences.append((ends[0] - ends[1]) / (2 * h))
    assert row.r_bar.abs().min() > 1e-6
    torch.testing.assert_close(row.r_bar, torch.tensor(differences, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_large_sets_are_averaged_in_parts(monkeypatch):
    case = Case("batch_norm", "plain")
    model = trained(case)
    whole = answers(hg.mean_loss(case.held_out), point_of(case, model))[0]
    monkeypatch.setattr(queries, "CHUNK", 4)
    parts = answers(hg.mean_loss(case.held_out), point_of(case, model))[0]
    assert parts.value == pytest.approx(whole.value, rel=1e-13)
    torch.testing.assert_close(parts.w_bar, whole.w_bar, rtol=1e-12, atol=1e-14)
    values = hg.mean_loss(case.held_out).values(model, point_of(case, model))
    assert values == pytest.approx([whole.value], rel=1e-13)


def test_a_stochastic_query_is_the_same_every_time():
    """In training mode dropout draws from a seed of the query's own, whatever the global generators did."""
    case = Case("dropout", "plain")
    model, data = trained(case), collate(case.held_out, range(HELD_OUT))
    for query in (
        hg.mean_loss(case.held_out, training=True),
        hg.query("by hand", lambda m: case.loss(m, data).mean(), training=True),
    ):
        rows, values = [], []
        for seed in (1, 2):
            torch.manual_seed(seed)
            rows += answers(query, point_of(case, model))
            torch.manual_seed(seed + 10)
            values += query.values(copy.deepcopy(model), point_of(case, model))
        assert rows[0].value == rows[1].value == values[0] == values[1]
        assert torch.equal(rows[0].w_bar, rows[1].w_bar)


def test_the_model_is_left_alone():
    case = Case("batch_norm", "plain")
    model = trained(case)
    before = copy.deepcopy(model.state_dict())
    data = collate(case.held_out, range(HELD_OUT))
    for query in (hg.mean_loss(case.held_out, training=True), hg.query("q", lambda m: case.loss(m, data).mean())):
        answers(query, point_of(case, model, statistics=True))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training


def test_names():
    held_out = Case("mlp", "plain").held_out
    assert hg.mean_loss(held_out).names() == ["mean loss of 9 samples"]
    assert hg.mean_loss(held_out, "validation").names() == ["validation"]
    assert hg.query("margin", lambda model: torch.zeros(())).names() == ["margin"]


def test_data_sets_that_have_no_answer():
    held_out = Case("mlp", "plain").held_out
    with pytest.raises(QueryError, match="data set of the query is empty"):
        hg.mean_loss(Subset(held_out, []))
    with pytest.raises(QueryError, match="data set of the query is empty"):
        hg.sample_losses(Subset(held_out, []), [0])
    with pytest.raises(QueryError, match=r"samples 0 to 8, got \[9, -1\]"):
        hg.sample_losses(held_out, [0, 9, -1])
    with pytest.raises(QueryError, match="got none"):
        hg.sample_losses(held_out, [])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m: torch.tensor(2.0), "does not depend on the trained parameters"),
        (lambda m: m(torch.ones(1, 4).double()).sum().detach(), "does not depend on the trained parameters"),
        (lambda m: m(torch.ones(1, 4).double()), r"one number, got shape \(1, 3\)"),
        (lambda m: 2.0, "one number, got a float"),
        (lambda m: m(torch.ones(1, 4).double()).sum() * float("inf"), "NaN or infinity"),
    ],
)
def test_functions_that_are_no_queries(function, message):
    case = Case("mlp", "plain")
    with pytest.raises(QueryError, match=message):
        answers(hg.query("wrong", function), point_of(case, case.build()))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (["a", "a", "b", "a"], ("a", "a (2)", "b", "a (3)")),
        (["a", "a (2)", "a"], ("a", "a (2)", "a (3)")),
        ([], ()),
    ],
)
def test_names_that_come_again_are_numbered(given, expected):
    assert numbered(given) == expected
