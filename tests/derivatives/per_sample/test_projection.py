"""Projections keep inner products right on average, with the spread that theory gives."""

import pytest
import torch

from hydragrad.derivatives import Layout, Projector

LAYOUT = Layout({"a": (6, 5), "b": (4,), "c": (3, 2)})
SEEDS = 3000


def vectors(seed):
    return torch.randn(2, LAYOUT.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products(dims, seeds=SEEDS, layout=LAYOUT, pair=None):
    u, v = vectors(0) if pair is None else pair
    found = []
    for seed in range(seeds):
        projector = Projector(layout, [layout.names], dims, seed=seed, dtype=torch.float64)
        pu, pv = projector.flat(torch.stack([u, v]))
        found.append(pu @ pv)
    return torch.stack(found), u @ v


def shifts_variance(u, v, layout, dims):
    """1/k sum of (u_i^2 v_j^2 + u_i v_i u_j v_j) over coordinates of different chunks."""
    chunk, number = [], 0
    for name in layout.names:
        size = layout.shapes[name].numel()
        chunk += [number + i // dims for i in range(size)]
        number += -(-size // dims)
    differ = torch.tensor(chunk)[:, None] != torch.tensor(chunk)
    return float(((torch.outer(u**2, v**2) + torch.outer(u * v, u * v)) * differ).sum() / dims)


@pytest.mark.parametrize("dims", [3, 7, 16])
def test_unbiased_with_the_variance_of_theory(dims):
    found, exact = products(dims)
    u, v = vectors(0)
    variance = shifts_variance(u, v, LAYOUT, dims)
    assert abs(found.mean() - exact) < 4 * (variance / SEEDS) ** 0.5
    assert found.var().item() == pytest.approx(variance, rel=0.15)


def test_tensor_sketches_are_unbiased(monkeypatch):
    monkeypatch.setattr("hydragrad.derivatives.per_sample.projection.TENSOR_SKETCH_FROM_RATIO", 1)
    layout = Layout({"w": (6, 5)})
    generator = torch.Generator().manual_seed(2)
    delta, x, other = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (6, 5, 30))
    rank_one = torch.outer(delta, x).flatten()
    found, exact = products(8, layout=layout, pair=(rank_one, other))
    assert abs(found.mean() - exact) < 4 * found.std() / SEEDS**0.5
    # At most (2 + 3^2) |u|^2 |v|^2 / k (Avron, Nguyen and Woodruff 2014, lemma 7, for products of two).
    assert found.var() < 11 * (rank_one @ rank_one) * (other @ other) / 8


def test_linear_and_told_by_its_seed():
    u, v = vectors(1)
    first, again, other = (Projector(LAYOUT, [LAYOUT.names], 7, seed=s, dtype=torch.float64) for s in (1, 1, 2))
    mixed = first.flat((2 * u - 3 * v)[None])
    torch.testing.assert_close(mixed, 2 * first.flat(u[None]) - 3 * first.flat(v[None]))
    assert torch.equal(first.flat(u[None]), again.flat(u[None]))
    assert not torch.allclose(first.flat(u[None]), other.flat(u[None]))


def test_groups_keep_to_their_columns_and_small_ones_are_kept_as_they_are():
    projector = Projector(LAYOUT, [["a"], ["b", "c"]], 16, dtype=torch.float64)
    assert projector.spans == [slice(0, 12), slice(12, 16)] and projector.width == 16
    u = vectors(0)[:1].clone()
    u[:, LAYOUT.spans["a"]] = 0
    assert (projector.flat(u)[:, :12] == 0).all() and (projector.flat(u)[:, 12:] != 0).any()
    whole = Projector(LAYOUT, [["a"], ["b", "c"]], 1000, dtype=torch.float64)
    assert whole.width == LAYOUT.size
    assert torch.equal(whole.flat(u), u)


def test_no_dimension_is_refused():
    with pytest.raises(ValueError, match="at least 1 dimension"):
        Projector(LAYOUT, [LAYOUT.names], 0, dtype=torch.float64)
