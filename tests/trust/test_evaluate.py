"""Evaluations: exact on a model whose predictions are exact, matched by name and id, refused where ambiguous."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import QueryError
from hydragrad.scores import Evidence, Note


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """One step of SGD on per-sample losses w . x_i: the final weights are linear in the samples' weights, and so are
    linear queries."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    directions = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    model = nn.Linear(3, 1, bias=False).double()

    def loss(model, batch):
        return model(batch[0])[:, 0]

    run = hg.train(
        model,
        loss,
        TensorDataset(points),
        torch.optim.SGD(model.parameters(), lr=0.3),
        epochs=1,
        batch_size=12,
        out=tmp_path_factory.mktemp("linear") / "run",
    )
    queries = [hg.query(f"along {n}", lambda model, d=d: model.weight[0] @ d) for n, d in enumerate(directions)]
    closed_form = 0.3 / 12 * directions @ points.T  # leaving i out takes -0.3 / 12 x_i out of the weights
    return run, queries, closed_form


@pytest.fixture(scope="module")
def bank(linear):
    return hg.bank(linear[0], linear[1], subsets=8, size=3, repeats=4, halves=5)


def test_predictions_that_are_exact_have_an_lds_and_a_slope_of_one(linear, bank):
    run, queries, closed_form = linear
    scores = hg.attribute(run, queries, curvature="hessian")
    assert torch.allclose(scores.values, closed_form, rtol=1e-12, atol=1e-15)
    for found in (hg.evaluate(scores, bank), hg.evaluate(closed_form, bank), hg.evaluate(closed_form.T.numpy(), bank)):
        assert found.lds == pytest.approx(1.0, abs=1e-12) and found.lds_interval[0] == pytest.approx(1.0)
        assert found.slope == pytest.approx(1.0, rel=1e-9) and found.scale == pytest.approx(1.0, rel=1e-9)
        assert torch.allclose(found.predicted, found.actual, rtol=1e-9, atol=1e-15)
        assert (found.groups, found.sizes, found.singles, found.cross_seed_lds) == (8, (3, 3), 0, None)
        assert [(one.kind, one.groups, round(one.lds, 9)) for one in found.ceilings] == [
            ("rounding", 4, 1.0),
            ("halves", 5, 1.0),
        ]
        frame = found.to_frame()
        assert frame.index.tolist() == [f"along {n}" for n in range(4)] and frame["lds"].min() > 1 - 1e-9


def test_scores_that_do_not_add_up_are_refused(linear, bank):
    run, queries, _ = linear
    scores = hg.attribute(run, queries, curvature="hessian")
    relative = replace(scores, evidence=replace(scores.evidence, notes=(Note("relative", "Divided."),)))
    for use in (lambda: hg.evaluate(relative, bank), lambda: hg.brittleness(run, relative, share=0.1)):
        with pytest.raises(QueryError, match="do not add up over samples"):
            use()


def test_the_sign_is_that_of_contributions(linear, bank):
    run, queries, closed_form = linear
    turned = hg.evaluate(-closed_form, bank)
    assert (turned.lds, turned.slope, turned.scale) == pytest.approx((-1.0, -1.0, -1.0))
    assert hg.evaluate(-closed_form, bank, effect_of="presence").lds == pytest.approx(1.0)
    # Leaving out what helps a loss raises it: the first query's most helpful samples, by their contributions.
    helpful = closed_form[0].argsort(descending=True)[:2].tolist()
    assert hg.counterfactual(run, [helpful], queries[0]).values.item() > 0


def test_single_removals_are_measured_apart(linear, bank):
    run, queries, closed_form = linear
    singles = hg.bank(run, queries, groups=[[0], [3], [5], [7], [2, 4, 6], [1, 8, 9], [0, 1, 2]])
    found = hg.evaluate(closed_form, singles)
    assert (found.singles, found.groups, found.sizes) == (4, 3, (3, 3))
    assert found.loo_pearson == pytest.approx(1.0) and found.loo_spearman == pytest.approx(1.0)
    assert "loo_pearson" in found.to_frame() and "single removals" in str(found)
    alone = hg.evaluate(closed_form, hg.bank(run, queries, groups=[[0], [3], [5]]))
    assert (alone.singles, alone.groups, alone.lds) == (3, 3, pytest.approx(1.0))


