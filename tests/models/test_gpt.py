"""The GPT: parameters, causality, both directions of differentiation, and what is refused."""

import pytest
import torch
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from hydragrad.errors import DataError, QueryError
from hydragrad.models import GPT

SMALL = {"vocabulary": 11, "block_size": 6, "layers": 2, "heads": 2, "width": 8}


def small(**options) -> GPT:
    torch.manual_seed(0)
    return GPT(**SMALL | options).double()


def parameters(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_reach_from_a_tenth_of_a_million_to_ten_million_parameters() -> None:
    assert parameters(GPT(vocabulary=65, block_size=64)) == 106_880
    assert parameters(GPT(vocabulary=65, block_size=256, layers=6, heads=6, width=384)) == 10_745_088


def test_an_untied_head_has_weights_of_its_own() -> None:
    assert parameters(small(tied=False)) - parameters(small()) == 11 * 8
    tied = small()
    assert tied.head.weight is tied.token_embedding.weight


def test_logits_depend_on_the_tokens_before_and_no_later_ones() -> None:
    model, tokens = small(), torch.arange(6)[None]
    changed = tokens.clone()
    changed[0, 3] = 10
    difference = (model(tokens) - model(changed)).abs().sum(2)[0]
    assert (difference[:3] == 0).all() and (difference[3:] > 0).all()


def test_shorter_sequences_have_the_same_logits() -> None:
    model, tokens = small(), torch.arange(6)[None]
    assert torch.allclose(model(tokens)[:, :4], model(tokens[:, :4]), atol=1e-12)


def test_dropout_is_random_in_training_only() -> None:
    model, tokens = small(dropout=0.5), torch.arange(6)[None]
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


# torch itself scripts its decompositions when forward mode is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode_equals_reverse_mode() -> None:
    model, tokens = small(), torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    w_dot = {name: torch.randn_like(value) for name, value in weights.items()}

    def loss(w):
        return functional_call(model, w, (tokens,), tie_weights=True).logsumexp(2).mean()

    with sdpa_kernel(SDPBackend.MATH):
        _, forward = jvp(loss, (weights,), (w_dot,))
        reverse = sum((g * w_dot[name]).sum() for name, g in grad(loss)(weights).items())
    assert forward.abs() > 1e-3
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=0)


@pytest.mark.parametrize("options", [{"width": 9}, {"layers": 0}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(options) -> None:
    with pytest.raises(QueryError, match="a width that is a multiple of its heads"):
        small(**options)


def test_a_sequence_longer_than_its_blocks_is_refused() -> None:
    with pytest.raises(DataError, match=r"sequences of up to 6 tokens, got 7\. .*block_size=7"):
        small()(torch.zeros(1, 7, dtype=torch.int64))
