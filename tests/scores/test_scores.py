"""Scores: kept, asked, and refused."""

import pytest
import torch

import hydragrad as hg
from hydragrad.errors import QueryError, RunDamaged
from hydragrad.scores import MEANING, Evidence


def scores(*, labels: bool = True) -> hg.Scores:
    return hg.Scores(
        values=torch.tensor([[0.5, -2.0, 1.0], [3.0, 0.0, -1.0]], dtype=torch.float64),
        sample_ids=torch.tensor([7, 3, 9]),
        query_names=("a", "b"),
        query_values=torch.tensor([0.1, 0.2], dtype=torch.float64),
        evidence=Evidence(curvature="ggn", damping=0.1, steps=4, notes=("One.",), checks=({"slope": 0.9},)),
        label_contributions=torch.arange(12).view(2, 3, 2).double() if labels else None,
    )


@pytest.mark.parametrize("labels", [True, False])
def test_they_survive_a_file(labels, tmp_path):
    before = scores(labels=labels)
    before.save(tmp_path / "new" / "scores.safetensors")
    after = hg.Scores.load(tmp_path / "new" / "scores.safetensors")
    for name in ("values", "sample_ids", "query_values"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert after.query_names == before.query_names and after.evidence == before.evidence
    assert (after.label_contributions is not None) == labels


def test_extremes_totals_and_labels():
    asked = scores()
    assert asked.most_harmful(2, "a") == [3, 7] and asked.most_helpful(2, 1) == [7, 3]
    assert asked.total([9, 7]).tolist() == [1.5, 2.0]
    assert asked.suggested_labels("b").tolist() == [1, 1, 1]
    with pytest.raises(QueryError, match="labels=True"):
        scores(labels=False).suggested_labels("a")


def test_the_table_says_what_it_holds():
    frame = scores().to_frame()
    assert frame.columns.name == MEANING and frame.index.name == "sample"
    assert frame.loc[3, "a"] == -2.0 and list(frame.index) == [7, 3, 9]


@pytest.mark.parametrize(("query", "message"), [(None, "none was named"), ("c", "'c' came"), (2, "2 came")])
def test_unknown_queries(query, message):
    with pytest.raises(QueryError, match=message):
        scores().row(query)


def test_samples_without_a_score():
    with pytest.raises(QueryError, match=r"Samples \[4\] have no score"):
        scores().total([3, 4])


def test_files_that_are_no_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match="no scores at"):
        hg.Scores.load(tmp_path / "none")
    path = tmp_path / "scores.safetensors"
    scores().save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunDamaged, match="no scores file"):
        hg.Scores.load(path)


def test_the_scale_is_measured_by_curvature_or_a_check():
    assert not Evidence(curvature="none").scale_is_measured
    assert Evidence(curvature="none", checks=({},)).scale_is_measured
    assert Evidence(curvature="hessian").scale_is_measured