def test_half_removed_counts_half(linear):
    run, queries, closed_form = linear
    bank = hg.bank(run, queries, groups=[[0, 1], [3, 4], [5, 6]], weight=0.5)
    assert hg.evaluate(closed_form, bank).scale == pytest.approx(1.0, rel=1e-9)
    mixed = replace(bank, weights=torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64))
    assert "different weights" in hg.evaluate(closed_form, mixed).remarks[0]


def test_queries_and_samples_are_matched_by_name_and_id(linear, bank):
    run, queries, _ = linear
    scores = hg.attribute(
        run, [queries[3], queries[1]], curvature="hessian", samples=[5, 1, 0, 2, 3, 4, 11, 10, 9, 8, 7, 6]
    )
    found = hg.evaluate(scores, bank)
    assert found.query_names == ("along 1", "along 3")
    assert found.lds == pytest.approx(1.0) and found.scale == pytest.approx(1.0, rel=1e-9)
    matrix = torch.zeros(4, 3)
    of_some = hg.Bank.of(torch.eye(12)[[4, 9, 11]], torch.rand(4, 3), sample_ids=range(12))
    assert hg.evaluate(matrix, of_some, sample_ids=[11, 4, 9]).lds is None  # constant predictions rank nothing


def test_seeds_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    contributions = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    masks = torch.rand(20, 9, generator=generator) < 0.4
    masks[:, 0] |= ~masks.any(1)
    own = contributions @ masks.double().T
    other = torch.randn(own.shape, generator=generator, dtype=torch.float64)
    bank = hg.Bank.of(masks, torch.stack([own, other], 1))
    found = hg.evaluate(contributions, bank, seed=0)
    assert found.lds_by_seed[0] == pytest.approx(1.0) and abs(found.lds_by_seed[1]) < 0.5
    assert found.cross_seed_lds == found.lds_by_seed[1]
    assert [ceiling.kind for ceiling in found.ceilings] == ["seeds"]
    assert found.scale is None and "untouched run is not in the bank" in str(found)
    assert hg.evaluate(contributions, bank).cross_seed_lds is None
    with pytest.raises(QueryError, match="seeds 0 to 1"):
        hg.evaluate(contributions, bank, seed=2)


def test_scores_that_name_their_run_name_its_seed(linear, bank):
    run, queries, _ = linear
    scores = replace(hg.attribute(run, queries, curvature="hessian"), about={"run": run.digest})
    assert hg.evaluate(scores, bank).seed == 0
    other = replace(scores, query_values=scores.query_values + 1)
    with pytest.raises(QueryError, match="same name for other data"):
        hg.evaluate(other, bank)
    assert hg.evaluate(replace(other, about={}), bank).seed is None


