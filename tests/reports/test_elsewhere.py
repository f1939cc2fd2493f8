"""The page about a model trained elsewhere, of which checkpoints are left."""

import re
from dataclasses import replace

import pytest
import torch

import hydragrad as hg
from hydragrad.errors import QueryError, Unsupported
from hydragrad.trained_elsewhere import Checkpoints
from trained_elsewhere.states import data, loss, network, trained_states


@pytest.fixture(scope="module")
def checkpoints() -> Checkpoints:
    return hg.Checkpoints(trained_states(), network(), loss, data(24, 0))


@pytest.fixture(scope="module")
def scores(checkpoints):
    return hg.influence(checkpoints, hg.mean_loss(data(12, 1), "validation loss"))


def text_of(page):
    html = re.sub(r"<(script|style).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_page_says_that_the_model_was_trained_elsewhere(checkpoints, scores, tmp_path):
    page = hg.report(checkpoints, scores, tmp_path / "report.html", suspects=hg.suspects(checkpoints, scores))
    text = text_of(page)
    assert "A model (Sequential) was trained elsewhere on 24 samples." in text
    assert "3 checkpoints of it are left" in text and "From the checkpoints, hydragrad estimated" in text
    assert "The model, trained elsewhere" in text and checkpoints.digests[0][:12] in text
    assert "averaged over 3 checkpoints of a model trained elsewhere" in text
    assert "Not measured yet: it takes a recorded training, hg.train or hg.Recorder" in text
    for only_of_runs in (
        "hydragrad verify RUN",
        "hydragrad bound RUN",
        "Facts about the recorded training",
        "repeated exactly",
    ):
        assert only_of_runs not in text
    assert "checkpoints of a model trained elsewhere hold no record of its steps" in page.read_text()
    again = hg.report(checkpoints, scores, tmp_path / "again.html", suspects=hg.suspects(checkpoints, scores))
    assert again.read_bytes() == page.read_bytes()


def test_one_checkpoint_is_spoken_of_in_the_singular(tmp_path):
    one = hg.Checkpoints(trained_states()[-1], network(), loss, data(24, 0))
    text = text_of(hg.report(one, hg.influence(one, hg.mean_loss(data(12, 1))), tmp_path / "report.html"))
    assert "1 checkpoint of it is left" in text and "From the checkpoint, hydragrad estimated" in text
    assert "Several checkpoints of the training predict better than one." in text


def test_predictions_are_explained_by_scores_of_single_samples(checkpoints, scores, tmp_path):
    test_set = data(9, 2)
    single = hg.influence(checkpoints, hg.sample_losses(test_set, [0, 1, 2]))
    page = hg.report(checkpoints, scores, tmp_path / "report.html", explain=single, test_set=test_set).read_text()
    assert '"helpful"' in page and "explain=hg.influence" not in page
    without = hg.report(checkpoints, scores, tmp_path / "without.html").read_text()
    assert "explain=hg.influence(checkpoints, hg.sample_losses(" in without


def test_scores_of_something_else_are_refused(checkpoints, scores, tmp_path):
    page, query = tmp_path / "report.html", hg.mean_loss(data(12, 1))
    others = hg.Checkpoints(trained_states(count=2), network(), loss, data(24, 0))
    with pytest.raises(QueryError, match="about other checkpoints than these"):
        hg.report(others, scores, page)
    with pytest.raises(QueryError, match="about a recorded run, not about these checkpoints"):
        hg.report(checkpoints, scores.with_evidence(replace(scores.evidence, states=())), page)
    candidates = hg.influence(checkpoints, query, candidates=data(9, 4))
    for function in (hg.suspects, lambda *args: hg.report(*args, page)):
        with pytest.raises(QueryError, match="about candidates, which were not trained on"):
            function(checkpoints, candidates)
    with pytest.raises(QueryError, match="about other checkpoints than these"):
        hg.suspects(others, scores)
    with pytest.raises(QueryError, match="about candidates"):
        hg.report(checkpoints, scores, page, explain=candidates)


def test_scores_of_checkpoints_are_not_those_of_a_run(run, scores, tmp_path):
    for function in (hg.suspects, lambda *args: hg.report(*args, tmp_path / "report.html")):
        with pytest.raises(QueryError, match="about checkpoints of a model trained elsewhere, not about this run"):
            function(run, scores)


def test_a_store_belongs_to_a_recorded_run(run, checkpoints, scores, tmp_path):
    store = hg.hypergradients(run)
    with pytest.raises(Unsupported, match="A store's rows are those of a recorded run"):
        hg.report(checkpoints, scores, tmp_path / "report.html", explain=store, test_set=data(9, 2))
    assert torch.is_tensor(scores.values)
