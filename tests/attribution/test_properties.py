"""Any schedule, groups and batch remainders: attribution against autograd through the unrolled loop."""

import tempfile

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution import oracle
from case_models import cross_entropy_loss

OPTIONS = st.fixed_dictionaries(
    {
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "weight_decay": st.sampled_from([0.0, 0.2]),
        "nesterov": st.booleans(),
        "maximize": st.booleans(),
    }
).filter(lambda o: not o["nesterov"] or (o["momentum"] > 0 and o["dampening"] == 0))


@st.composite
def runs(draw):
    """Samples, features, classes, batches of any size, options of two groups, a rate for every step and group."""
    samples = draw(st.integers(2, 7))
    batches = draw(st.lists(st.lists(st.integers(0, samples - 1), min_size=1, max_size=4), min_size=1, max_size=7))
    rates = st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.3]), min_size=len(batches), max_size=len(batches))
    return {
        "shape": (samples, draw(st.integers(1, 3)), draw(st.integers(2, 3))),
        "batches": batches,
        "options": [draw(OPTIONS), draw(OPTIONS)],
        "rates": [draw(rates), draw(rates)],
    }


def data(samples: int, features: int, classes: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(classes, (samples,), generator=generator))


def unrolled(run, start: list[Tensor], train_set, held_out, *, curvature: bool) -> Tensor:
    """-d(held-out loss)/d(sample weights) by autograd through torch.optim.SGD's formulas, written out."""
    alpha = torch.ones(run["shape"][0], dtype=torch.float64, requires_grad=True)
    values, buffers = list(start), [None, None]
    for step, indices in enumerate(run["batches"]):
        x, y = train_set[indices]
        # Dropping the curvature: the gradient is taken at the same weights, but does not follow them.
        here = [v if curvature and v.requires_grad else v.detach().requires_grad_() for v in values]
        losses = F.cross_entropy(F.linear(x, *here), y, reduction="none")
        gradients = torch.autograd.grad((alpha[indices] * losses).mean(), here, create_graph=True)
        for at, (g, o) in enumerate(zip(gradients, run["options"], strict=True)):
            g = (-g if o["maximize"] else g) + o["weight_decay"] * values[at]
            if o["momentum"]:
                first = buffers[at] is None
                buffers[at] = g if first else o["momentum"] * buffers[at] + (1 - o["dampening"]) * g
                g = g + o["momentum"] * buffers[at] if o["nesterov"] else buffers[at]
            values[at] = values[at] - run["rates"][at][step] * g
    x, y = held_out[:]
    value = F.cross_entropy(F.linear(x, *values), y)
    (gradient,) = torch.autograd.grad(value, alpha, allow_unused=True)
    return -gradient


def recorded(run, model: nn.Linear, train_set, folder: str) -> hg.Recording:
    groups = [{"params": [p], "lr": 0.1, **o} for p, o in zip(model.parameters(), run["options"], strict=True)]
    optimizer = SGD(groups)
    with hg.Recorder(folder, model, optimizer, cross_entropy_loss, train_set, checkpoint_every=3) as recorder:
        for step, indices in enumerate(run["batches"]):
            for group, rates in zip(optimizer.param_groups, run["rates"], strict=True):
                group["lr"] = rates[step]
            with recorder.step(indices):
                optimizer.zero_grad()
                cross_entropy_loss(model, train_set[indices]).mean().backward()
                optimizer.step()
    return hg.Recording(folder, model, cross_entropy_loss, train_set)


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_attribution_is_autograd_through_the_unrolled_loop(curvature):
    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(runs())
    def check(run):
        torch.manual_seed(0)
        train_set, held_out = data(*run["shape"], seed=1), data(4, *run["shape"][1:], seed=2)
        model = nn.Linear(*run["shape"][1:]).double()
        start = [p.detach().clone() for p in model.parameters()]
        expected = unrolled(run, start, train_set, held_out, curvature=curvature != "none")
        with tempfile.TemporaryDirectory() as folder:
            recording = recorded(run, model, train_set, folder)
            query = hg.mean_loss(held_out)
            found = {
                way: hg.attribute(recording, query, **options).values[0]
                for way, options in {
                    "none": {"jvp": {"route": "jvp"}, "hooks": {"route": "hooks"}},
                    # The model is linear, so both curvatures are the same.
                    "hessian": {"hessian": {"curvature": "hessian"}, "ggn": {"curvature": "ggn"}},
                }[curvature].items()
            }
        for values in found.values():
            torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-13)

    check()


def test_the_oracles_agree():
    """The unrolled loop and the eager recurrence are two different ways of writing the same thing."""
    from cases import SAMPLES, Case

    case = Case("linear", "two_groups")
    eager = oracle.tangents(case, oracle.every_sample())
    exact = oracle.tangents(case, oracle.every_sample(), curvature="hessian")
    batches = [indices for epoch in range(4) for indices in case.batches(epoch)]
    options = [
        {key: g[key] for key in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        for g in case.options.optimizer(case.build()).param_groups
    ]
    rates = [[g["lr"]] * len(batches) for g in case.options.optimizer(case.build()).param_groups]
    run = {"shape": (SAMPLES, 4, 3), "batches": batches, "options": options, "rates": rates}
    start = [p.detach().clone() for p in case.build().parameters()]
    query = oracle.mean_loss(case, case.held_out)
    for carried, curvature in ((eager, False), (exact, True)):
        expected = unrolled(run, start, case.train_set, case.held_out, curvature=curvature)
        assert oracle.relative(carried.contributions(query), expected) < 1e-11
