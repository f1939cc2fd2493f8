"""Banks: what was really retrained, in a file that is checked when it is opened."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from documents import ROOT
from hydragrad.disk import load_sealed, save_sealed
from hydragrad.errors import DataError, QueryError, RecordingMismatch, RunDamaged, RunNotFound, Unfinished
from hydragrad.execution.claims import Claims
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import FOLDER
from hydragrad.runs.kept import Kept
from hydragrad.trust.retrainings import FORM


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def data():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 3, dtype=torch.float64, generator=generator)
    labels = (points.sum(1) + 0.5 * torch.randn(60, generator=generator) > 0).long()
    return TensorDataset(points[:40], labels[:40]), TensorDataset(points[40:], labels[40:])


def train(folder, seed, train_set=None):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    return hg.train(
        model, loss, train_set or data()[0], optimizer, epochs=2, batch_size=8, out=folder / f"{seed}", seed=seed
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder, seed) for seed in (1, 2)]


def queries():
    held_out = data()[1]
    return [hg.mean_loss(held_out), hg.sample_losses(held_out, [0, 3])]


@pytest.fixture(scope="module")
def bank(runs):
    return hg.bank(runs, queries(), subsets=6, size=0.1, seed=3, repeats=4, halves=3, about={"protocol": "ours"})


def test_a_bank_holds_what_retrainings_without_its_groups_gave(runs, bank):
    assert bank.left_out.shape == (6, 40) and bank.left_out.sum(1).tolist() == [4] * 6
    assert bank.values.shape == (3, 2, 6)
    groups = [row.nonzero()[:, 0].tolist() for row in bank.left_out]
    for number, run in enumerate(runs):
        actual = hg.counterfactual(run, groups, queries())
        assert torch.equal(bank.untouched[:, number], actual.query_values)
        assert torch.allclose(bank.changes(bank.values)[:, number], actual.values, rtol=0, atol=1e-15)
        first = [row.nonzero()[:, 0].tolist() for row in bank.first_halves[:3]]
        rest = [[i for i in group if i not in half] for group, half in zip(groups, first, strict=False)]
        assert [len(half) for half in first + rest] == [2] * 6
        for which, halves in enumerate((first, rest)):
            assert torch.allclose(
                bank.changes(bank.halves)[:, number, :3, which],
                hg.counterfactual(run, halves, queries()).values,
                rtol=0,
                atol=1e-15,
            )
    assert bank.halves[:, :, 3:].isnan().all() and bank.repeats[:, :, 4:].isnan().all()
    repeat, value = bank.repeats[:, :, :4], bank.values[:, :, :4]
    assert torch.allclose(repeat, value, rtol=1e-9) and not torch.equal(repeat, value)
    assert bank.settings["protocol"] == "ours" and bank.settings["run_seeds"] == [1, 2]
    assert str(bank) == ("Bank of 6 retrainings without 4 of 40 samples, 3 queries, 2 seeds, repeats, halves")


def test_a_bank_has_the_groups_of_verify_and_shares_its_retrainings(runs):
    scores = hg.attribute(runs[0], queries()[0], curvature="hessian")
    check = hg.verify(runs[0], scores, groups=5, size=0.1, seed=3, extremes=False).checks[0]
    found = hg.evaluate(scores, hg.bank(runs[0], queries()[0], subsets=5, size=0.1, seed=3))
    assert found.predicted[0].tolist() == pytest.approx(list(check.predicted), rel=1e-12)
    assert found.actual[0].tolist() == pytest.approx(list(check.actual), rel=1e-12)
    assert (found.lds, found.lds_interval) == (check.lds, check.lds_interval)
    assert (found.slope, found.scale) == pytest.approx((check.slope, check.scale), rel=1e-9)


def bank_groups(run, seed):
    """The groups that a bank of three subsets leaves out."""
    return [
        row.nonzero()[:, 0].tolist() for row in hg.bank(run, queries()[0], subsets=3, seed=seed, keep=False).left_out
    ]


def test_a_slice_makes_the_same_bank_and_elsewhere_too(runs, tmp_path):
    run = train(tmp_path, 1)
    whole = hg.bank(runs[0], queries()[0], subsets=3, seed=5, keep=False)
    assert torch.equal(hg.bank(run, queries()[0], subsets=3, seed=5, part="2/2").values, whole.values)
    change = Change(weights=dict.fromkeys(bank_groups(run, 7)[0], 0.0))
    with Claims(run.path / FOLDER) as others:
        assert others.take(Kept(run.path / FOLDER, "", change.key(run)).path.stem)
        with pytest.raises(Unfinished, match="Part 1/2 is done; 1 of 3 retrainings are still missing"):
            hg.bank(run, queries()[0], subsets=3, seed=7, part="1/2")
    with pytest.raises(QueryError, match="keep=True"):
        hg.bank([run, runs[1]], queries()[0], subsets=3, seed=6, part="1/2", keep=False)


def test_other_weights_than_zero_are_trained_with(runs):
    bank = hg.bank(runs[0], queries()[0], groups=[[3, 4], [7]], weight=2.0)
    assert bank.removed[:, [3, 4, 7]].tolist() == [[-1, -1, 0], [0, 0, -1]]
    actual = hg.counterfactual(runs[0], [[3, 4], [7]], queries()[0], weight=2.0).values
    assert torch.allclose(bank.changes(bank.values)[:, 0], actual, rtol=0, atol=1e-15)


def test_the_mean_over_the_rest_is_trained_with(runs):
    bank = hg.bank(
        runs[0], queries()[0], groups=[[3, 4], [7, 8], [1, 2, 5]], removal="renormalised", repeats=1, halves=1
    )
    actual = hg.counterfactual(runs[0], [[3, 4], [7, 8], [1, 2, 5]], queries()[0], removal="renormalised").values
    assert torch.allclose(bank.changes(bank.values)[:, 0], actual, rtol=0, atol=1e-15)
    assert bank.settings["removal"] == "renormalised"
    half = hg.counterfactual(runs[0], [[3]], queries()[0], removal="renormalised").values
    assert bank.changes(bank.halves)[0, 0, 0, 0].item() == pytest.approx(half.item(), rel=1e-12)
    same, other = (
        hg.evaluate(hg.attribute(runs[0], queries()[0], curvature="hessian", removal=removal), bank)
        for removal in ("renormalised", "weight")
    )
    assert same.remarks == (
        "The groups of the bank have different sizes, so that a part of the LDS is due to their size.",
    )
    assert other.remarks[0] == (
        "The scores predict removals of the kind 'weight'; those of the bank are 'renormalised'."
    ) and other.remarks[0] in str(other)


def test_a_bank_is_one_small_file_and_comes_back_as_it_was(bank, tmp_path):
    file = tmp_path / "banks" / "bank.safetensors"
    bank.save(file)
    assert file.stat().st_size < 6_000
    again = hg.Bank.open(file)
    for name in ("left_out", "values", "untouched", "weights", "sample_ids", "first_halves"):
        assert torch.equal(getattr(again, name), getattr(bank, name))
    for name in ("repeats", "halves"):
        assert torch.equal(getattr(again, name).nan_to_num(), getattr(bank, name).nan_to_num())
    assert (again.query_names, again.runs, again.settings) == (bank.query_names, bank.runs, bank.settings)
    assert hg.Bank.load(file).query_names == bank.query_names


def test_some_samples_and_bare_arrays_make_a_bank_too(tmp_path):
    mask = [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0]]
    bank = hg.Bank.of(
        mask, [[1.0, 2.0], [3.0, 4.0]], sample_ids=[2, 3, 5, 7, 11], untouched=[0.5, 1.0], weight=[0, 0.5]
    )
    assert bank.query_names == ("query 0", "query 1") and bank.seeds == 1
    assert bank.removed.tolist() == [[1, 0, 0, 1, 0], [0, 0.5, 0, 0, 0]]
    assert bank.changes(bank.values)[:, 0].tolist() == [[0.5, 1.5], [2.0, 3.0]]
    bank.save(tmp_path / "bank.safetensors")
    again = hg.Bank.open(tmp_path / "bank.safetensors")
    assert again.sample_ids.tolist() == [2, 3, 5, 7, 11] and torch.equal(again.left_out, bank.left_out)


def test_a_file_is_refused_if_it_is_missing_foreign_later_or_altered(bank, tmp_path):
    file = tmp_path / "bank.safetensors"
    with pytest.raises(RunNotFound, match="There is no bank at"):
        hg.Bank.open(file)
    file.write_bytes(b"no tensors")
    with pytest.raises(RunDamaged, match="can't be read as a bank"):
        hg.Bank.open(file)
    save_file({"values": torch.zeros(2)}, file)
    with pytest.raises(RecordingMismatch, match="is no bank of retrainings"):
        hg.Bank.open(file)
    bank.save(file)
    tensors, metadata = load_sealed(file, key=FORM)
    save_sealed(tensors, file, metadata | {"schema": "9"}, key=FORM)
    with pytest.raises(RecordingMismatch, match="schema 9; this version of hydragrad reads schema 1"):
        hg.Bank.open(file)
    save_sealed(tensors, file, metadata)  # sealed with another key
    with pytest.raises(RunDamaged, match="differs from its digest"):
        hg.Bank.open(file)
    save_sealed(tensors | {"values": tensors["values"][:1]}, file, metadata, key=FORM)
    with pytest.raises(RunDamaged, match="has untouched of shape"):
        hg.Bank.open(file)
    bank.save(file)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunDamaged, match="differs from its digest"):
        hg.Bank.open(file)


def test_a_bank_at_the_path_is_replaced_only_where_it_is_of_the_same_runs(runs, tmp_path):
    file = tmp_path / "bank.safetensors"
    hg.bank(runs[0], queries()[0], groups=[[3]], path=file)
    longer = hg.bank(runs[0], queries()[0], groups=[[3], [4]], path=file)
    assert torch.equal(hg.Bank.open(file).values, longer.values)
    with pytest.raises(RecordingMismatch, match="a bank of other runs"):
        hg.bank(runs[1], queries()[0], groups=[[3]], path=file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"left_out": [1, 0]}, r"of shape \(subsets, samples\)"),
        ({"left_out": [[1, 2]]}, "True where a sample was left out"),
        ({"left_out": [[0, 0]]}, "at least one sample"),
        ({"values": [[1.0, 2.0]]}, r"weights of shape \(2,\)|values of shape"),
        ({"values": [[float("nan")]]}, "must be finite"),
        ({"untouched": [1.0, 2.0]}, "has untouched of shape"),
        ({"query_names": ["a", "b"]}, "a name of its own"),
        ({"sample_ids": [3, 3]}, "must differ"),
    ],
)
def test_arrays_that_make_no_bank_are_refused(arrays, message):
    with pytest.raises(QueryError, match=message):
        hg.Bank.of(**{"left_out": [[1, 0]], "values": [[1.0]]} | arrays)


def test_a_bank_names_every_run_and_knows_its_halves(bank):
    parts = {name: getattr(bank, name) for name in bank.__dataclass_fields__}
    with pytest.raises(QueryError, match="names as many runs"):
        hg.Bank(**parts | {"runs": ("a",)})
    with pytest.raises(QueryError, match="halves and first_halves"):
        hg.Bank(**parts | {"first_halves": None})


def test_it_refuses_groups_and_runs_that_make_no_bank(runs, tmp_path):
    query = queries()[0]
    with pytest.raises(QueryError, match="got none"):
        hg.bank([], query)
    for options in ({"subsets": 0}, {"size": 0}, {"size": 1.5}):
        with pytest.raises(QueryError, match="at least one subset"):
            hg.bank(runs[0], query, **options)
    with pytest.raises(DataError, match="too large"):
        hg.bank(runs[0], query, size=40)
    with pytest.raises(DataError, match="nothing to train on"):
        hg.bank(runs[0], query, groups=[range(40)])
    for groups in ([[40]], [[]]):
        with pytest.raises(QueryError, match="samples 0 to 39"):
            hg.bank(runs[0], query, groups=groups)
    for options in ({"groups": []}, {"groups": [[3]], "weight": 1.0}):
        with pytest.raises(QueryError, match="other than 1"):
            hg.bank(runs[0], query, **options)
    points, labels = data()[0].tensors
    other = train(tmp_path, 2, TensorDataset(points[:39], labels[:39]))
    with pytest.raises(RecordingMismatch, match="on different data"):
        hg.bank([runs[0], other], query)


@pytest.mark.parametrize(("name", "seeds", "size"), [("digits-this-run", 1, 100), ("digits-the-data", 5, 500)])
def test_the_banks_of_the_documentation_open(name, seeds, size):
    file = ROOT / "docs" / "banks" / f"{name}.safetensors"
    bank = hg.Bank.open(file)
    assert file.stat().st_size < 60_000 and bank.values.shape == (20, seeds, 60)
    assert bank.left_out.shape == (60, 1000) and bank.left_out.sum(1).tolist() == [size] * 60
    assert bank.query_names[3] == "loss of sample 3" and bank.settings["parameters"] == 66_250
