"""Any schedule, groups and batch remainders: tracker and store against autograd through the unrolled loop.

The tracker in memory, on disk with an interruption at any step, and with the schedule planned; the store of the
recorded run, whole or with an interruption; `attribute`: all give the same contributions.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

import hydragrad as hg
from attribution.test_properties import data, recorded, runs, unrolled
from case_models import cross_entropy_loss


class Stop(Exception):
    """The loop was stopped here."""


def trained(run, train_set, *, stop_at=None, **options):
    """The run's loop with a tracker in it, from the start; returns the tracker."""
    torch.manual_seed(0)
    model = nn.Linear(*run["shape"][1:]).double()
    optimizer = SGD([{"params": [p], "lr": 0.1, **o} for p, o in zip(model.parameters(), run["options"], strict=True)])
    tracker = hg.Tracker(model, optimizer, cross_entropy_loss, train_set, **options)
    try:
        with tracker:
            for step, indices in enumerate(run["batches"]):
                if step == stop_at:
                    raise Stop
                for group, rates in zip(optimizer.param_groups, run["rates"], strict=True):
                    group["lr"] = rates[step]
                with tracker.step(indices):
                    optimizer.zero_grad()
                    cross_entropy_loss(model, train_set[indices]).mean().backward()
                    optimizer.step()
    except Stop:
        pass
    return tracker


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_every_route_is_autograd_through_the_unrolled_loop(curvature):
    @settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
    @given(runs(), st.data())
    def check(run, drawn):
        train_set, held_out = data(*run["shape"], seed=1), data(4, *run["shape"][1:], seed=2)
        torch.manual_seed(0)
        model = nn.Linear(*run["shape"][1:]).double()
        start = [p.detach().clone() for p in model.parameters()]
        expected = unrolled(run, start, train_set, held_out, curvature=curvature != "none")
        query = hg.mean_loss(held_out)
        chosen = drawn.draw(st.lists(st.integers(0, run["shape"][0] - 1), min_size=1, unique=True))
        with tempfile.TemporaryDirectory() as folder:
            stop, store = drawn.draw(st.integers(0, len(run["batches"]) - 1)), Path(folder) / "online"
            online = trained(run, train_set, samples=chosen, curvature=curvature)
            trained(run, train_set, samples=chosen, curvature=curvature, store=store, stop_at=stop)
            resumed = trained(run, train_set, samples=chosen, curvature=curvature, store=store, resume=True)
            np.testing.assert_array_equal(resumed.store.rows, online.store.rows)
            recording = recorded(run, model, train_set, str(Path(folder) / "run"))
            ways = {
                "online": online.contributions(query),
                "replayed": hg.hypergradients(recording, samples=chosen, curvature=curvature).contributions(query),
                "reverse": hg.attribute(recording, query, samples=chosen, curvature=curvature),
            }
        for scores in ways.values():
            torch.testing.assert_close(scores.values[0], expected[chosen], rtol=1e-9, atol=1e-13)

    check()
