"""Contributions of tokens: central differences of runs retrained with a weight on the token's loss, in float64."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution import oracle
from hydragrad.attribution import part_sums
from hydragrad.errors import LossError, NotEnoughMemory, QueryError, Unsupported
from hydragrad.models import GPT

SAMPLES, LENGTH, TOKENS, PAD = 9, 5, 6, -100
MICRO_BATCHES = [[[0, 1, 2], [3, 4]], [[5, 6], [7, 8, 0]], [[8, 3, 1], [2, 6]], [[4, 5], [7, 0]]]
"""Sample 0 is there three times."""
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, eps=1e-4),
}
EXACT = {"sgd": {}, "adamw": {"smoothing": 0}}


def sequences(seed: int, count: int = SAMPLES) -> TensorDataset:
    """Tokens and those that follow them: the first of some is a prompt, and sequences have different lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(TOKENS, (count, LENGTH + 1), generator=generator)
    following = tokens[:, 1:].clone()
    for sample in range(count):
        following[sample, 2 + (sample + seed) % (LENGTH - 1) :] = PAD
        following[sample, : sample % 2] = PAD
    return TensorDataset(tokens[:, :-1], following)


TRAIN, HELD_OUT = sequences(0), sequences(1, 4)
IS_TOKEN = TRAIN.tensors[1] != PAD


class Padded(nn.Module):
    """A transformer that does not attend to padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(TOKENS, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, TOKENS)
        self.double()

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens), src_key_padding_mask=padding))


class Linear(nn.Module):
    """Logits that are linear in the weights: the Gauss-Newton matrix is the Hessian."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.logits = nn.Linear(TOKENS, TOKENS).double()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(F.one_hot(tokens, TOKENS).double())


def gpt() -> nn.Module:
    torch.manual_seed(4)
    return GPT(vocabulary=TOKENS, block_size=LENGTH, layers=1, heads=2, width=8).double()


