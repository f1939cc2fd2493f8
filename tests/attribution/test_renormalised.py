"""removal="renormalised": central differences of loops whose batch means are taken over what sample weights leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution import oracle
from cases import ADAPTIVE, ADAPTIVE_CASES, CASES, SAMPLES, SEED, Case, collate, loop
from hydragrad.attribution import replays
from hydragrad.errors import QueryError, Unsupported
from hydragrad.randomness import preserved, reseed, stream_seed
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain

H = 1e-5


# --- every optimizer, one batch a step


def retrain_on_the_rest(case: Case, weights: Tensor) -> nn.Module:
    """Train as recorded, with the weighted mean of every batch's losses."""
    model, train_set = case.build(), case.train_set
    optimizer = case.options.optimizer(model)

    def one_step(step: int, indices: list[int]) -> float:
        reseed(stream_seed(SEED, step))
        optimizer.zero_grad()
        losses = case.loss(model, collate(train_set, indices))
        ((weights[indices] * losses).sum() / weights[indices].sum()).backward()
        optimizer.step()
        return losses.detach().mean().item()

    with preserved():
        loop(case, model, optimizer, one_step)
    return model


OF_SGD = (
    "momentum",
    "nesterov",
    "maximize",
    "two_groups",
    "plateau",
    "late",
    "regrouped",
    "warm",
    "replacement",
    "asgd",
)
EVERY_OPTIMIZER = [
    case for case in CASES + ADAPTIVE_CASES if case.model_name == "mlp" and (case.options_name in (*OF_SGD, *ADAPTIVE))
]
OTHER_MODELS = [Case("batch_norm", "all"), Case("dropout", "cosine", by_train=True), Case("two_calls", "all")]


@pytest.mark.parametrize(
    "case",
    [case for case in EVERY_OPTIMIZER + OTHER_MODELS if case.options.reduction == "mean"],
    ids=lambda case: case.name,
)
def test_it_is_the_derivative_of_the_weighted_mean(case, recorded):
    query = oracle.mean_loss(case, case.held_out)
    expected = []
    for sample in (0, 7):
        direction = torch.zeros(SAMPLES, dtype=torch.float64)
        direction[sample] = H
        ends = [query(retrain_on_the_rest(case, 1 + sign * direction)).item() for sign in (1, -1)]
        expected.append((ends[1] - ends[0]) / (2 * H))
    run = recorded(case)
    options = {"curvature": "hessian", "smoothing": 0}
    found = hg.attribute(run, hg.mean_loss(case.held_out), removal="renormalised", **options)
    plain = hg.attribute(run, hg.mean_loss(case.held_out), samples=[0, 7], **options)
    assert oracle.relative(found.values[0, [0, 7]], torch.tensor(expected)) < 1e-6
    assert oracle.relative(plain.values[0], torch.tensor(expected)) > 1e-3


# --- every kind of mean, several batches a step

MICRO_BATCHES = ([[0, 1, 2], [3, 4, 5]], [[5, 6, 3], [7, 8, 0]], [[8, 3, 1], [2, 6, 4]], [[4, 5, 8], [7, 0, 2]])
UNEQUAL = ([[0, 1, 2], [3, 4]], [[5, 6], [7, 8, 0]], [[8, 3, 1], [2, 6]], [[4, 5], [7, 0]])
ONE = ([[0, 1, 2, 3]], [[4, 5, 6]], [[7, 8, 1, 2]], [[5]])
CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)
COUNT, PAD = 9, -100


