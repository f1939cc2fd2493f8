import json

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from hydragrad.trust import Bank
from studies import libraries, other_libraries
from studies.__main__ import app
from studies.libraries import Comparison, Sizes

SMALL = Sizes(train_size=60, epochs=1, queries=2, subsets=3, seeds=2)


def test_every_method_is_held_against_two_banks(tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "installed", dict)
    sizes = ["--train-size", "60", "--epochs", "1", "--queries", "2", "--subsets", "3", "--seeds", "2"]
    words = ["libraries", "--out", str(tmp_path), *sizes, "--quiet", "--json", str(tmp_path / "figures.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "not installed, and left out: captum, TracInCP, dattri" in result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    ours = ("none", "ggn", "hessian", "influence", "TracIn")
    assert list(figures) == [f"{bank} hydragrad, {name} lds" for bank in ("this run", "the data") for name in ours]
    this_run, the_data = (Bank.open(tmp_path / f"{name}.safetensors") for name in ("this-run", "the-data"))
    assert this_run.left_out.sum(1).tolist() == [6] * 3 and the_data.left_out.sum(1).tolist() == [30] * 3
    assert (this_run.seeds, the_data.seeds) == (1, 2) and this_run.runs[0] == the_data.runs[0]
    monkeypatch.setattr("hydragrad.replay.retraining._Retraining.__call__", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(libraries, "attribute", lambda *_, **__: pytest.fail("attributed again"))
    compared = Comparison(tmp_path, SMALL)
    assert len(dict(compared.matrices())) == 5 and compared.bank("the data").seeds == 2


@pytest.fixture
def small():
    """A network, two states of it, samples and tests."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    states = []
    for _ in range(2):
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        states.append({name: value.detach().clone() for name, value in model.named_parameters()})
    data = TensorDataset(torch.randn(12, 3), torch.randint(2, (12,)))
    return model, states, data, TensorDataset(torch.randn(5, 3), torch.randint(2, (5,))), 0.1


@pytest.mark.filterwarnings("ignore")  # what the libraries say of their own calls into torch
@pytest.mark.parametrize("name", other_libraries.LIBRARIES)
def test_matrices_of_other_libraries_have_the_sign_of_contributions(name, small):
    package, matrix = other_libraries.LIBRARIES[name]
    pytest.importorskip(package, reason=f"{package} is not installed: pip install --no-deps {package}")
    model, states, data, tests, rate = small
    with torch.random.fork_rng():
        values = matrix(model, states, data, tests, rate)
    assert values.shape == (5, 12) and values.isfinite().all()
    if "TracIn" in name:
        expected = torch.zeros(5, 12)
        for state in states:
            gradients = []
            for part in (tests, data):
                rows = []
                for image, label in part:
                    model.load_state_dict(state)
                    loss = nn.functional.cross_entropy(model(image[None]), label[None])
                    rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
                gradients.append(torch.stack(rows))
            expected += rate * gradients[0] @ gradients[1].T
        projected = name.startswith("dattri")
        assert (values - expected).norm() < (0.5 if projected else 1e-5) * expected.norm()
