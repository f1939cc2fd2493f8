"""Optimizers of the user's own: what is registered is held to the real step, and refused by name where it differs."""

import cloudpickle
import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, Unsupported
from hydragrad.steps import RULES, Move, StepPoint, read_group, rule_named, rule_of
from own_optimizers import Belief, Scaled, belief, scaled, variance
from recording.toys import build, loss, replays_to_the_bit, samples, take_step


class Signs(Optimizer):
    """Lion, and other steps of the same shape."""

    def __init__(self, params, lr=0.01, direction=torch.sign):
        super().__init__(params, {"lr": lr})
        self.direction = direction

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_(group["lr"] * torch.sign(0.9 * m + 0.1 * p.grad))
                m.mul_(0.99).add_(p.grad, alpha=0.01)


def signs(w, states, g, options):
    m = states["m"]
    return w - options["lr"] * torch.sign(0.9 * m + 0.1 * g), {"m": 0.99 * m + 0.01 * g}


def smooth_signs(w, states, g, options, *, rho):
    u = 0.9 * states["m"] + 0.1 * g
    direction = u / torch.sqrt(u**2 + rho) if rho else torch.sign(u)
    return w - options["lr"] * direction, {"m": 0.99 * states["m"] + 0.01 * g}


def squares(w, states, g, options):
    return (0.9 * states["m"] + 0.1 * g) ** 2