def _data(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(points, torch.randint(3, (count,), generator=generator))


TRAIN, HELD_OUT = _data(COUNT, 0), _data(5, 1)


def _tokens(data: TensorDataset) -> Tensor:
    """Four labels a sample, of which some are padding."""
    labels = torch.stack([(data.tensors[1] + shift) % 3 for shift in range(4)], 1)
    for sample in range(len(labels)):
        labels[sample, 1 + sample % 4 :] = PAD
    return labels


TEXTS = TensorDataset(TRAIN.tensors[0], _tokens(TRAIN))
HELD_OUT_TEXTS = TensorDataset(HELD_OUT.tensors[0], _tokens(HELD_OUT))


def classify(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def linear_loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Linear in the weights of a linear model, so that dropping the curvature drops nothing."""
    return -model(batch[0]).gather(1, batch[1][:, None])[:, 0]


def of_tokens(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    logits = model(batch[0])[:, None].expand(-1, 4, -1) * torch.arange(1, 5, dtype=torch.float64)[:, None]
    losses = F.cross_entropy(logits.transpose(1, 2), batch[1], ignore_index=PAD, reduction="none")
    return losses, batch[1] != PAD


TOKEN_SUMS, TOKEN_MEANS = hg.loss_of_parts(of_tokens, reduce="sum"), hg.loss_of_parts(of_tokens)


def mlp() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(4, 3).double()


Reduce = Callable[[list[Tensor], list[Tensor], list[list[int]]], list[Tensor]]
"""Losses, sample weights and samples of a step's micro-batches to what each is differentiated of."""


def mean_of_each(losses: list[Tensor], alpha: list[Tensor], samples: Any) -> list[Tensor]:
    return [(a * l).sum() / a.sum() / len(losses) for l, a in zip(losses, alpha, strict=True)]


def mean_of_all(losses: list[Tensor], alpha: list[Tensor], samples: Any) -> list[Tensor]:
    return [(a * l).sum() / torch.cat(alpha).sum() for l, a in zip(losses, alpha, strict=True)]


def scaled_mean(losses: list[Tensor], alpha: list[Tensor], samples: Any) -> list[Tensor]:
    return [3 * one for one in mean_of_each(losses, alpha, samples)]


def class_weights(losses: list[Tensor], alpha: list[Tensor], samples: list[list[int]]) -> list[Tensor]:
    weights = [CLASS_WEIGHTS[TRAIN.tensors[1][some]] for some in samples]
    every = zip(losses, alpha, weights, strict=True)
    return [(a * w * l).sum() / (a * w).sum() / len(losses) for l, a, w in every]


def _token_counts(samples: list[list[int]]) -> list[Tensor]:
    return [(TEXTS.tensors[1][some] != PAD).sum(1) for some in samples]


def token_mean_of_all(losses: list[Tensor], alpha: list[Tensor], samples: list[list[int]]) -> list[Tensor]:
    whole = sum((a * n).sum() for a, n in zip(alpha, _token_counts(samples), strict=True))
    return [(a * l).sum() / whole for l, a in zip(losses, alpha, strict=True)]


def token_mean_of_each(losses: list[Tensor], alpha: list[Tensor], samples: list[list[int]]) -> list[Tensor]:
    every = zip(losses, alpha, _token_counts(samples), strict=True)
    return [(a * l).sum() / (a * n).sum() / len(losses) for l, a, n in every]


def token_weights(losses: list[Tensor], alpha: list[Tensor], samples: list[list[int]]) -> list[Tensor]:
    """The same as the last of losses that are means over their own tokens."""
    counted = [l * n for l, n in zip(losses, _token_counts(samples), strict=True)]
    return token_mean_of_each(counted, alpha, samples)


def added_up(losses: list[Tensor], alpha: list[Tensor], samples: Any) -> list[Tensor]:
    return [(a * l).sum() for l, a in zip(losses, alpha, strict=True)]


def added_up_and_scaled(losses: list[Tensor], alpha: list[Tensor], samples: Any) -> list[Tensor]:
    return [0.2 * one for one in added_up(losses, alpha, samples)]


@dataclass(frozen=True)
class Loop:
    """A training loop: what it minimises, over which micro-batches, and by which optimizer."""

    name: str
    reduce: Reduce
    steps: Any = MICRO_BATCHES
    loss: Any = classify
    build: Callable[[], nn.Module] = mlp
    optimizer: Callable[[Any], Any] = lambda parameters: SGD(parameters, lr=0.3, momentum=0.8, weight_decay=0.1)
    clip: float | None = None

    @property
    def data(self) -> TensorDataset:
        return TEXTS if self.loss in (TOKEN_SUMS, TOKEN_MEANS) else TRAIN

    @property
    def held_out(self) -> TensorDataset:
        return HELD_OUT_TEXTS if self.data is TEXTS else HELD_OUT

    def train(self, alpha: Tensor) -> nn.Module:
        """Train with sample weights."""
        model = self.build()
        optimizer = self.optimizer(model.parameters())
        for step in self.steps:
            optimizer.zero_grad()
            losses = [self.loss(model, self.data[some]) for some in step]
            for one in self.reduce(losses, [alpha[some] for some in step], step):
                # A mean over nothing is 0, and the optimizer steps all the same.
                (one if bool(one.isfinite()) else 0 * torch.cat(losses).sum()).backward(retain_graph=True)
            if self.clip is not None:
                clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
        return model

    def record(self, path: Path) -> hg.Recording:
        model = self.build()
        optimizer = self.optimizer(model.parameters())
        ones = torch.ones(COUNT, dtype=torch.float64)
        with hg.Recorder(path, model, optimizer, self.loss, self.data) as recorder:
            for step in self.steps:
                for number, some in enumerate(step):
                    with recorder.step(some) as handle, torch.enable_grad():
                        losses: list[Any] = [torch.zeros(len(part), dtype=torch.float64) for part in step]
                        losses[number] = handle.losses(self.data[some])
                        self.reduce(losses, [ones[part] for part in step], step)[number].backward()
                        if number == len(step) - 1:
                            if self.clip is not None:
                                clip_grad_norm_(model.parameters(), self.clip)
                            optimizer.step()
                            optimizer.zero_grad()
        return hg.Recording(path, self.build(), self.loss, self.data)

    def value(self, alpha: Tensor) -> float:
        return float(self.loss(self.train(alpha), self.held_out.tensors).mean().detach())

    def contributions(self, samples: Sequence[int]) -> Tensor:
        """By central differences."""
        result = []
        for sample in samples:
            ends = []
            for sign in (1, -1):
                alpha = torch.ones(COUNT, dtype=torch.float64)
                alpha[sample] += sign * H
                ends.append(self.value(alpha))
            result.append((ends[1] - ends[0]) / (2 * H))
        return torch.tensor(result, dtype=torch.float64)


def adamw(parameters: Any) -> AdamW:
    return AdamW(parameters, lr=0.02, eps=1e-4)


LOOPS = {
    loop.name: loop
    for loop in (
        Loop("one batch a step", mean_of_each, ONE),
        Loop("mean of each micro-batch", mean_of_each),
        Loop("mean of all of unequal ones", mean_of_all, UNEQUAL),
        Loop("unequal means of each", mean_of_each, UNEQUAL),
        Loop("clipped", mean_of_each, clip=0.05),
        Loop("clipped adamw", mean_of_each, optimizer=adamw, clip=0.05),
        Loop("scaled", scaled_mean, ONE),
        Loop("class weights", class_weights),
        Loop("token means of steps", token_mean_of_all, UNEQUAL, TOKEN_SUMS),
        Loop("token means of each", token_mean_of_each, UNEQUAL, TOKEN_SUMS, optimizer=adamw),
        Loop("token weights", token_weights, UNEQUAL, TOKEN_MEANS),
    )
}
SUMS = [Loop("sum", added_up, ONE), Loop("scaled sum", added_up_and_scaled, UNEQUAL)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made: dict[str, hg.Recording] = {}

    def get(loop: Loop) -> hg.Recording:
        if loop.name not in made:
            made[loop.name] = loop.record(tmp_path_factory.mktemp("loops") / "run")
        return made[loop.name]

    return get


@pytest.mark.parametrize("loop", LOOPS.values(), ids=lambda loop: loop.name)
def test_every_mean_is_over_what_the_weights_leave(loop, runs):
    expected = loop.contributions([0, 2, 5])
    options = {"curvature": "hessian", "smoothing": 0}
    found = hg.attribute(runs(loop), hg.mean_loss(loop.held_out), removal="renormalised", **options)
    assert oracle.relative(found.values[0, [0, 2, 5]], expected) < 1e-6
    plain = hg.attribute(runs(loop), hg.mean_loss(loop.held_out), **options)
    assert oracle.relative(plain.values[0, [0, 2, 5]], expected) > 1e-2
    assert abs(float(found.values.sum())) < 1e-12  # all weights times a number change no mean


@pytest.mark.parametrize("loop", LOOPS.values(), ids=lambda loop: loop.name)
def test_a_retraining_takes_the_mean_over_the_rest(loop, runs):
    query = hg.mean_loss(loop.held_out)
    groups, weights = [[0, 3], [6]], [0.0, 2.5]
    found = hg.counterfactual(runs(loop), groups, query, weight=weights, removal="renormalised", keep=False)
    before = loop.value(torch.ones(COUNT, dtype=torch.float64))
    for number, (group, weight) in enumerate(zip(groups, weights, strict=True)):
        alpha = torch.ones(COUNT, dtype=torch.float64)
        alpha[group] = weight
        assert found.values[0, number].item() == pytest.approx(loop.value(alpha) - before, rel=1e-7)
    unchanged = hg.counterfactual(runs(loop), [[0]], query, weight=1.0, removal="renormalised", keep=False)
    assert unchanged.values.item() == 0.0


@pytest.mark.parametrize("loop", SUMS, ids=lambda loop: loop.name)
def test_a_sum_is_over_the_rest_as_it_is(loop, runs):
    run, query = runs(loop), hg.mean_loss(loop.held_out)
    for curvature in ("none", "hessian"):
        both = [hg.attribute(run, query, curvature=curvature, removal=r).values for r in ("weight", "renormalised")]
        assert torch.equal(*both)
    assert oracle.relative(both[0][0, [0, 5]], loop.contributions([0, 5])) < 1e-6
    both = [hg.counterfactual(run, [[0, 3]], query, removal=r).values for r in ("weight", "renormalised")]
    assert torch.equal(*both)


def test_a_batch_of_which_nothing_is_left_adds_no_gradient(runs):
    loop = LOOPS["one batch a step"]  # its last batch is sample 5 alone
    found = hg.counterfactual(runs(loop), [[5]], hg.mean_loss(HELD_OUT), removal="renormalised", keep=False)
    alpha = torch.ones(COUNT, dtype=torch.float64)
    before = loop.value(alpha)
    alpha[5] = 0.0
    assert found.values.item() == pytest.approx(loop.value(alpha) - before, rel=1e-9)


# --- without curvature, and with the Gauss-Newton matrix


@pytest.mark.parametrize("steps", [MICRO_BATCHES, ONE], ids=["micro-batches", "one"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dropping_a_curvature_of_zero_drops_nothing(steps, optimizer, tmp_path):
    loop = Loop("linear", mean_of_each, steps, linear_loss, linear)
    loop = Loop("linear", mean_of_each, steps, linear_loss, linear, adamw) if optimizer == "adamw" else loop
    run, query = loop.record(tmp_path / "run"), hg.mean_loss(HELD_OUT)
    expected = loop.contributions(range(COUNT))
    routes = ("hooks", "jvp", "samples") if optimizer == "sgd" else ("auto",)
    for route in routes:
        found = hg.attribute(run, query, removal="renormalised", smoothing=0, route=route)
        assert oracle.relative(found.values[0], expected) < 1e-6
    some = hg.attribute(run, query, removal="renormalised", smoothing=0, samples=[4, 1], stretches=2)
    assert oracle.relative(some.values[0], expected[[4, 1]]) < 1e-6
    assert torch.allclose(some.over_time.double().sum(1), some.values, rtol=1e-5)


def test_the_gauss_newton_matrix_of_a_linear_model_is_its_hessian(tmp_path):
    loop = Loop("linear", mean_of_each, build=linear)
    run = loop.record(tmp_path / "run")
    found = hg.attribute(run, hg.mean_loss(HELD_OUT), curvature="ggn", removal="renormalised")
    assert oracle.relative(found.values[0, [0, 5]], loop.contributions([0, 5])) < 1e-6


@pytest.mark.parametrize("name", ["mean of each micro-batch", "class weights", "token means of steps"])
def test_replays_are_differentiated_where_they_are(name, runs):
    loop = LOOPS[name]
    run, query = runs(loop), hg.mean_loss(loop.held_out)
    found = hg.attribute(run, query, curvature="hessian", replays=1, drop=0.3, removal="renormalised")
    dropped = replays.leave_out(COUNT, 0.3, 0).weights

    def value(weights: dict[int, float]) -> float:
        alpha = torch.ones(COUNT, dtype=torch.float64)
        for sample, weight in weights.items():
            alpha[sample] = weight
        return loop.value(alpha)

    for sample in (0, 7, next(iter(dropped))):
        at = dropped.get(sample, 1.0)
        slope = (value(dropped | {sample: at + H}) - value(dropped | {sample: at - H})) / (2 * H)
        assert found.values[0, sample].item() == pytest.approx(-slope, rel=1e-6)
    ((_, state),) = retrain(run, [Change(weights=dropped, renormalised=True)], keep=False)
    model = run.trained_model()
    model.load_state_dict(state)
    again = loop.loss(model, loop.held_out.tensors).mean().item()
    assert again == pytest.approx(value(dropped), rel=1e-12)


# --- labels and parts


def test_contributions_of_every_label_count_the_label_in_the_mean_too(tmp_path):
    loop = Loop("one step", mean_of_each, [[[0, 1, 2, 3]]], optimizer=lambda parameters: SGD(parameters, lr=0.3))
    run = loop.record(tmp_path / "run")
    model = run.trained_model().requires_grad_(True)
    towards = torch.autograd.grad(classify(model, HELD_OUT.tensors).mean(), list(model.parameters()))
    for curvature in ("none", "hessian"):
        found = hg.attribute(run, hg.mean_loss(HELD_OUT), curvature=curvature, labels=True, removal="renormalised")
        points, labels = TRAIN[[0, 1, 2, 3]]
        for sample in range(4):
            for label in range(3):
                relabelled = labels.clone()
                relabelled[sample] = label
                start = mlp()
                losses = classify(start, (points, relabelled))
                weights = list(start.parameters())
                each = [torch.autograd.grad(one, weights, retain_graph=True) for one in losses]
                along = [sum((a * b).sum() for a, b in zip(one, towards, strict=True)) for one in each]
                expected = 0.3 / 4 * (along[sample] - sum(along) / 4)
                assert found.label_contributions[0, sample, label].item() == pytest.approx(float(expected), rel=1e-9)
            assert found.label_contributions[0, sample, labels[sample]] == pytest.approx(found.values[0, sample].item())


@pytest.mark.parametrize("name", ["token means of steps", "token means of each"])
def test_contributions_of_tokens_are_those_of_their_weights_in_the_mean(name, runs):
    loop = LOOPS[name]
    run, query = runs(loop), hg.mean_loss(HELD_OUT_TEXTS)
    options = {"curvature": "hessian", "smoothing": 0, "removal": "renormalised", "parts": True}
    found = hg.attribute(run, query, **options)
    parts = found.part_contributions
    assert torch.allclose(parts.nansum(-1), found.values, rtol=1e-9, atol=1e-15)
    assert torch.equal(parts[0].isnan(), TEXTS.tensors[1] == PAD)
    for sample, token in ((2, 1), (3, 3), (0, 0)):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(COUNT, 4, dtype=torch.float64)
            weights[sample, token] += sign * H
            ends.append(_value_with_token_weights(loop, weights))
        assert parts[0, sample, token].item() == pytest.approx((ends[1] - ends[0]) / (2 * H), rel=1e-6)


def _value_with_token_weights(loop: Loop, weights: Tensor) -> float:
    model = loop.build()
    optimizer = loop.optimizer(model.parameters())
    for step in loop.steps:
        optimizer.zero_grad()
        found = []
        for some in step:
            losses, is_token = of_tokens(model, TEXTS[some])
            found.append(((losses * weights[some])[is_token].sum(), weights[some][is_token].sum()))
        whole = sum(count for _, count in found)
        over_steps = loop.reduce is token_mean_of_all
        for total, count in found:
            (total / whole if over_steps else total / count / len(step)).backward()
        optimizer.step()
    with torch.no_grad():
        return float(TOKEN_SUMS(model, HELD_OUT_TEXTS.tensors).mean())


# --- what it is called, and what is refused


def test_scores_carry_what_a_removal_means(runs, tmp_path):
    loop = LOOPS["one batch a step"]
    run, query = runs(loop), hg.mean_loss(HELD_OUT)
    scores = hg.attribute(run, query, curvature="hessian", removal="renormalised")
    method = scores.evidence.method
    assert method.in_file_names == "hessian-renormalised" and method.in_words == "hessian, renormalised"
    assert method.options == {"curvature": "hessian", "removal": "renormalised"}
    assert [note.text for note in scores.evidence.notes if note.kind == "removal"] == [
        "Leaving a sample out means here that the mean of its batch is taken over the rest."
    ]
    scores.save(tmp_path / "scores.safetensors")
    loaded = hg.Scores.load(tmp_path / "scores.safetensors")
    assert loaded.evidence.method == method
    groups = [[0], [3], [6, 7]]
    check = hg.verify(run, loaded, groups=groups, queries=query, ceiling=True).checks[0]
    actual = hg.counterfactual(run, groups, query, removal="renormalised").values[0]
    assert check.removal == "renormalised" and list(check.actual) == actual.tolist() and check.ceiling_lds == 1.0
    of_weights = hg.verify(run, loaded, groups=groups, queries=query, removal="weight").checks[0]
    assert of_weights.removal == "weight" and list(of_weights.actual) != actual.tolist()
    assert len(scores.evidence.with_checks([check]).with_checks([of_weights]).checks) == 2


def test_an_interrupted_attribution_is_not_resumed_as_another_removal(runs, monkeypatch):
    loop = LOOPS["one batch a step"]
    run, query = runs(loop), hg.mean_loss(HELD_OUT)
    both = [hg.attribute(run, query, removal=removal).values for removal in ("weight", "renormalised", "weight")]
    assert torch.equal(both[0], both[2]) and not torch.equal(both[0], both[1])


def test_what_has_no_mean_is_refused(runs, tmp_path):
    query = hg.mean_loss(HELD_OUT)
    run = runs(LOOPS["one batch a step"])
    for call in (hg.attribute, lambda run, query, removal: hg.counterfactual(run, [[0]], query, removal=removal)):
        with pytest.raises(QueryError, match="removal must be one of weight, renormalised, got 'mean'"):
            call(run, query, removal="mean")
    with pytest.raises(QueryError, match="a part has no share of its own"):
        of_parts = Loop("parts", mean_of_each, loss=TOKEN_MEANS).record(tmp_path / "parts")
        hg.attribute(of_parts, hg.mean_loss(HELD_OUT_TEXTS), parts=True, removal="renormalised")
    with pytest.raises(QueryError, match="divides by the sum of a batch's sample weights"):
        hg.counterfactual(run, [[5, 0, 1, 2, 3]], query, weight=-1.0, removal="renormalised", keep=False)

    def odd(losses, alpha, samples):
        return [(a * l).sum() / len(l) ** 2 for l, a in zip(losses, alpha, strict=True)]

    other = Loop("odd", odd, ONE).record(tmp_path / "odd")
    for call in (hg.attribute, lambda run, query, removal: hg.counterfactual(run, [[0]], query, removal=removal)):
        with pytest.raises(Unsupported, match=r"none of these\..*hg\.loss_of_parts"):
            call(other, query, removal="renormalised")
    texts = Loop("odd texts", odd, UNEQUAL, TOKEN_SUMS).record(tmp_path / "odd texts")
    with pytest.raises(Unsupported, match="at step 0 it is not the mean over the batch's parts"):
        hg.counterfactual(texts, [[0]], hg.mean_loss(HELD_OUT_TEXTS), removal="renormalised", keep=False)


def test_batches_of_equal_size_and_another_factor_are_not_guessed_at(tmp_path):
    loop = Loop("equal", scaled_mean, [[[0, 1, 2, 6]], [[3, 4, 5, 7]]])
    with pytest.raises(Unsupported, match="none of these"):
        hg.attribute(loop.record(tmp_path / "run"), hg.mean_loss(HELD_OUT), removal="renormalised")


def test_accumulation_of_our_own_loop_is_one_mean(tmp_path):
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.3, momentum=0.8)
    options = {"epochs": 2, "batch_size": 3, "accumulate": 3}
    run = hg.train(model, classify, TRAIN, optimizer, out=tmp_path / "run", **options)
    steps = [[part.indices for part in record.micro_batches] for record in run.steps]
    loop = Loop("ours", mean_of_all, steps, optimizer=lambda parameters: SGD(parameters, lr=0.3, momentum=0.8))
    found = hg.attribute(run, hg.mean_loss(HELD_OUT), curvature="hessian", removal="renormalised")
    assert oracle.relative(found.values[0, [0, 5]], loop.contributions([0, 5])) < 1e-6