def test_a_bank_may_be_named_by_its_file(bank, linear, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    assert hg.evaluate(linear[2], tmp_path / "bank.safetensors").lds == pytest.approx(1.0)


def test_what_is_shown_is_what_was_measured(linear, bank):
    found = hg.evaluate(linear[2], bank)
    lines = str(found).splitlines()
    assert lines[0].split("  ")[-1].strip() == "4 queries, 8 retrainings without 3 samples"
    assert "1.00 [1.00, 1.00]" in lines[1] and "1.00 (slope with an offset: 1.00)" in str(found)
    assert "one rounding apart" in str(found) and "<table" in found._repr_html_()


def square():
    masks = torch.eye(4, dtype=torch.bool)
    return hg.Bank.of(masks, torch.rand(4, 4, generator=torch.Generator().manual_seed(0)))


def test_a_square_matrix_is_not_guessed_at():
    matrix = torch.rand(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.raises(QueryError, match="may be read in two ways"):
        hg.evaluate(matrix, square())
    one, other = hg.evaluate(matrix, square(), rows="queries"), hg.evaluate(matrix, square(), rows="samples")
    assert torch.equal(one.predicted, other.predicted.T) and one.lds != other.lds


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.zeros((3, 5)), {}, "a matrix of shape"),
        (np.zeros((2, 5)), {"rows": "samples"}, "with rows='samples'"),
        (np.zeros((2, 5)), {"rows": "both"}, "rows must be one of"),
        (np.zeros((2, 5)), {"effect_of": "both"}, "effect_of must be one of"),
        (np.zeros((2, 4)), {"sample_ids": [0, 1, 2, 3]}, "1 of them have none, as \\[4\\]"),
        (np.zeros((2, 5)), {"sample_ids": [0, 1, 2, 3, 3]}, "are the same"),
        (np.full((2, 5), np.inf), {}, "must be finite; that of sample 0 in row 0"),
        ([["a", "b"]], {}, "a matrix of numbers"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(matrix, options, message):
    bank = hg.Bank.of(torch.eye(5), torch.rand(2, 5))
    with pytest.raises(QueryError, match=message):
        hg.evaluate(matrix, bank, **options)


def test_scores_that_do_not_fit_are_refused():
    bank = hg.Bank.of(torch.eye(5), torch.rand(1, 5), query_names=["test loss"])
    scores = hg.Scores(
        values=torch.zeros(1, 5, dtype=torch.float64),
        sample_ids=torch.arange(5),
        query_names=("validation loss",),
        query_values=torch.zeros(1),
        evidence=Evidence(),
    )
    with pytest.raises(QueryError, match="the queries test loss; these scores are about validation loss"):
        hg.evaluate(scores, bank)
    with pytest.raises(QueryError, match="are for matrices"):
        hg.evaluate(replace(scores, query_names=("test loss",)), bank, rows="queries")
    with pytest.raises(QueryError, match="at least 3 retrainings"):
        hg.evaluate(scores.values, hg.Bank.of(torch.eye(5)[:2], torch.rand(1, 2)))


def test_rankings_are_compared_at_their_ends(linear):
    run, queries, closed_form = linear
    scores = hg.attribute(run, queries, curvature="hessian")
    both = hg.top_overlap(scores, closed_form, k=4)
    assert (both.mean, both.chance, both.per_query.tolist()) == (1.0, 4 / 12, [1.0] * 4)
    assert str(both) == "100 % of the first 4 in both (chance: 33.3 %)"
    assert hg.top_overlap(scores, -closed_form, k=6).mean == 0.0
    assert hg.top_overlap(closed_form, -closed_form, k=6, effect_of=("removal", "presence")).mean == 1.0
    some = hg.attribute(run, queries[2], curvature="hessian")
    assert hg.top_overlap(scores, some, k=3, end="harmful").per_query.tolist() == [1.0]
    half = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4]])
    assert hg.top_overlap(
        half.T, torch.tensor([[4.0, 1, 3, 2], [4, 3, 2, 1]]).T, k=2, rows="samples"
    ).per_query.tolist() == [0.5, 0.0]
    for options, message in (({"k": 0}, "k must be 1 to 12"), ({"end": "best"}, "end must be one of")):
        with pytest.raises(QueryError, match=message):
            hg.top_overlap(scores, closed_form, **options)
    with pytest.raises(QueryError, match=r"of shape \(queries, samples\)"):
        hg.top_overlap(torch.zeros(3), torch.zeros(3))


def test_brittleness_is_what_leaving_out_the_most_helpful_really_does(linear):
    run, queries, closed_form = linear
    scores = hg.attribute(run, queries, curvature="hessian")
    found = hg.brittleness(run, scores, share=0.2, random=2)
    best = closed_form.topk(2).values.sum(1)
    assert found.size == 2 and torch.allclose(found.actual, best) and torch.allclose(found.predicted, best)
    assert (found.actual >= found.random).all() and found.to_frame().shape == (4, 3)
    assert str(found).startswith("Without the 2 samples that help it most a query rises by +")
    of_matrix = hg.brittleness(run, -closed_form.T, queries, share=0.2, random=2, effect_of="presence")
    assert torch.equal(of_matrix.actual, found.actual)
    with pytest.raises(QueryError, match="share must be between 0 and 1"):
        hg.brittleness(run, scores, share=1.0)
    with pytest.raises(QueryError, match="do not hold their queries"):
        hg.brittleness(run, closed_form)
    with pytest.raises(QueryError, match="about 4 of the 5 queries"):
        hg.brittleness(run, scores, [*queries, hg.query("one more", lambda model: model.weight.sum())])
