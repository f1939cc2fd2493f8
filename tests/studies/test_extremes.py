"""Tables 1 and 2: the extremes are those of the scores, and what they moved is what attribution says."""

import pytest

import hydragrad as hg
from hydragrad.experiments.recipes import recipe_loss
from hydragrad.models import LeNet5
from studies.extremes import reproduce_extremes


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("extremes")
    return out, reproduce_extremes(out, data="digits", train_size=96, epochs=1, top=2, moved=2)


def test_extremes_and_what_they_moved_agree_with_attribution(study):
    out, found = study
    run = hg.Recording(out / "run", LeNet5(channels=1, classes=10), recipe_loss("digits"), found.splits.train)
    scores = hg.attribute(run, hg.mean_loss(found.splits.test))
    assert [each.sample for each in found.harmful] == scores.most_harmful(2)
    assert [each.sample for each in found.helpful] == scores.most_helpful(2)
    assert found.mean == pytest.approx(scores.row().mean().item(), rel=1e-3)
    for each in (*found.harmful, *found.helpful):
        assert each.contribution == pytest.approx(scores.row()[each.sample].item(), rel=1e-3)
        assert each.harmed[0].contribution <= each.harmed[1].contribution < each.helped[1].contribution
        for moved in (*each.harmed, *each.helped):
            single = hg.attribute(run, hg.sample_losses(found.splits.test, [moved.sample]), samples=[each.sample])
            assert moved.contribution == pytest.approx(single.values.item(), rel=1e-3)
            assert moved.label == int(found.splits.test.tensors[1][moved.sample])


def test_a_second_call_keeps_scores_and_rows(study):
    out, found = study
    files = {
        file: file.stat().st_mtime_ns for folder in ("scores", "extremes-*") for file in out.glob(f"run/{folder}/*")
    }
    assert len(files) > 3
    again = reproduce_extremes(out, data="digits", train_size=96, epochs=1, top=2, moved=2)
    assert (again.harmful, again.helpful) == (found.harmful, found.helpful)
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_pictures_show_every_sample(study):
    _, found = study
    assert len(found.table1().axes) == 4
    assert len(found.table2().axes) == 4 * (1 + 4)
