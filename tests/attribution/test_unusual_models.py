"""Derivatives follow the gradient that trained, whatever torch's forward mode, hooks and rules say; or are refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hydragrad as hg
import twins
from attribution import oracle, unusual
from attribution.unusual import TwoLayers
from hydragrad.errors import QueryError, Unsupported

ONE_STEP = [[0, 1, 2, 3]]

ALTERED = {
    "a hook": (unusual.shrunk_by_a_hook, "hooks"),
    "a function with a forward rule of its own": (unusual.shrunk_by_a_function, "hooks"),
    "coupled": (unusual.with_its_neighbour, "jvp"),
    "a hook, coupled": (unusual.shrunk_and_coupled, "samples"),
    "checkpointing": (unusual.checkpointed, "hooks"),
    "a function without forward rule": (unusual.own_swish, "hooks"),
}


def built(between):
    return lambda: TwoLayers(between)


@pytest.mark.parametrize(("between", "route"), ALTERED.values(), ids=ALTERED)
def test_one_step_without_curvature_is_the_derivative_of_that_step(between, route, tmp_path):
    build = built(between)
    run, expected = twins.record(tmp_path, build, steps=ONE_STEP), unusual.truth(build, ONE_STEP)
    assert expected.abs().max() > 1e-3
    scores = hg.attribute(run, hg.mean_loss(twins.held_out()))
    assert oracle.relative(scores.values[0], expected) < 1e-7 and scores.evidence.route == route
    store = hg.hypergradients(run).contributions(hg.mean_loss(twins.held_out()))
    assert oracle.relative(store.values[0], expected) < 1e-7
    held = {one.what: one for one in scores.evidence.compared}
    assert held["gradients of queries with tangents"].times == 1
    assert held["derivatives of losses with the gradient that trained"].gap < 1e-7


EXACT = {
    "mixed now and then": built(unusual.mixed_sometimes),
    "checkpointing": built(unusual.checkpointed),
    "reentrant checkpointing": built(unusual.checkpointed_reentrant),
    "a function without forward rule": built(unusual.own_swish),
    "weight norm": unusual.weight_normed,
    "group norm": lambda: unusual.with_norm(lambda: nn.GroupNorm(2, 6)),
    "SiLU": lambda: unusual.with_norm(nn.SiLU),
    "Mish": lambda: unusual.with_norm(nn.Mish),
}


@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
def test_the_hessian_is_the_derivative_of_retraining(build, tmp_path):
    run, expected = twins.record(tmp_path, build), unusual.truth(build, twins.order())
    scores = hg.attribute(run, hg.mean_loss(twins.held_out()), curvature="hessian")
    assert oracle.relative(scores.values[0], expected) < 1e-6
    assert any(one.what.startswith("curvature products") and one.gap < 1e-3 for one in scores.evidence.compared)


PAIRS = {
    "checkpointing": (built(unusual.checkpointed), built(unusual.sine)),
    "reentrant checkpointing": (built(unusual.checkpointed_reentrant), built(unusual.sine)),
    "own function": (built(unusual.own_swish), built(unusual.swish)),
    "compiled": (lambda: torch.compile(built(unusual.sine)(), backend="eager"), built(unusual.sine)),
    "compiled part": (
        lambda: nn.Sequential(torch.compile(built(unusual.sine)(), backend="aot_eager"), nn.Identity()),
        lambda: nn.Sequential(built(unusual.sine)(), nn.Identity()),
    ),
}


@pytest.mark.parametrize(("odd", "plain"), PAIRS.values(), ids=PAIRS)
def test_every_route_computes_what_the_model_does(odd, plain, tmp_path):
    left_out = ["forward mode"]  # refused by name where there is no rule
    ours = twins.answers(twins.record(tmp_path / "odd", odd), leave_out=left_out)
    twins.assert_same(ours, twins.answers(twins.record(tmp_path / "plain", plain), leave_out=left_out))
    torch.testing.assert_close(twins.track(odd), twins.track(plain), rtol=1e-9, atol=1e-12)


def test_a_bag_of_embeddings_is_a_mean_of_rows(tmp_path):
    runs = [
        twins.record(tmp_path / str(bag), lambda bag=bag: unusual.Bag(bag), unusual.tokens()) for bag in (True, False)
    ]
    ours, theirs = (twins.answers(run, unusual.tokens(7, 2)) for run in runs)
    twins.assert_same(ours, theirs)


def test_samples_that_are_coupled_at_some_steps_only_are_noticed(tmp_path):
    build = built(unusual.mixed_sometimes)
    run, query = twins.record(tmp_path, build), hg.mean_loss(twins.held_out())
    safe = hg.attribute(run, query, route="samples")
    scores = hg.attribute(run, query)
    assert scores.evidence.route == "jvp"
    assert oracle.relative(scores.values, safe.values) < 1e-10
    assert oracle.relative(hg.hypergradients(run).contributions(query).values, safe.values) < 1e-10
    assert oracle.relative(twins.track(build), safe.values) < 1e-10


def test_a_route_that_departs_is_refused_by_name(tmp_path):
    run = twins.record(tmp_path, built(unusual.shrunk_by_a_function))
    with pytest.raises(Unsupported, match=r"route='jvp' is not valid here: Directional derivatives differ from the"):
        hg.attribute(run, hg.mean_loss(twins.held_out()), route="jvp")


class Half(unusual.Shrink):
    """Its forward-mode rule has half of the derivative."""

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 0.5 * tangent


def limited(model, h):
    if model.training:
        h.register_hook(lambda gradient: gradient.clamp(-0.02, 0.02))
    return h


def test_gradients_that_change_by_their_size_are_refused(tmp_path):
    run, query = twins.record(tmp_path, built(limited)), hg.mean_loss(twins.held_out())
    with pytest.raises(Unsupported, match="No way to the derivatives of single samples' losses agrees"):
        hg.attribute(run, query)
    with pytest.raises(Unsupported, match="gradient of a sum of losses is not the sum of their gradients"):
        hg.hypergradients(run)


@pytest.mark.parametrize("between", [unusual.shrunk_by_a_hook, unusual.shrunk_by_a_function])
def test_an_altered_gradient_has_exact_rows_and_no_transpose(between, tmp_path):
    build = built(between)
    run, query, expected = (
        twins.record(tmp_path, build),
        hg.mean_loss(twins.held_out()),
        unusual.truth(build, twins.order()),
    )
    rows = hg.hypergradients(run, curvature="hessian").contributions(query)
    assert oracle.relative(rows.values[0], expected) < 1e-6
    message = r"curvature product differs from how the gradient .* Use curvature='none', or the exact rows of"
    with pytest.raises(Unsupported, match=message):
        hg.attribute(run, query, curvature="hessian")


def test_exact_rows_whose_gradient_changes_otherwise_are_refused(tmp_path):
    def half_forward(model, h):  # its forward-mode rule is wrong, which its backward pass is not
        return Half.apply(h)

    run = twins.record(tmp_path, built(half_forward))
    with pytest.raises(Unsupported, match="differs from how the gradient that trains really changes"):
        hg.hypergradients(run, curvature="hessian")


def test_exact_rows_that_torch_has_no_derivatives_for_are_refused(tmp_path):
    run = twins.record(tmp_path, built(unusual.own_swish))
    with pytest.raises(Unsupported, match="Exact rows need derivatives that torch does not have"):
        hg.hypergradients(run, curvature="hessian")


class Cubed(torch.autograd.Function):
    """Without a forward-mode rule, and differentiable once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def test_curvature_that_torch_has_no_way_to_is_refused(tmp_path):
    run = twins.record(tmp_path, built(lambda model, h: Cubed.apply(h)))
    query = hg.mean_loss(twins.held_out())
    assert hg.attribute(run, query).values.any()
    message = r"No way to the derivatives that curvature='hessian' needs .*differs from how .* Use"
    with pytest.raises(Unsupported, match=message):
        hg.attribute(run, query, curvature="hessian")


