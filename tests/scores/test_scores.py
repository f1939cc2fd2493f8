"""Scores: rows, ranks, groups, files."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import hydragrad as hg
from hydragrad.disk import save_sealed
from hydragrad.errors import QueryError, RunDamaged
from hydragrad.scores import MEANING, Check, Evidence, Method, Note

EVIDENCE = Evidence(
    method=Method.of("none"),
    route="hooks",
    steps=12,
    replay_drift=1e-9,
    notes=(Note("replays", "A note."), Note("other", "Another.")),
    checks=(Check(slope=0.9, groups=3),),
)


def scores(*, labels: bool = True, queries: int = 2) -> hg.Scores:
    values = torch.tensor([[0.5, -1.0, 2.0, -0.25], [3.0, 3.0, -4.0, 0.0]], dtype=torch.float64)[:queries]
    generator = torch.Generator().manual_seed(0)
    return hg.Scores(
        values=values,
        sample_ids=torch.tensor([10, 4, 7, 0]),
        query_names=("held out", "loss of sample 3")[:queries],
        query_values=torch.tensor([0.7, 1.25], dtype=torch.float64)[:queries],
        standard_errors=values.abs() / 10 if labels else None,
        label_contributions=torch.randn(queries, 4, 3, generator=generator, dtype=torch.float64) if labels else None,
        evidence=EVIDENCE,
    )


@pytest.mark.parametrize("labels", [True, False])
def test_saved_and_loaded_they_are_the_same(labels, tmp_path):
    saved = scores(labels=labels)
    saved.save(tmp_path / "new" / "folder" / "scores.safetensors")
    loaded = hg.Scores.load(tmp_path / "new" / "folder" / "scores.safetensors")
    for name in ("values", "sample_ids", "query_values", "standard_errors", "label_contributions"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert (before is None and after is None) or (torch.equal(before, after) and before.dtype == after.dtype)
    assert loaded.query_names == saved.query_names
    assert loaded.evidence == saved.evidence


def test_what_every_epoch_added_is_kept(tmp_path):
    told = replace(scores(), over_time=torch.arange(24, dtype=torch.float32).reshape(2, 3, 4))
    told.save(tmp_path / "s")
    assert torch.equal(hg.Scores.load(tmp_path / "s").over_time, told.over_time)
    assert scores().over_time is None


def test_contributions_of_parts_are_kept_and_files_of_earlier_versions_have_none(tmp_path):
    parts = torch.full((2, 4, 3), torch.nan, dtype=torch.float64)
    parts[..., :2] = scores().values[..., None] / 2
    replace(scores(), part_contributions=parts).save(tmp_path / "with")
    loaded = hg.Scores.load(tmp_path / "with").part_contributions
    assert loaded.dtype == torch.float64 and torch.allclose(loaded, parts, rtol=0, atol=0, equal_nan=True)
    tensors, metadata = scores().packed()
    assert "part_contributions" not in tensors, "the file is as before where there are no parts"
    save_sealed(tensors, tmp_path / "earlier", metadata)
    assert hg.Scores.load(tmp_path / "earlier").part_contributions is None


def test_a_transposed_view_can_be_saved(tmp_path):
    given = scores(labels=False)
    transposed = hg.Scores(
        values=given.values.T.contiguous().T,
        sample_ids=given.sample_ids,
        query_names=given.query_names,
        query_values=given.query_values,
        evidence=given.evidence,
    )
    transposed.save(tmp_path / "s")
    assert torch.equal(hg.Scores.load(tmp_path / "s").values, given.values)


def test_files_that_are_no_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There are no scores at .*missing.*hg.attribute"):
        hg.Scores.load(tmp_path / "missing")
    whole = tmp_path / "whole"
    scores().save(whole)
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:-9])
    (tmp_path / "text").write_text("id,score\n1,2\n")
    (tmp_path / "empty").write_bytes(b"")
    save_file({"values": torch.zeros(1, 1)}, tmp_path / "no metadata")
    save_file({"values": torch.zeros(1, 1)}, tmp_path / "other metadata", {"a": "b"})
    save_file({"values": torch.zeros(1, 1)}, tmp_path / "no json", {"query_names": "[", "evidence": "{}"})
    metadata = {"query_names": json.dumps(["a"]), "evidence": json.dumps(EVIDENCE.to_dict())}
    save_file({"values": torch.zeros(1, 1)}, tmp_path / "tensors missing", metadata)
    for name in ("cut", "text", "empty", "no metadata", "other metadata", "no json", "tensors missing"):
        with pytest.raises(RunDamaged, match=f"{name} is no scores file.*Compute the scores again"):
            hg.Scores.load(tmp_path / name)


def test_most_harmful_and_most_helpful():
    given = scores()
    assert given.most_harmful(2, "held out") == [4, 0]
    assert given.most_helpful(2, 0) == [7, 10]
    assert given.most_helpful(2, "loss of sample 3") == [10, 4], "ties in the order of the samples"
    assert given.most_harmful(1, 1) == [7]
    assert given.most_harmful(99, 0) == [4, 0, 10, 7]
    assert given.most_helpful(0, 0) == []
    assert scores(queries=1).most_harmful(1) == [4], "one query need not be named"


def test_groups_add_up():
    given = scores()
    assert given.total([7, 0]).tolist() == [1.75, -4.0]
    assert given.total([]).tolist() == [0.0, 0.0]
    torch.testing.assert_close(given.total([10, 4, 7, 0]), given.values.sum(1))
    with pytest.raises(QueryError, match=r"Samples \[3, 11\] have no score; these scores cover 4"):
        given.total([4, 3, 11])


def test_queries_are_named_or_numbered():
    given = scores()
    assert torch.equal(given.row("held out"), given.values[0])
    assert torch.equal(given.row(1), given.values[1])
    assert torch.equal(scores(queries=1).row(), given.values[0])
    with pytest.raises(QueryError, match=r"answer 2 queries \(held out, loss of sample 3\); none was named. Name one"):
        given.row()
    for wrong in ("loss of sample 4", 2, -1):
        with pytest.raises(QueryError, match=f"got {wrong!r}"):
            given.most_helpful(1, wrong)
    with pytest.raises(QueryError, match="none was named"):
        given.most_harmful(1)


def test_long_lists_of_queries_are_cut_in_messages():
    many = hg.Scores(
        values=torch.zeros(20, 1),
        sample_ids=torch.tensor([0]),
        query_names=tuple(f"q{i}" for i in range(20)),
        query_values=torch.zeros(20),
        evidence=EVIDENCE,
    )
    with pytest.raises(QueryError, match=r"q7, \.\.\.\); got 'x'"):
        many.row("x")


def test_suggested_labels():
    given = scores()
    assert given.suggested_labels("held out").tolist() == given.label_contributions[0].argmax(1).tolist()
    with pytest.raises(QueryError, match=r"no label contributions.*labels=True"):
        scores(labels=False).suggested_labels(0)


def test_the_frame_says_sign_and_unit():
    frame = scores().to_frame()
    assert frame.columns.name == MEANING == "contribution (positive helps; unit of the query)"
    both = [name + more for name in ("held out", "loss of sample 3") for more in ("", " (standard error)")]
    assert list(frame.columns) == both
    assert frame.loc[7, "loss of sample 3 (standard error)"] == 0.4
    assert list(scores(labels=False).to_frame().columns) == ["held out", "loss of sample 3"]
    assert frame.index.name == "sample" and frame.index.tolist() == [10, 4, 7, 0]
    assert frame.loc[7, "loss of sample 3"] == -4.0
    assert MEANING in frame.to_string()


def test_evidence_goes_through_json():
    again = Evidence.from_dict(json.loads(json.dumps(EVIDENCE.to_dict())))
    assert again == EVIDENCE
    later = EVIDENCE.to_dict() | {"an entry of a later version": 1}
    assert Evidence.from_dict(later) == EVIDENCE
    assert Evidence.from_dict({"curvature": "ggn"}) == Evidence(method=Method.of("ggn"))


def test_when_a_scale_may_be_trusted():
    assert not Evidence(method=Method.of("none")).scale_is_measured
    assert Evidence(method=Method.of("none"), checks=(Check(slope=1.0),)).scale_is_measured
    assert Evidence(method=Method.of("hessian")).scale_is_measured


def test_a_name_that_two_queries_share_is_asked_by_number():
    scores = hg.Scores(
        values=torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64),
        sample_ids=torch.arange(2),
        query_names=("same", "same"),
        query_values=torch.zeros(2, dtype=torch.float64),
        evidence=Evidence(),
    )
    with pytest.raises(QueryError, match=r"named 'same': rows \[0, 1\]"):
        scores.most_harmful(1, "same")
    assert scores.most_harmful(1, 1) == [1]


def test_a_file_of_scores_in_the_place_of_another_is_warned_of(tmp_path):
    saved = scores()
    saved.save(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    with pytest.warns(UserWarning, match=r"was saved as a\.safetensors"):
        assert torch.equal(hg.Scores.load(tmp_path / "b.safetensors").values, saved.values)
