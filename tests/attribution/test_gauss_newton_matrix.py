"""The damped Gauss-Newton matrix against the dense one."""

import pytest
import torch

from attribution.dense import dense_matrix, linear, network, trained
from hydragrad.attribution.gauss_newton_matrix import DAMPING_SHARE, DampedGaussNewton
from hydragrad.errors import LossError
from hydragrad.replay.histories import trained_layout


def test_a_part_of_the_samples_gives_their_matrix(tmp_path):
    run = trained(tmp_path / "run", linear())
    layout = trained_layout(run)
    whole, part = (DampedGaussNewton(run, layout, run.final, 0.0, samples) for samples in (None, 12))
    vector = torch.arange(layout.size, dtype=torch.float64)
    torch.testing.assert_close(whole @ vector, dense_matrix(run, "hessian") @ vector)
    assert not torch.allclose(part @ vector, whole @ vector, rtol=1e-3)
    again = DampedGaussNewton(run, layout, run.final, 0.0, 12)
    assert torch.equal(part @ vector, again @ vector)


def test_the_largest_eigenvalue_is_that_of_the_dense_matrix(tmp_path):
    run = trained(tmp_path / "run", network())
    matrix = DampedGaussNewton(run, trained_layout(run), run.final, 0.0)
    expected = float(torch.linalg.eigvalsh(dense_matrix(run, "ggn")).max())
    assert matrix.largest_eigenvalue(100) == pytest.approx(expected, rel=1e-6)
    assert 0.9 * expected < matrix.largest_eigenvalue() <= expected * (1 + 1e-12)
    chosen = DampedGaussNewton(run, trained_layout(run), run.final, None)
    assert chosen.damping == DAMPING_SHARE * matrix.largest_eigenvalue()


def test_no_damping_is_chosen_for_a_matrix_of_zeros(tmp_path):
    run = trained(tmp_path / "run", linear(), lambda model, batch: model(batch[0]).sum(1))
    with pytest.raises(LossError, match="matrix of the training set is zero"):
        DampedGaussNewton(run, trained_layout(run), run.final, None)