def sequence_loss(model, batch):
    scores = model(batch[0]).log_softmax(-1).unsqueeze(0)
    lengths = torch.ones(len(batch[1]), dtype=torch.int64)
    return F.ctc_loss(scores, 1 + batch[1].clamp(max=1)[:, None], lengths, lengths, reduction="none")


def test_ctc_has_curvature(tmp_path):
    run = twins.record(tmp_path, loss=sequence_loss)
    expected = unusual.truth(twins.mlp, twins.order(), loss=sequence_loss)
    scores = hg.attribute(run, hg.mean_loss(twins.held_out()), curvature="hessian")
    assert oracle.relative(scores.values[0], expected) < 1e-6


def penalised(model, batch):
    x = batch[0].clone().requires_grad_()
    losses = F.cross_entropy(model(x), batch[1], reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    return losses + gradient.square().sum(1)


def test_a_loss_may_take_a_gradient_itself(tmp_path):
    run = twins.record(tmp_path, loss=penalised)
    expected = unusual.truth(twins.mlp, twins.order(), loss=penalised)
    query = hg.mean_loss(twins.held_out())
    assert oracle.relative(hg.attribute(run, query, curvature="hessian").values[0], expected) < 1e-6
    assert hg.counterfactual(run, [[1]], query, keep=False).values.any()


# --- the gradient of the query


def stopped_in_eval_mode(model, h):
    return h if model.training else h.detach()


def without_gradients_in_eval_mode(model, h):
    with torch.set_grad_enabled(model.training):
        return torch.sin(h)


def gated(model, h):
    return h * h.detach().cos()


@pytest.mark.parametrize("between", [stopped_in_eval_mode, without_gradients_in_eval_mode, gated])
def test_a_query_is_differentiated_through_stops(between, tmp_path):
    build = built(between)
    run, expected = twins.record(tmp_path, build, steps=ONE_STEP), unusual.truth(build, ONE_STEP)
    assert oracle.relative(hg.attribute(run, hg.mean_loss(twins.held_out())).values[0], expected) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("between", [lambda model, h: unusual.Shrink.apply(h)])
def test_a_query_whose_gradient_is_changed_on_its_way_is_refused(between, dtype, tmp_path):
    def build():
        return built(between)().to(dtype)

    x, y = twins.vectors().tensors
    data = torch.utils.data.TensorDataset(x.to(dtype), y)
    model = build()
    optimizer = twins.sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, twins.loss, data) as recorder, recorder.step([0, 1]):
        twins.loss(model, data[:2]).mean().backward()
        optimizer.step()
    run = hg.Recording(tmp_path, build(), twins.loss, data)
    with pytest.raises(QueryError, match="is not the derivative of its value"):
        hg.attribute(run, hg.mean_loss(data))


def test_a_query_that_torch_cannot_differentiate_is_refused(tmp_path):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("no gradient of this")

    run = twins.record(tmp_path)
    query = hg.query("odd", lambda model: Once.apply(model[0].weight).sum())
    with pytest.raises(QueryError, match="torch cannot differentiate query 'odd': no gradient of this"):
        hg.attribute(run, query)


def test_a_value_that_jumps_along_entries_without_gradient_is_accepted(tmp_path):
    def orthogonal():
        return nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 5)), nn.Linear(5, twins.CLASSES))

    run = twins.record(tmp_path, orthogonal, steps=ONE_STEP)
    expected = unusual.truth(orthogonal, ONE_STEP)
    assert oracle.relative(hg.attribute(run, hg.mean_loss(twins.held_out())).values[0], expected) < 1e-6
