"""Releases of torch that are too old are refused by name, and what newer ones have is read from older ones too."""

import importlib
import re
import tomllib
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import Adam, AdamW

import hydragrad as hg
from documents import ROOT
from hydragrad import supported_torch, torch_release
from hydragrad.errors import TorchTooOld, Unsupported
from hydragrad.steps import RULES, read_group, rule_of
from recording.toys import build, samples, train

OLDEST = ".".join(map(str, supported_torch.OLDEST))


@pytest.mark.parametrize("installed", ["2.5.1", "2.5.1+cu124", "2.5.0a0+git1a2b3c", "1.13.1"])
def test_an_older_torch_is_refused_by_name(installed):
    message = rf"needs torch {re.escape(OLDEST)} or newer; torch {re.escape(installed)} is installed. Install a newer"
    with pytest.raises(TorchTooOld, match=message):
        supported_torch.require_supported(installed)


@pytest.mark.parametrize("installed", [f"{OLDEST}.0", f"{OLDEST}.0a0+git1a2b3c", f"{OLDEST}.1+cpu", "3.0.0", "unknown"])
def test_the_oldest_and_newer_ones_are_not(installed):
    supported_torch.require_supported(installed)


def test_an_older_torch_is_refused_on_import(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.1.2")
    with pytest.raises(ImportError, match=r"torch 2\.1\.2 is installed"):
        importlib.reload(torch_release)
    monkeypatch.setattr(supported_torch, "version", lambda _name: "2.1.2")
    with pytest.raises(ImportError, match=r"torch 2\.1\.2 is installed"):
        importlib.reload(hg)


def test_the_package_asks_for_the_oldest_release_that_it_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"torch>={OLDEST},<3" in project["dependencies"]


@pytest.mark.parametrize(("kind", "decoupled"), [(Adam, False), (AdamW, True)])
def test_weight_decay_is_that_of_the_class_where_groups_do_not_say(kind, decoupled):
    optimizer = kind([nn.Parameter(torch.zeros(2))], weight_decay=0.1)
    (group,) = optimizer.param_groups
    group.pop("decoupled_weight_decay", None)
    rule = rule_of(optimizer)
    assert rule is RULES[kind] and rule.read(read_group(rule, group)).decoupled is decoupled


def test_the_tests_of_the_oldest_releases_have_every_dependency_at_its_floor():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(re.match(r"([\w-]+)[^>]*>=([\d.]+)", line).groups() for line in project["dependencies"])
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-oldest.txt").read_text(), flags=re.MULTILINE))
    assert len(floors) > 10
    assert {name: re.sub(r"(\.0)+$", "", pins[name]) for name in floors} == floors


def test_a_run_with_an_option_that_this_torch_would_ignore_is_refused(tmp_path, monkeypatch):
    model = build()
    run = train(tmp_path / "run", model, optimizer=Adam(model.parameters(), lr=0.01, weight_decay=0.1))
    (options,) = run.steps[0].options
    run.steps[0] = replace(run.steps[0], options=({**options, "decoupled_weight_decay": True},))
    monkeypatch.setattr(torch_release, "ADAM_DECOUPLES", False)
    with pytest.raises(
        Unsupported, match=r"recorded with Adam\(decoupled_weight_decay=True\), which torch .* does not"
    ):
        hg.attribute(run, hg.mean_loss(samples()), curvature="none")


def test_decoupled_decay_of_other_classes_is_not_refused(monkeypatch):
    monkeypatch.setattr(torch_release, "ADAM_DECOUPLES", False)
    parameters = [nn.Parameter(torch.zeros(2))]
    torch_release.require_options(AdamW(parameters), {"decoupled_weight_decay": True})
    torch_release.require_options(Adam(parameters), {"decoupled_weight_decay": False})