@pytest.fixture(autouse=True)
def register_again():
    """What a test registers is gone after it."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(5))]


def test_an_optimizer_that_nobody_registered_is_refused_with_the_remedy():
    with pytest.raises(Unsupported, match=r"test_own\.Signs has no rule.*hg\.register_optimizer"):
        rule_of(Signs(parameters()))


def test_a_registered_step_is_that_of_the_real_optimizer():
    torch.manual_seed(0)
    (p, _) = parameters()
    optimizer = Belief([p], weight_decay=0.1, betas=(0.8, 0.9))
    rule = rule_of(optimizer)
    options, age = rule.read(read_group(rule, optimizer.param_groups[0])), 0
    for _ in range(5):
        p.grad = torch.randn_like(p)
        states = tuple(optimizer.state[p].get(name, torch.zeros_like(p)) for name in rule.states(options))
        before = StepPoint(p.detach().clone(), tuple(state.clone() for state in states), p.grad)
        at, age = rule.grow(age, options)
        w, _ = rule.step(*before, Move(options, at))
        optimizer.step()
        torch.testing.assert_close(w, p.detach(), rtol=1e-5, atol=1e-6)
    assert rule.second_moment(before, Move(options, at)).shape == p.shape


def no_decay(w, states, g, options, *, age, rho):
    return belief(w, states, g, {**options, "weight_decay": 0.0}, age=age, rho=rho)


def late(w, states, g, options, *, age, rho):
    return belief(w, states, g, options, age=age + 1, rho=rho)


def wrong_state(w, states, g, options, *, age, rho):
    w, after = belief(w, states, g, options, age=age, rho=rho)
    return w, after | {"variance": after["variance"] + 1e-4}


def in_place(w, states, g, options, *, age, rho):
    states["mean"].add_(1)
    return belief(w, states, g, options, age=age, rho=rho)


def infinite(w, states, g, options, *, age, rho):
    mean, _, v_hat = (
        belief(w, states, g, options, age=age, rho=0)[1]["mean"],
        None,
        variance(w, states, g, options, age),
    )
    w = (1 - options["lr"] * options["weight_decay"]) * w
    w = w - options["lr"] / (1 - options["betas"][0] ** age) * mean / ((v_hat + rho).sqrt() + options["eps"])
    return w, belief(w, states, g, options, age=age, rho=0)[1]


def data_dependent(w, states, g, options, *, age, rho):
    if g.numpy().sum() == float("inf"):
        return w, {}
    return belief(w, states, g, options, age=age, rho=rho)


def broken(w, states, g, options, *, age, rho):
    return w - states["momentum"], {}


def stranger(w, states, g, options, *, age, rho):
    return w, {"momentum": g}


def too_flat(w, states, g, options, *, age, rho):
    w, after = belief(w, states, g, options, age=age, rho=rho)
    return w.reshape(-1), after


NAMES = {"options": ("lr", "betas", "eps", "weight_decay"), "states": ("mean", "variance"), "second_moment": variance}
WRONG = {
    "another step": (
        {"step": no_decay},
        r"At step 1 of a small check the weights of a parameter of shape \(3, 2\) differ by \d",
    ),
    "another age": ({"step": late}, "the weights of a parameter of shape .* differ by"),
    "another state": ({"step": wrong_state}, "At step 1 of a small check variance of a parameter .* differ by"),
    "in place": ({"step": in_place}, "changed its arguments in place"),
    "infinite": ({"step": infinite}, "not finite where a coordinate never had a gradient"),
    "not pure": ({"step": data_dependent}, "can't be differentiated by torch.func"),
    "broken": ({"step": broken}, "Belief failed: KeyError: 'momentum'"),
    "a stranger": ({"step": stranger}, r"returned states \['momentum'\] next to those of states="),
    "a shape": ({"step": too_flat}, r"gave the weights .* the shape \(6,\); that of the optimizer is \(3, 2\)"),
    "no state": ({"states": ("mean", "variance", "third")}, r"keeps no state \['third'\]"),
    "an option too few": ({"options": ("lr", "betas", "eps")}, r"unknown options \['weight_decay'\]"),
    "an option too many": ({"options": (*NAMES["options"], "nesterov")}, r"a parameter group has no \['nesterov'\]"),
    "a large state": ({"state_shapes": {"mean": lambda shape: (9, 9)}}, r"larger than its parameter; \['mean'\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_optimizers_step_is_refused_by_name(name):
    change, message = WRONG[name]
    hg.register_optimizer(Belief, **{"step": belief, **NAMES, **change})
    with pytest.raises(Unsupported, match=message):
        rule_of(Belief(parameters(), weight_decay=0.1))


ARGUMENTS = {
    "too few": ({"step": lambda w, states, g: w}, r"step must take \(w, states, g, options\).* takes \(w, states, g\)"),
    "too many": ({"step": lambda w, states, g, options, k: w}, r"takes \(w, states, g, options, k\)"),
    "no moment": ({"step": belief, "second_moment": None}, "Give both or none"),
    "no rho": ({"step": scaled}, "Give both or none"),
    "shapes": ({"step": belief, "state_shapes": {"size": tuple}}, r"state_shapes must name some of .* got \['size'\]"),
    "one text": ({"step": belief, "states": "mean"}, "states must be a sequence of names, got 'mean'"),
    "no class": ({"step": belief, "optimizer": Belief(parameters())}, "takes a class of optimizers"),
    "torch's": ({"step": belief, "optimizer": SGD}, "torch.optim.sgd.SGD has a rule already"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_wrong_registration_is_refused_at_once(name):
    change, message = ARGUMENTS[name]
    arguments = {"optimizer": Belief, **NAMES, **change}
    with pytest.raises(Unsupported, match=message):
        hg.register_optimizer(arguments.pop("optimizer"), **arguments)


def test_a_step_of_signs_needs_smoothing():
    hg.register_optimizer(Signs, step=signs, options=("lr",), states=("m",))
    with pytest.raises(Unsupported, match="derivative of 0 by every gradient, as signs have"):
        rule_of(Signs(parameters()))
    hg.register_optimizer(Signs, step=smooth_signs, options=("lr",), states=("m",), second_moment=squares)
    assert rule_of(Signs(parameters())).second_moment is not None


def test_a_rate_of_0_at_the_start_of_a_warm_up_is_no_missing_derivative():
    rule_of(Belief(parameters(), lr=0.0))


def test_age_must_be_counted_by_the_optimizer():
    def aged(w, states, g, options, age):
        return signs(w, states, g, options)

    hg.register_optimizer(Signs, step=aged, options=("lr",), states=("m",))
    with pytest.raises(Unsupported, match=r"must count as state\['step'\] .* where 1 was expected it holds None"):
        rule_of(Signs(parameters()))


def test_options_are_plain_values():
    hg.register_optimizer(Signs, step=smooth_signs, options=("lr", "other"), states=("m",), second_moment=squares)
    optimizer = Signs(parameters())
    optimizer.param_groups[0]["other"] = {}
    with pytest.raises(Unsupported, match="Options of Signs must be numbers, flags, texts or tuples of them"):
        rule_of(optimizer)


def test_replays_must_be_able_to_make_the_optimizer():
    class Wrapped(Signs):
        def __init__(self, params, base):
            super().__init__(params)

    hg.register_optimizer(Wrapped, step=smooth_signs, options=("lr",), states=("m",), second_moment=squares)
    with pytest.raises(Unsupported, match=r"that failed: .*base.*Give its constructor's other arguments defaults"):
        rule_of(Wrapped(parameters(), None))


def test_an_optimizer_must_step_by_gradients_alone():
    class Closed(Signs):
        def step(self, closure):
            closure()

    hg.register_optimizer(Closed, step=smooth_signs, options=("lr",), states=("m",), second_moment=squares)
    with pytest.raises(Unsupported, match=r"Closed must step without arguments.*a small check failed: TypeError"):
        rule_of(Closed(parameters()))


def test_the_optimizer_and_the_random_numbers_are_left_alone():
    optimizer = Belief(parameters(), lr=torch.tensor(0.02), eps=0.2)
    before = torch.get_rng_state()
    rule = rule_of(optimizer)
    assert torch.equal(torch.get_rng_state(), before) and not optimizer.state
    assert dict(rule.read(read_group(rule, optimizer.param_groups[0])).entries)["lr"] == pytest.approx(0.02)


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    again = type("Belief", (Belief,), {"__module__": Belief.__module__, "__qualname__": "Belief"})
    hg.register_optimizer(again, step=belief, **NAMES)
    assert Belief not in RULES and rule_named("own_optimizers.Belief").torch_class is again


def test_a_copy_of_a_rule_is_registered_where_it_arrives():
    sent = cloudpickle.dumps(RULES[Scaled])
    del RULES[Scaled]
    arrived = cloudpickle.loads(sent)
    assert RULES[Scaled] is arrived and arrived.registration.step is scaled


def test_a_class_of_a_script_is_known_by_its_bare_name():
    assert rule_named("__main__.Belief") is RULES[Belief]
    with pytest.raises(RecordingMismatch, match=r"elsewhere\.Belief, which has no rule in this process. Call hg\.reg"):
        rule_named("elsewhere.Belief")


def record(path, steps=6, **recorder_options):
    torch.manual_seed(0)
    model, data = build(), samples()
    optimizer = Scaled(model.parameters(), lr=0.05)
    with hg.Recorder(path, model, optimizer, loss, data, **recorder_options) as recorder:
        for step in range(recorder.next_step, steps):
            indices = [(3 * step + i) % len(data) for i in range(5)]
            take_step(recorder, model, optimizer, indices, data[indices])
    return optimizer


def test_a_run_replays_to_the_bit_and_goes_on_after_a_stop(tmp_path):
    straight = record(tmp_path / "straight", checkpoint_every=2)
    record(tmp_path / "run", steps=4, checkpoint_every=2)
    resumed = record(tmp_path / "run", checkpoint_every=2, resume=True)
    for ours, theirs in zip(resumed.state.values(), straight.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("ball", "size"))
    assert replays_to_the_bit(hg.Recording(tmp_path / "run", build(), loss, samples()))


def test_a_run_of_an_optimizer_that_is_not_registered_is_refused_when_it_is_opened(tmp_path):
    record(tmp_path / "run")
    del RULES[Scaled]
    with pytest.raises(
        RecordingMismatch, match=r"own_optimizers\.Scaled, .* Call hg\.register_optimizer with it before"
    ):
        hg.Recording(tmp_path / "run", build(), loss, samples())


def test_a_step_that_departs_later_is_found_while_it_is_recorded(tmp_path):
    class Restless(Scaled):
        def move(self):
            self.count = getattr(self, "count", 0) + 1
            super().move()
            if self.count == 10:  # after the small check
                self.param_groups[0]["params"][0].mul_(1.01)

    hg.register_optimizer(
        Restless,
        step=scaled,
        options=("lr", "momentum"),
        states=("ball", "size"),
        state_shapes={"size": lambda s: s[:1]},
    )
    model, data = build(), samples()
    optimizer = Restless(model.parameters(), lr=0.05)
    with (
        pytest.raises(
            hg.errors.ReplayMismatch,
            match=r"plain step of Restless.* At step 9 weights or states moved.*step that was registered",
        ),
        hg.Recorder(tmp_path / "run", model, optimizer, loss, data) as recorder,
    ):
        for _ in range(12):
            take_step(recorder, model, optimizer, [1, 2, 3], data[[1, 2, 3]])


class Halved(SGD):
    """Extends an optimizer of torch by way of its step."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = p.grad / 2
        super().step()


def test_an_optimizer_may_call_the_step_of_its_base_class(tmp_path):
    def half(w, states, g, options):
        return w - options["lr"] * g / 2, {}

    names = (
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
        "maximize",
        "foreach",
        "differentiable",
        "fused",
    )
    hg.register_optimizer(Halved, step=half, options=names)
    SGD(build().parameters(), lr=0.1)  # from now on torch calls the hooks of both steps
    model, data = build(), samples()
    optimizer = Halved(model.parameters(), lr=0.1)
    with hg.Recorder(tmp_path / "run", model, optimizer, loss, data, seed=0) as recorder:
        for _ in range(4):
            take_step(recorder, model, optimizer, [1, 2, 3], data[[1, 2, 3]])
    run = hg.Recording(tmp_path / "run", build(), loss, samples())
    scores = hg.attribute(run, hg.mean_loss(samples(9)), curvature="hessian")
    assert scores.evidence.replay_exact and (scores.values != 0).sum() == 3
