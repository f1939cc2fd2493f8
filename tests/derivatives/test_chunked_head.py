"""Cross-entropy in chunks equals the plain one in values and in every derivative; so do attributions by it."""

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
import torch.nn.functional as F
from torch.func import grad, jvp
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.derivatives.chunked_head import head_calls
from hydragrad.errors import LossError
from hydragrad.models import GPT

VOCABULARY, WIDTH, SHAPE = 11, 4, (3, 5)


def made(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*SHAPE, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, VOCABULARY, SHAPE, generator=generator)
    labels[0, 2] = -100
    return hidden, weight, labels


LABELS = made()[2]
FACTORS = torch.linspace(0.5, 2, 15, dtype=torch.float64).reshape(SHAPE)


def plain(hidden, weight):
    logits = (hidden @ weight.T).flatten(0, 1)
    return F.cross_entropy(logits, LABELS.flatten(), reduction="none").reshape(SHAPE)


def by_chunks(chunk):
    return lambda hidden, weight: hg.chunked_cross_entropy(hidden, weight, LABELS, chunk=chunk)


def objective(losses):
    """Not linear in the losses, so that their cotangents have tangents."""
    return (losses.sigmoid() * FACTORS).sum()


def value(function):
    return [function(*made()[:2])]


def directional(function):
    return [jvp(function, made()[:2], made(1)[:2])[1]]


def gradient(function):
    return grad(lambda *where: objective(function(*where)), argnums=(0, 1))(*made()[:2])


def twice_backward(function):
    leaves = [part.requires_grad_() for part in made()[:2]]
    gradients = torch.autograd.grad(objective(function(*leaves)), leaves, create_graph=True)
    along = sum((one * direction).sum() for one, direction in zip(gradients, made(1)[:2], strict=True))
    return torch.autograd.grad(along, leaves)


def forward_over_reverse(function):
    leaves = [part.requires_grad_() for part in made()[:2]]
    with forward_mode.dual_level():
        duals = [forward_mode.make_dual(*pair) for pair in zip(leaves, made(1)[:2], strict=True)]
        gradients = torch.autograd.grad(objective(function(*duals)), leaves)
        return [forward_mode.unpack_dual(one).tangent for one in gradients]


def several_at_once(function):
    here = made()[:2]

    def row(*direction):
        inner = grad(lambda *where: objective(function(*where)), argnums=(0, 1))
        return jvp(inner, here, direction)[1]

    return torch.vmap(row)(*(torch.stack(pair) for pair in zip(made(1)[:2], made(2)[:2], strict=True)))


def of_one_input(function):
    """Along the weight alone, as where hidden states are frozen."""
    hidden, weight, _ = made()
    return [jvp(lambda w: function(hidden, w), (weight,), (made(1)[1],))[1]]


@pytest.mark.parametrize("chunk", [1, 4, 100, None])
@pytest.mark.parametrize(
    "derived", [value, directional, gradient, twice_backward, forward_over_reverse, several_at_once, of_one_input]
)
def test_every_derivative_equals_that_of_plain_cross_entropy(derived, chunk):
    expected, actual = derived(plain), derived(by_chunks(chunk))
    assert any(part.abs().max() > 0.01 for part in expected)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-13)


def test_what_has_no_derivative_says_so():
    hidden, weight, _ = made()
    with pytest.raises(NotImplementedError, match="differentiate its gradient forward instead"):
        grad(lambda h: jvp(lambda h: by_chunks(4)(h, weight), (h,), (h,))[1].sum())(hidden)


def test_inputs_that_do_not_fit_are_refused():
    hidden, weight, labels = made()
    with pytest.raises(LossError, match=r"must have the shape .* got \(3, 5, 4\), \(11, 4\) and torch.int64 \(5, 3\)"):
        hg.chunked_cross_entropy(hidden, weight, labels.T)
    with pytest.raises(LossError, match="1 or more, got 0"):
        hg.chunked_cross_entropy(hidden, weight, labels, chunk=0)


def test_low_precision_is_computed_in_float32():
    hidden, weight, labels = (part.bfloat16() if part.is_floating_point() else part for part in made())
    losses = hg.chunked_cross_entropy(hidden, weight, labels, chunk=4)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, plain(hidden.float(), weight.float()))


def token_losses(model, batch):
    (tokens,) = batch
    losses = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses, tokens[:, 1:] > 0


def chunked_losses(model, batch):
    (tokens,) = batch
    hidden = model(tokens[:, :-1], head=False)
    return hg.chunked_cross_entropy(hidden, model.head.weight, tokens[:, 1:], chunk=3), tokens[:, 1:] > 0


def text():
    return TensorDataset(torch.randint(0, 9, (10, 6), generator=torch.Generator().manual_seed(0)))


def trained(losses, path, optimizer, *, tied=True):
    torch.manual_seed(0)
    model = GPT(vocabulary=9, block_size=5, layers=1, heads=2, width=8, tied=tied).double()
    made = optimizer(model.parameters())
    return hg.train(model, hg.loss_of_parts(losses), text(), made, epochs=2, batch_size=4, out=path)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.9)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
def test_attributions_equal_those_by_all_logits(tmp_path, curvature, optimizer, tied):
    values = []
    for losses in (token_losses, chunked_losses):
        run = trained(losses, tmp_path / losses.__name__, optimizer, tied=tied)
        queries = [hg.mean_loss(text()), hg.sample_losses(text(), [1])]
        values.append(hg.attribute(run, queries, curvature=curvature).values)
    torch.testing.assert_close(values[1], values[0], rtol=1e-8, atol=1e-12)


def test_influence_equals_that_by_all_logits(tmp_path):
    values = []
    for losses in (token_losses, chunked_losses):
        run = trained(losses, tmp_path / losses.__name__, sgd)
        values.append(hg.influence(run, hg.mean_loss(text()), checkpoints=2, damping=0.1).values)
    torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=1e-10)


def perplexity(model, batch):
    losses, _ = chunked_losses(model, batch)
    return losses.mean(1).exp()


def with_penalty(model, batch):
    losses, _ = chunked_losses(model, batch)
    return losses.mean(1) + 0.01 * model.head.weight.square().sum()


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (perplexity, "linear in what chunked_cross_entropy returns"),
        (with_penalty, "through chunked_cross_entropy alone"),
    ],
)
def test_gauss_newton_products_of_other_losses_are_refused(tmp_path, loss, match):
    torch.manual_seed(0)
    model = GPT(vocabulary=9, block_size=5, layers=1, heads=2, width=8).double()
    run = hg.train(model, loss, text(), sgd(model.parameters()), epochs=1, batch_size=4, out=tmp_path / "run")
    with pytest.raises(LossError, match=match):
        hg.attribute(run, hg.mean_loss(text()), curvature="ggn")


def test_calls_are_collected_and_answered():
    hidden, weight, labels = made()
    with head_calls() as calls:
        losses = hg.chunked_cross_entropy(hidden, weight, labels)
    assert len(calls) == 1 and calls[0].h.shape == (15, WIDTH)
    with head_calls([torch.ones(15, dtype=torch.float64)]):
        answered = hg.chunked_cross_entropy(hidden, weight, labels)
    assert torch.equal(answered, torch.where(labels == -100, 0.0, 1.0)) and not torch.equal(answered, losses)
