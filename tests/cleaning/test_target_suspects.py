"""Suspects among values, several labels and classes at positions: evidence, suggestions, order, and what is saved."""

import base64
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cleaning import estimated_share, target_signals
from hydragrad.cleaning.suspicion import normal_scores
from hydragrad.errors import NonFinite
from hydragrad.replay import label_of

SIZE, LENGTH, CLASSES = 120, 6, 3
WRONG = list(range(0, SIZE, 10))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(model, loss, data, out, *, epochs=20, rate=0.2):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return hg.train(model, loss, data, optimizer, epochs=epochs, batch_size=20, out=out)


def linear(inputs, outputs):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).double()


def squares(model, batch):
    return (model(batch[0]) - batch[1].reshape(len(batch[1]), -1)).square().mean(1)


def several(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none").mean(1)


class Pointwise(nn.Module):
    """Logits (batch, classes, positions) of vectors (batch, positions, 4)."""

    def __init__(self):
        super().__init__()
        self.layer = linear(4, CLASSES)

    def forward(self, x):
        return self.layer(x).movedim(-1, 1)


def at_positions(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none").mean(1)


def value_problem():
    x = normal(SIZE, 4)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    given = y.clone()
    given[WRONG] += torch.tensor([3.0, -3.0] * (len(WRONG) // 2), dtype=torch.float64)
    return x, y, given


def label_problem():
    x = normal(SIZE, 4)
    x += x.sign()
    true = (x[:, :CLASSES] > 0).double()
    given = true.clone()
    given[WRONG, 1] = 1 - given[WRONG, 1]
    return x, true, given


def position_problem():
    x = normal(SIZE, LENGTH, 4)
    true = x[..., :CLASSES].argmax(-1)
    x[..., :CLASSES] += F.one_hot(true, CLASSES)
    given = true.clone()
    given[WRONG, :3] = (given[WRONG, :3] + 1) % CLASSES
    given[:, -1] = -100
    return x, true, given


PROBLEMS = {
    "values": (value_problem, lambda: linear(4, 1), squares),
    "multi-label": (label_problem, lambda: linear(4, CLASSES), several),
    "positions": (position_problem, Pointwise, at_positions),
}


@pytest.fixture(scope="module", params=PROBLEMS, ids=PROBLEMS)
def problem(request, tmp_path_factory):
    """Kind, run, scores, held-out query, and true targets."""
    make, model, loss = PROBLEMS[request.param]
    x, true, given = make()
    run = trained(model(), loss, TensorDataset(x, given), tmp_path_factory.mktemp("kinds") / "run")
    question = hg.mean_loss(TensorDataset(x[:50].clone(), true[:50].clone()))
    return request.param, run, hg.attribute(run, question), question, true


def test_wrong_targets_come_first_and_the_frame_says_which_kind_it_found(problem):
    kind, run, scores, question, _ = problem
    ranked = hg.suspects(run, scores, held_out=question)
    assert set(ranked["sample"].head(len(WRONG))) == set(WRONG)
    assert ranked.attrs["kind"] == kind
    assert "[1]" in ranked.attrs["how"]
    assert {"given_target", "suggested_target", "suspicion", "evidence", "contribution", "influence"} <= set(ranked)
    by_sample = ranked.set_index("sample").sort_index()
    assert by_sample["contribution"].tolist() == scores.row().tolist()
    expected = normal_scores(torch.tensor(by_sample["evidence"].to_numpy()))
    expected += 0.5 * (normal_scores(-scores.row()) - 0.5).clamp(min=0)
    expected += 0.1 * normal_scores(-torch.tensor(by_sample["influence"].to_numpy()))
    torch.testing.assert_close(torch.tensor(by_sample["suspicion"].to_numpy()), expected)


def test_classes_say_their_kind_too(noisy_run):
    run, _, scores = noisy_run
    assert hg.suspects(run, scores).attrs["kind"] == "classes"


def means(run, apply=lambda output: output):
    """What the model returns, mean over the ten checkpoints."""
    starts = [start for start, _ in run.segments][1:]
    states = [run.checkpoint(start) for start in starts] + [run.final]
    wanted = torch.linspace(0, len(run.steps), 11, dtype=torch.float64)[1:]
    places = sorted({int((torch.tensor([*starts, len(run.steps)]) - step).abs().argmin()) for step in wanted})
    outputs = []
    for place in places:
        model = run.trained_model()
        model.load_state_dict(states[place].parameters)
        with torch.no_grad():
            outputs.append(apply(model(run.train_set.tensors[0])))
    return torch.stack(outputs)


@pytest.mark.parametrize("problem", ["values"], indirect=True)
def test_a_value_is_suspect_by_its_residual_and_the_mean_over_training_is_suggested(problem):
    _, run, scores, _, _ = problem
    frame = hg.suspects(run, scores).set_index("sample").sort_index()
    outputs, given = means(run)[..., 0], run.train_set.tensors[1]
    mean = outputs.mean(0)
    torch.testing.assert_close(torch.tensor(frame["suggested_target"].to_numpy()), mean)
    torch.testing.assert_close(torch.tensor(frame["given_target"].to_numpy()), given)
    torch.testing.assert_close(torch.tensor(frame["spread"].to_numpy()), outputs.std(0, correction=0))
    residual = given - mean
    scale = (residual - residual.median()).abs().median()
    torch.testing.assert_close(torch.tensor(frame["evidence"].to_numpy()), residual.abs() / scale)
    losses = squares(run.trained_model(), run.train_set.tensors)
    torch.testing.assert_close(torch.tensor(frame["loss"].to_numpy()), losses.detach())


@pytest.mark.parametrize("problem", ["multi-label"], indirect=True)
def test_of_several_labels_the_most_suspect_class_is_shown(problem):
    _, run, scores, _, true = problem
    frame = hg.suspects(run, scores).set_index("sample").sort_index()
    p, given = means(run, torch.sigmoid).mean(0), run.train_set.tensors[1]
    against = 1 - 2 * torch.where(given == 1, p, 1 - p)
    torch.testing.assert_close(torch.tensor(frame["evidence"].to_numpy()), against.max(1).values)
    assert frame["class"].tolist() == against.argmax(1).tolist()
    assert frame["disagree"].tolist() == (against > 0).sum(1).tolist()
    wrong = frame.loc[WRONG]
    assert (wrong["class"] == 1).all() and wrong["suggested_target"].tolist() == true[WRONG, 1].long().tolist()


@pytest.mark.parametrize("problem", ["positions"], indirect=True)
def test_positions_count_where_the_loss_counts_them(problem):
    _, run, scores, _, true = problem
    frame = hg.suspects(run, scores).set_index("sample").sort_index()
    p, given = (
        means(run, lambda logits: logits.softmax(1)).mean(0).movedim(1, -1)[:, :-1],
        run.train_set.tensors[1][:, :-1],
    )
    own = p.gather(-1, given[..., None])[..., 0]
    against = p.scatter(-1, given[..., None], -1.0).max(-1).values - own
    torch.testing.assert_close(
        torch.tensor(frame["evidence"].to_numpy()), against.topk(2, 1).values.mean(1), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(torch.tensor(frame["disagree"].to_numpy()), (against > 0).double().mean(1))
    assert frame["position"].tolist() == against.argmax(1).tolist()
    wrong = frame.loc[WRONG]
    assert (wrong["disagree"] >= 0.4).all()
    places = wrong["position"].tolist()
    assert wrong["suggested_target"].tolist() == true[WRONG, places].tolist()


def test_they_are_measured_once_in_blocks_of_any_size(problem, monkeypatch, tmp_path):
    _, run, _, _, _ = problem
    first = target_signals(run, points=3)
    with monkeypatch.context() as patched:
        patched.setattr("hydragrad.cleaning.signals_of_targets._measured", lambda *_: pytest.fail("measured twice"))
        assert torch.equal(target_signals(run, points=3).against, first.against)
    (file,) = (run.path / "signals").glob("targets-points3*")
    file.unlink()
    monkeypatch.setattr("hydragrad.cleaning.signals_of_targets.AT_ONCE", 7)
    monkeypatch.setattr("hydragrad.cleaning.signals_of_targets.HELD", 50)
    again = target_signals(run, points=3)
    torch.testing.assert_close(again.against, first.against)
    assert all(torch.allclose(again.columns[name], column) for name, column in first.columns.items())


def test_checkpoints_of_a_model_trained_elsewhere_have_them_too(problem):
    kind, run, _, question, _ = problem
    states = [run.checkpoint(start).parameters for start, _ in run.segments[1::3]] + [run.final.parameters]
    elsewhere = hg.Checkpoints(states, run.model, run.loss, run.train_set)
    ranked = hg.suspects(elsewhere, hg.influence(elsewhere, question))
    assert ranked.attrs["kind"] == kind
    assert set(ranked["sample"].head(len(WRONG))) == set(WRONG)


def test_a_subset_of_samples_is_ranked_by_itself(problem):
    _, run, _, question, _ = problem
    ranked = hg.suspects(run, hg.attribute(run, question, samples=[5, 10, 8]))
    assert ranked["sample"].tolist()[0] == 10 and len(ranked) == 3


def test_without_signals_the_contribution_alone_ranks(problem):
    kind, run, scores, _, _ = problem
    ranked = hg.suspects(run, scores, signals=None)
    assert ranked["contribution"].is_monotonic_increasing
    assert ranked.attrs["kind"] == kind
    assert list(ranked) == ["sample", "suspicion", "contribution"]


def test_a_report_shows_their_order_and_no_labels(problem, tmp_path):
    _, run, scores, _, _ = problem
    ranked = hg.suspects(run, scores)
    page = hg.report(run, scores, tmp_path / "page.html", suspects=ranked).read_text()
    data = json.loads(page.split('<script type="application/json"')[1].split(">", 1)[1].split("</script>")[0])
    order = np.frombuffer(base64.b64decode(data["samples"]["id"]["u4"]), "<u4")
    assert order.tolist() == ranked["sample"].tolist()
    assert not {"given", "suggested"} & set(data["samples"]) and not data["labels"]["names"]
    assert "carry a wrong label" not in page.split("<script")[0]


def test_the_share_of_wrong_targets_is_estimated_from_the_evidence(problem):
    kind, run, scores, _, _ = problem
    ranked = hg.suspects(run, scores)
    limit = 3 if kind == "values" else 0
    assert estimated_share(ranked) == (ranked["evidence"] > limit).mean()
    assert 0.05 < estimated_share(ranked) < 0.2  # a tenth is wrong


def test_samples_of_which_the_model_returns_nan_are_named(tmp_path):
    x, _, given = value_problem()
    data = TensorDataset(x, given)
    run = trained(linear(4, 1), squares, data, tmp_path / "run", epochs=1)
    x[118] = float("nan")
    elsewhere = hg.Checkpoints(run.final.parameters, run.model, squares, TensorDataset(x, given))
    with pytest.raises(NonFinite, match="of samples 0 to 119 some are NaN or infinite"):
        target_signals(elsewhere)


class NextToken(nn.Module):
    """Logits (batch, positions, classes) of the token after each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 9).double()

    def forward(self, ids):
        return self.embedding(ids)


def of_next_tokens(model, batch):
    logits = model(batch[0])[:, :-1]
    return F.cross_entropy(logits.movedim(-1, 1), batch[0][:, 1:], reduction="none").mean(1)


def cut_before_the_model(model, batch):
    logits = model(batch[0][:, :-1])
    return F.cross_entropy(logits.movedim(-1, 1), batch[0][:, 1:], reduction="none").mean(1)


@pytest.mark.parametrize("of_next_tokens", [of_next_tokens, cut_before_the_model])
def test_a_wrong_token_is_shown_where_it_stands_in_the_batch(tmp_path, of_next_tokens):
    ids = (torch.arange(SIZE)[:, None] + torch.arange(7)) % 9
    ids[50, 4] = (ids[50, 4] + 5) % 9
    run = trained(NextToken(), of_next_tokens, TensorDataset(ids), tmp_path / "run", rate=5)
    ranked = hg.suspects(run, hg.attribute(run, hg.mean_loss(TensorDataset(ids[:20].clone()))))
    first = ranked.iloc[0]
    assert first["sample"] == 50 and first["position"] in (4, 5)  # it is unexpected, and so is the one after it
    assert first["given_target"] == ids[50, int(first["position"])]
    assert first["suggested_target"] == (ids[50, int(first["position"]) - 1] + 1) % 9


def test_one_logit_is_a_class_that_is_0_or_1(tmp_path):
    x = normal(SIZE, 3)
    x += x.sign()
    true = (x[:, 0] > 0).double()
    given = true.clone()
    given[WRONG] = 1 - given[WRONG]
    run = trained(
        linear(3, 1),
        lambda m, b: F.binary_cross_entropy_with_logits(m(b[0])[:, 0], b[1], reduction="none"),
        TensorDataset(x, given),
        tmp_path / "run",
    )
    ranked = hg.suspects(run, hg.attribute(run, hg.mean_loss(TensorDataset(x[:40].clone(), true[:40].clone()))))
    assert ranked.attrs["kind"] == "multi-label" and "class" not in ranked
    first = ranked.head(len(WRONG))
    assert set(first["sample"]) == set(WRONG)
    assert first["suggested_target"].tolist() == true[first["sample"].tolist()].tolist()


def test_several_labels_of_which_most_samples_have_one_are_not_taken_for_classes(tmp_path):
    labels = F.one_hot(torch.arange(400) % CLASSES, CLASSES).double()
    labels[333] = 1
    x = normal(400, 4) + F.pad(labels, (0, 1))
    run = trained(linear(4, CLASSES), several, TensorDataset(x, labels), tmp_path / "run", epochs=2)
    assert label_of(run).one_hot  # no batch that was looked at holds sample 333
    ranked = hg.suspects(run, hg.attribute(run, hg.mean_loss(TensorDataset(x[:40].clone(), labels[:40].clone()))))
    assert ranked.attrs["kind"] == "multi-label"


def test_random_numbers_go_on_as_if_nothing_had_been_asked(problem):
    _, run, _, question, _ = problem
    scores = hg.attribute(run, question)
    for file in (run.path / "signals").glob("*"):
        file.unlink()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ranked = hg.suspects(run, scores, held_out=question)
    hg.suspect_groups(run, ranked, first=5)
    hg.near_duplicates(run, first=1)
    assert torch.equal(torch.rand(2), expected)


def test_saved_ones_give_the_same_frame(problem):
    _, run, scores, question, _ = problem
    for file in (run.path / "signals").glob("targets*"):
        file.unlink()
    first, again = (hg.suspects(run, scores, held_out=question) for _ in range(2))
    assert again.equals(first) and again.attrs == first.attrs and list(again) == list(first)