def token_losses(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    tokens, following = batch
    is_token = following != PAD
    padding = torch.cat([is_token[:, :1] & False, following[:, :-1] == PAD], 1)
    logits = model(tokens, padding) if isinstance(model, Padded) or hasattr(model, "layer") else model(tokens)
    return F.cross_entropy(logits.transpose(1, 2), following, ignore_index=PAD, reduction="none"), is_token


MEAN, SUM = hg.loss_of_parts(token_losses), hg.loss_of_parts(token_losses, reduce="sum")


def batch_of(samples: Sequence[int], data: TensorDataset = TRAIN) -> tuple[Tensor, Tensor]:
    return data[list(samples)]


def token_means(build: Callable[[], nn.Module], optimizer: str, weights: Tensor) -> nn.Module:
    """Train on the mean over all tokens of a step's micro-batches, with a weight on the loss of every token."""
    model = build()
    steps = OPTIMIZERS[optimizer](model.parameters())
    for step in MICRO_BATCHES:
        count = IS_TOKEN[[sample for samples in step for sample in samples]].sum()
        steps.zero_grad()
        for samples in step:
            losses, is_token = token_losses(model, batch_of(samples))
            ((losses * weights[samples])[is_token].sum() / count).backward()
        steps.step()
    return model


def recorded_token_means(path: Path, build: Callable[[], nn.Module], optimizer: str) -> hg.Recording:
    """The same loop, recorded."""
    model = build()
    steps = OPTIMIZERS[optimizer](model.parameters())
    with hg.Recorder(path, model, steps, SUM, TRAIN) as recorder:
        for step in MICRO_BATCHES:
            count = IS_TOKEN[[sample for samples in step for sample in samples]].sum()
            for place, samples in enumerate(step):
                with recorder.step(samples) as handle:
                    (handle.losses(batch_of(samples)).sum() / count).backward()
                    if place + 1 == len(step):
                        steps.step()
                        steps.zero_grad()
    return hg.Recording(path, build(), SUM, TRAIN)


def as_recorded(run: hg.Recording, build: Callable[[], nn.Module], optimizer: str, weights: Tensor) -> nn.Module:
    """Train on the samples of a run's steps, the mean of sequences' means, with a weight on the loss of every token."""
    model = build()
    steps = OPTIMIZERS[optimizer](model.parameters())
    for record in run.steps:
        losses, is_token = token_losses(model, batch_of(record.indices))
        weighted = (losses * weights[record.indices]).where(is_token, 0.0).sum(1) / is_token.sum(1)
        steps.zero_grad()
        weighted.mean().backward()
        steps.step()
    return model


def query_value(model: nn.Module) -> float:
    """The mean over held-out sequences of their mean losses."""
    losses, is_token = token_losses(model.eval(), batch_of(range(4), HELD_OUT))
    return float(((losses * is_token).sum(1) / is_token.sum(1)).mean().detach())


QUERY = hg.query("held out", lambda model: query_tensor(model))


def query_tensor(model: nn.Module) -> Tensor:
    losses, is_token = token_losses(model, batch_of(range(4), HELD_OUT))
    return ((losses * is_token).sum(1) / is_token.sum(1)).mean()


def differences(retrain: Callable[[Tensor], nn.Module], h: float = 1e-5) -> Tensor:
    """-d(query)/d(weight of a token's loss), NaN where there is no token."""
    result = torch.full(IS_TOKEN.shape, torch.nan, dtype=torch.float64)
    for sample, place in IS_TOKEN.nonzero().tolist():
        values = []
        for sign in (1, -1):
            weights = torch.ones(IS_TOKEN.shape, dtype=torch.float64)
            weights[sample, place] += sign * h
            values.append(query_value(retrain(weights)))
        result[sample, place] = (values[1] - values[0]) / (2 * h)
    return result


def assert_parts(scores: hg.Scores, expected: Tensor) -> None:
    assert torch.equal(scores.part_contributions[0].isnan(), ~IS_TOKEN)
    tokens = scores.part_contributions[0][IS_TOKEN]
    assert expected[IS_TOKEN].abs().max() > 1e-5, "the perturbation changed nothing"
    assert oracle.relative(tokens, expected[IS_TOKEN]) < 1e-6
    assert torch.allclose(scores.part_contributions.nansum(-1), scores.values, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tokens_of_a_padded_transformer_with_token_means_are_derivatives_of_retraining(optimizer, tmp_path):
    run = recorded_token_means(tmp_path / "run", Padded, optimizer)
    scores = hg.attribute(run, QUERY, curvature="hessian", parts=True, **EXACT[optimizer])
    again = token_means(Padded, optimizer, torch.ones(IS_TOKEN.shape, dtype=torch.float64))
    assert query_value(again) == pytest.approx(float(scores.query_values[0]), rel=1e-12)
    assert_parts(scores, differences(lambda weights: token_means(Padded, optimizer, weights)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tokens_of_a_gpt_with_means_of_sequences_are_derivatives_of_retraining(optimizer, tmp_path):
    run = trained(tmp_path / "run", gpt, optimizer)
    scores = hg.attribute(run, QUERY, curvature="hessian", parts=True, **EXACT[optimizer])
    assert_parts(scores, differences(lambda weights: as_recorded(run, gpt, optimizer, weights)))


def test_gauss_newton_is_the_derivative_of_retraining_where_logits_are_linear(tmp_path):
    run = trained(tmp_path / "run", Linear, "sgd")
    scores = hg.attribute(run, QUERY, curvature="ggn", parts=True)
    assert_parts(scores, differences(lambda weights: as_recorded(run, Linear, "sgd", weights)))


def test_without_curvature_parts_are_products_of_gradients(tmp_path):
    model = gpt()
    run = hg.train(
        model, MEAN, TRAIN, torch.optim.SGD(model.parameters(), lr=0.3), epochs=2, batch_size=4, out=tmp_path
    )
    final = run.trained_model().requires_grad_()
    (gradient,) = flat([query_tensor(final)], final)
    expected, moving = torch.full(IS_TOKEN.shape, torch.nan, dtype=torch.float64).where(~IS_TOKEN, 0.0), gpt()
    for record in run.steps:
        losses, is_token = token_losses(moving, batch_of(record.indices))
        terms = losses / is_token.sum(1, keepdim=True) / len(record.indices)
        for row, place in is_token.nonzero().tolist():
            expected[record.indices[row], place] += 0.3 * flat([terms[row, place]], moving)[0] @ gradient
        (step,) = flat([terms.where(is_token, 0.0).sum()], moving)
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(moving.parameters()).detach() - 0.3 * step, moving.parameters()
        )
    assert_parts(hg.attribute(run, QUERY, parts=True), expected)
    assert_parts(hg.attribute(run, QUERY, parts=True, route="samples"), expected)


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parts_add_up_to_what_is_attributed_without_them(curvature, optimizer, tmp_path):
    run = trained(tmp_path / "run", gpt, optimizer)
    queries = [QUERY, hg.sample_losses(HELD_OUT, [0, 2])]
    alone = hg.attribute(run, queries, curvature=curvature)
    scores = hg.attribute(run, queries, curvature=curvature, parts=True, memory=1)  # a query at a time
    assert oracle.relative(scores.values, alone.values) < 1e-12
    assert oracle.relative(scores.part_contributions.nansum(-1), alone.values) < 1e-12


def test_single_parts_are_held_to_a_backward_pass_where_only_their_sum_is_right(tmp_path):
    """An operation whose forward-mode rule gives each part the tangent of another one: safer ways are right."""

    class Mixing(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(losses):
            return losses.clone()

        @staticmethod
        def setup_context(context, inputs, output):
            pass

        @staticmethod
        def backward(context, gradient):
            return gradient.clone()

        @staticmethod
        def jvp(context, tangent):
            return tangent.flip(1)

    mixing = hg.loss_of_parts(lambda model, batch: whole(model, batch, Mixing.apply), reduce="sum")
    plain = hg.loss_of_parts(lambda model, batch: whole(model, batch, torch.clone), reduce="sum")
    for curvature in ("none", "hessian"):
        scores = []
        for name, loss in (("mixing", mixing), ("plain", plain)):
            path = tmp_path / f"{name}-{curvature}"
            model = gpt()
            optimizer = OPTIMIZERS["sgd"](model.parameters())
            run = hg.train(model, loss, TRAIN, optimizer, epochs=1, batch_size=4, out=path)
            scores.append(hg.attribute(run, QUERY, curvature=curvature, parts=True))
        what = [each for each in scores[1].evidence.compared if each.what.startswith("derivatives of single parts")]
        assert what and what[0].times and what[0].gap < 1e-10
        assert oracle.relative(scores[0].part_contributions, scores[1].part_contributions) < 1e-9


def whole(model: nn.Module, batch: Any, through: Callable[[Tensor], Tensor]) -> Tensor:
    """Every place counts, so that the parts of a sample can be mixed up without a trace in their sum."""
    tokens, _ = batch
    return through(F.cross_entropy(model(tokens).transpose(1, 2), tokens, reduction="none"))


def test_some_samples_have_the_parts_that_all_of_them_have(tmp_path):
    run = trained(tmp_path / "run", gpt, "sgd")
    every = hg.attribute(run, QUERY, parts=True)
    some = hg.attribute(run, QUERY, parts=True, samples=[7, 2])
    assert torch.allclose(some.part_contributions, every.part_contributions[:, [7, 2]], rtol=1e-12, equal_nan=True)


def test_replays_average_parts(tmp_path):
    run = trained(tmp_path / "run", gpt, "sgd")
    scores = hg.attribute(run, QUERY, curvature="ggn", replays=2, parts=True)
    assert torch.equal(scores.part_contributions[0].isnan(), ~IS_TOKEN)
    assert torch.allclose(scores.part_contributions.nansum(-1), scores.values, rtol=1e-12, atol=1e-15)


def test_batches_of_different_lengths_have_the_parts_of_the_longest(tmp_path):
    def cut(items):
        tokens, following = (torch.stack(column) for column in zip(*items, strict=True))
        longest = int((following != PAD).any(0).nonzero().max()) + 1
        return tokens[:, :longest], following[:, :longest]

    def run(name, **options):
        model = gpt()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        with hg.Recorder(tmp_path / name, model, optimizer, MEAN, TRAIN, **options) as recorder:
            for step in MICRO_BATCHES:
                with recorder.step(step[0]) as handle:
                    handle.losses((options.get("collate") or default)([TRAIN[i] for i in step[0]])).mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
        return hg.attribute(hg.Recording(tmp_path / name, gpt(), MEAN, TRAIN, **options), QUERY, parts=True)

    default = torch.utils.data.default_collate
    short, long = run("short", collate=cut), run("long")
    width = short.part_contributions.shape[-1]
    assert torch.allclose(short.part_contributions, long.part_contributions[..., :width], equal_nan=True, rtol=1e-9)


def test_a_loss_without_parts_is_refused(tmp_path):
    run = trained(tmp_path / "run", gpt, "sgd")
    plain = hg.Recording(run.path, gpt(), lambda model, batch: MEAN(model, batch), TRAIN)
    with pytest.raises(LossError, match=r"parts=True needs a loss made by hg\.loss_of_parts"):
        hg.attribute(plain, QUERY, parts=True)
    with pytest.raises(QueryError, match=r"labels=True is for losses of one label a sample"):
        hg.attribute(run, QUERY, parts=True, labels=True)
    with pytest.raises(Unsupported, match=r"route='hooks' is not valid here: contributions of parts need"):
        hg.attribute(run, QUERY, parts=True, route="hooks")


def test_samples_whose_parts_change_are_refused(tmp_path):
    generator = torch.Generator().manual_seed(5)

    def cropping(items):
        tokens, following = (torch.stack(column) for column in zip(*items, strict=True))
        kept = int(torch.randint(1, LENGTH, (), generator=generator))
        return tokens, following.masked_fill(torch.arange(LENGTH) >= kept, PAD)

    model = gpt()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with hg.Recorder(tmp_path / "run", model, optimizer, MEAN, TRAIN, store_batches=True) as recorder:
        for step in MICRO_BATCHES:
            batch = cropping([TRAIN[i] for i in step[0]])
            with recorder.step(step[0], batch) as handle:
                handle.losses(batch).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    run = hg.Recording(tmp_path / "run", gpt(), MEAN, TRAIN)
    with pytest.raises(LossError, match=r"must have the same parts whenever it is trained on; sample \d has .* parts"):
        hg.attribute(run, QUERY, parts=True)


def test_contributions_that_do_not_fit_are_refused_before_the_work(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", gpt, "sgd")
    memory = part_sums.COPIES * 8 * 4 * LENGTH
    monkeypatch.setattr(part_sums.psutil, "virtual_memory", lambda: type("", (), {"available": memory}))
    monkeypatch.setattr(hg.Recording, "replay", None)
    with pytest.raises(NotEnoughMemory, match=r"5 parts of 9 samples to 1 queries need .* free: 4 samples fit"):
        hg.attribute(run, QUERY, parts=True)


def trained(path: Path, build: Callable[[], nn.Module], optimizer: str) -> hg.Recording:
    model = build()
    return hg.train(model, MEAN, TRAIN, OPTIMIZERS[optimizer](model.parameters()), epochs=2, batch_size=4, out=path)


def flat(scalars: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
    every = [torch.autograd.grad(scalar, list(model.parameters()), retain_graph=True) for scalar in scalars]
    return [torch.cat([gradient.flatten() for gradient in gradients]) for gradients in every]
