"""Scores relative to self-influence, and the overlap of what is extreme for many queries."""

from dataclasses import replace

import pytest
import torch

import hydragrad as hg
from hydragrad.errors import QueryError
from hydragrad.scores import Evidence, Method, Note
from hydragrad.scores.amounts import amounts_of
from hydragrad.scores.evidence import INFLUENCE
from hydragrad.scores.notes import of_candidates
from hydragrad.scores.relative import overlap_of

SELF = Note("self-influence", "Self-influence.")


def made(values, *notes, ids=None, **options):
    values = torch.as_tensor(values, dtype=torch.float64)
    count = values.shape[1]
    return hg.Scores(
        values=values,
        sample_ids=torch.arange(count) if ids is None else torch.tensor(ids),
        query_names=tuple(f"query {row}" for row in range(len(values))),
        query_values=torch.ones(len(values), dtype=torch.float64),
        evidence=Evidence(route=INFLUENCE, notes=notes, **options),
    )


def alike():
    """Every query is harmed by the same large samples."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, 400, generator=generator, dtype=torch.float64)
    values[:, :10] -= 20
    return values


def test_scores_are_divided_by_the_root_in_the_order_of_their_samples():
    scores = replace(
        made([[2.0, -6.0], [4.0, 0.0]], ids=[3, 1]),
        standard_errors=torch.ones(2, 2, dtype=torch.float64),
        part_contributions=torch.ones(2, 2, 3, dtype=torch.float64),
        over_time=torch.ones(2, 5, 2),
        label_contributions=torch.ones(2, 2, 4, dtype=torch.float64),
    )
    relative = scores.relative_to(made([[0.5, 9.0, 2.0, 4.0]], SELF))
    assert relative.values.tolist() == [[1.0, -2.0], [2.0, 0.0]]
    assert relative.standard_errors.tolist() == [[1 / 2, 1 / 3]] * 2
    assert relative.part_contributions[0, :, 0].tolist() == [1 / 2, 1 / 3]
    torch.testing.assert_close(relative.over_time[0, 0], torch.tensor([1 / 2, 1 / 3]))
    assert relative.label_contributions is None and relative.most_harmful(1, 0) == [1]
    assert relative.evidence.relative and not scores.evidence.relative
    with pytest.raises(QueryError, match="do not add up over samples"):
        relative.total([1])


def test_relative_scores_are_never_read_as_changes():
    scores = made([[0.2, -0.1]])
    scores = replace(scores, evidence=Evidence(method=Method(curvature="hessian")))
    relative = scores.relative_to(made([[4.0, 4.0]], SELF))
    assert scores.evidence.scale_is_measured and not relative.evidence.scale_is_measured
    assert amounts_of(scores).kind == "derivative" and amounts_of(relative).kind == "share"


def test_a_sample_without_any_influence_stays_at_zero():
    relative = made([[0.0, 1.0]]).relative_to(made([[0.0, 4.0]], SELF))
    assert relative.values.tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize(
    ("scores", "other", "message"),
    [
        (made([[1.0, 2.0]]), made([[1.0, 2.0]]), "takes what hg.self_influence returned"),
        (made([[1.0, 2.0]], Note("relative", "")), made([[1.0, 2.0]], SELF), "divides scores of queries, once"),
        (made([[1.0, 2.0]], of_candidates(2)), made([[1.0, 2.0]], SELF), "about candidates"),
        (made([[1.0, 2.0]], states=("a",)), made([[1.0, 2.0]], SELF, states=("b",)), "different checkpoints"),
        (made([[1.0, 2.0]]), made([[1.0]], SELF), r"samples \[1\] have none"),
        (made([[1.0, 2.0]]), made([[1.0, 0.0]], SELF), r"Samples \[1\] have scores but a self-influence of zero"),
    ],
)
def test_what_makes_no_relative_score_is_refused(scores, other, message):
    with pytest.raises(QueryError, match=message):
        scores.relative_to(other)


def test_queries_with_the_same_extreme_samples_are_noted_with_the_remedy(tmp_path):
    scores = made(alike(), SELF.__class__("influence", "By influence functions."))
    overlap = scores.overlap(10)
    assert overlap.harmful == 1.0 and overlap.helpful < 0.1 and overlap.by_chance == 10 / 400
    (note,) = [note for note in scores.evidence.notes if note.kind == "same samples"]
    assert "share 100 % of their 10 most harmful samples on average, 2.5 % by chance" in note.text
    assert "scores.relative_to(hg.self_influence(run))" in note.text
    scores.save(tmp_path / "scores.safetensors")
    assert hg.Scores.load(tmp_path / "scores.safetensors").evidence == scores.evidence
    size = torch.ones(1, 400, dtype=torch.float64)
    size[:, :10] = 400.0
    relative = scores.relative_to(made(size, SELF))
    assert [note.kind for note in relative.evidence.notes] == ["influence", "relative"]
    assert relative.overlap(10).harmful < 0.2


def test_unlike_queries_few_queries_and_few_samples_are_not_noted():
    values = alike()
    unlike = torch.randn(12, 400, generator=torch.Generator().manual_seed(1))
    for quiet in (unlike, values[:4], values[:, :150]):
        assert not any(note.kind == "same samples" for note in made(quiet).evidence.notes)


def test_the_overlap_is_the_mean_over_pairs_of_queries():
    values = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lowest = [set(row.argsort()[:6].tolist()) for row in values]
    pairs = [len(lowest[i] & lowest[j]) / 6 for i in range(4) for j in range(i)]
    assert overlap_of(values, 6).harmful == pytest.approx(sum(pairs) / len(pairs))
    with pytest.raises(QueryError, match="two queries or more, of 1 to 29 of their samples; there are 1, and k is 3"):
        overlap_of(values[:1], 3)
