"""The modes, each really taken on a recording of the two steps: whether it works, by which route, and what it costs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from hydragrad.attribution import attribute, influence
from hydragrad.attribution.attribute import MEMORY
from hydragrad.attribution.plan import Plan, make_plan
from hydragrad.attribution.segments import choose_route
from hydragrad.checking.checked import Mode
from hydragrad.checking.refused import Refusal, attempt, refusal_of
from hydragrad.checking.sizes import tracked_samples
from hydragrad.checking.steps import SEED, fastest_step, make_steps, timed
from hydragrad.checking.trial import LONG_SECONDS, Step, Trial, one_or_all, recorder_of
from hydragrad.derivatives import BatchStatistics, HooksInapplicable, LayerGradients, Layout
from hydragrad.replay import Recording
from hydragrad.replay.histories import has_closed_form, run_histories
from hydragrad.scores import Method, Note, Scores
from hydragrad.tracking import Store, Tracker, hypergradients
from hydragrad.tracking.new_store import require_memory
from hydragrad.trust import counterfactual

INFLUENCE_CHECKPOINTS, INFLUENCE_SAMPLES = 10, 5000
"""What hg.influence averages over, and the samples of its matrix, at most."""


def every_mode(trial: Trial, *, batch_norm: bool) -> list[tuple[str, Callable[[], Mode]]]:
    """Names and jobs, in the order of the table."""
    jobs = [
        ("record", lambda: _record(trial)),
        ("none", lambda: _attribute(trial, "none")),
        ("labels", lambda: _attribute(trial, "labels")),
        ("hessian", lambda: _attribute(trial, "hessian")),
        ("ggn", lambda: _attribute(trial, "ggn")),
        ("influence", lambda: _influence(trial)),
        ("counterfactual", lambda: _counterfactual(trial)),
        ("hypergradients", lambda: _hypergradients(trial)),
        ("Tracker", lambda: _tracker(trial, "exact")),
    ]
    if batch_norm:
        jobs.append(("Tracker, frozen statistics", lambda: _tracker(trial, "frozen")))
    return jobs


def _costed(trial: Trial, mode: Mode, step: Step) -> Mode:
    """With the cost of a step as a multiple and for the whole training."""
    if step.seconds is None or trial.plain is None:
        return mode
    ratio = step.seconds / trial.plain
    return replace(mode, ratio=ratio, seconds=step.seconds * trial.waits * trial.steps, at_most=step.at_most)


def _refused(name: str, refusal: Refusal | None) -> Mode:
    return Mode(name=name, works=False, refusal=refusal)


def _record(trial: Trial) -> Mode:
    seconds = None
    if trial.plain is not None:
        copies = trial.setup.copies()
        with recorder_of(trial.setup, copies, trial.folder / "timed") as recorder:
            seconds = fastest_step(trial.setup, copies, recorder)
    mode = Mode(
        name="record",
        works=True,
        route="hg.Recorder",
        why="without checkpoints, and the replay of some steps",
        memory=2 * trial.sizes.state,
        disk=trial.sizes.run_directory(trial.steps),
    )
    return _costed(trial, mode, Step(seconds))


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "labels": {"labels": True},
    "hessian": {"curvature": "hessian"},
    "ggn": {"curvature": "ggn"},
}
"""Modes of hg.attribute, and its options."""


def _attribute(trial: Trial, name: str) -> Mode:
    options = OPTIONS[name]

    def job(run: Recording) -> Scores:
        return attribute(run, trial.query, **options)

    (scores, refusal), took = trial.attempted(lambda: job(trial.run))
    if scores is None:
        return _refused(name, refusal)
    plan = make_plan(trial.run, Method.of(options.get("curvature", "none")), sample_ids=scores.sample_ids)
    route = scores.evidence.route
    mode = Mode(
        name=name,
        works=True,
        route=route,
        why=_why(trial, plan, route, labels=name == "labels"),
        memory=trial.sizes.attribution(swept=route == "sweep", steps=trial.steps, most=MEMORY),
    )
    return _costed(trial, mode, trial.a_step(job, took))


def _why(trial: Trial, plan: Plan, route: str, *, labels: bool) -> str:
    """Why by this route."""
    if plan.method.curvature != "none":
        return "curvature products, from the last step back to the first"
    if route == "sweep":
        if not trial.uneven:
            return "clipping acts, so a step is no fixed multiple of its gradient: from the last step back to the first"
        return f"{trial.uneven} moves every coordinate in its own way: from the last step back to the first"
    if labels:
        return "every label's contribution needs the tangent of the logits"
    chosen, why = choose_route(plan)
    return why if chosen == route else _why_not(trial, chosen)


def _why_not(trial: Trial, route: Any) -> str:
    """Why a route that looked valid was left for a safer one."""
    try:
        attribute(trial.run, trial.query, route=route)
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return f"forward mode is not valid here: {refusal_of(cause).message.splitlines()[0].rstrip('. ')}"
    return "a faster route was left on the way"


def _influence(trial: Trial) -> Mode:
    def job() -> Scores:
        return influence(trial.run, trial.query, checkpoints=1)

    (scores, refusal), took = trial.attempted(job)
    if scores is None:
        return _refused("influence", refusal)
    memory = 4 * trial.sizes.weights + trial.sizes.state
    mode = Mode(
        name="influence",
        works=True,
        route="influence",
        why=f"weights alone, at {INFLUENCE_CHECKPOINTS} checkpoints; its cost grows with the samples, not the steps",
        memory=memory,
    )
    if trial.plain is None:
        return mode
    measured = took if took >= LONG_SECONDS else min(took, timed(trial.setup.device, job))
    own = len(trial.setup.data)  # type: ignore[arg-type]
    most = min(trial.samples, INFLUENCE_SAMPLES) / own * measured
    scored = trial.samples / max(1, sum(map(len, trial.setup.groups[0]))) * trial.plain
    return replace(mode, seconds=INFLUENCE_CHECKPOINTS * (most + scored) * trial.waits)


def _counterfactual(trial: Trial) -> Mode:
    def job(run: Recording) -> object:
        return counterfactual(run, [trial.setup.batch[:1]], trial.query, keep=False)

    (result, refusal), took = trial.attempted(lambda: job(trial.run))
    if result is None:
        return _refused("counterfactual", refusal)
    mode = Mode(
        name="counterfactual",
        works=True,
        route="replay",
        why="one training a group that is left out",
        memory=2 * trial.sizes.state,
    )
    return _costed(trial, mode, trial.a_step(job, took))


def _hypergradients(trial: Trial) -> Mode:
    samples = tracked_samples(trial.setup, trial.sizes, every_row=bool(trial.uneven))

    def job(run: Recording) -> Store:
        return hypergradients(run, samples=samples)

    (store, refusal), took = trial.attempted(lambda: job(trial.run))
    if store is None:
        return _refused("hypergradients", refusal)
    closed = has_closed_form(trial.run, run_histories(trial.run))
    mode = Mode(name="hypergradients", works=True, route="replay", why="the rows of a Tracker, by replay")
    mode = _with_rows(trial, mode, store, len(samples), 1 if closed else trial.sizes.accumulators, every_row=not closed)
    return _costed(trial, mode, trial.a_step(job, took))


def _tracker(trial: Trial, statistics: BatchStatistics) -> Mode:
    name = "Tracker" if statistics == "exact" else "Tracker, frozen statistics"
    samples = tracked_samples(trial.setup, trial.sizes, every_row=bool(trial.uneven))

    copies = trial.setup.copies()

    def job() -> tuple[Tracker, float | None]:
        tracker = Tracker(
            copies.model,
            one_or_all(copies),
            trial.setup.loss,
            trial.setup.data,
            samples=samples,
            collate=trial.setup.collate,
            seed=SEED,
            batch_statistics=statistics,
            samples_per_step=max(sum(map(len, group)) for group in trial.setup.groups),
        )
        with tracker:
            if trial.plain is not None:
                return tracker, fastest_step(trial.setup, copies, tracker)
            make_steps(trial.setup, copies, tracker)
            return tracker, None

    done, refusal = attempt(job)
    if done is None:
        return _refused(name, refusal)
    tracker, seconds = done
    route = tracker.route
    every_row = bool(trial.uneven)
    mode = Mode(name=name, works=True, route=route, why=_why_rows(trial.setup.copies().model, route))
    mode = _with_rows(trial, mode, tracker.store, len(samples), trial.sizes.accumulators, every_row=every_row)
    return _costed(trial, mode, Step(seconds))


def _why_rows(model: nn.Module, route: str) -> str:
    if route == "layers":
        return "every layer has a rule"
    if route == "frozen":
        return "statistics of batches as constants: one more pass for all samples of a batch"
    try:
        gradients = LayerGradients(model, Layout({name: p.shape for name, p in model.named_parameters()}))
    except HooksInapplicable as error:
        return f"one backward pass a sample: {error}"
    gradients.remove()
    return "one backward pass a sample: layers are used in a way that the rules do not know, or under autocast"


def _with_rows(trial: Trial, mode: Mode, store: Store, tracked: int, accumulators: int, *, every_row: bool) -> Mode:
    """With what rows of all samples take, and the library's own words where they do not fit into memory."""
    sizes, all_samples = trial.sizes, trial.samples
    few = "" if tracked >= len(trial.setup.data) else f"; measured with {tracked} tracked samples"  # type: ignore[arg-type]
    _, refusal = attempt(
        lambda: require_memory(None, store.facts, all_samples, sizes.columns, accumulators, every_row=every_row)
    )
    return replace(
        mode,
        memory=sizes.rows(all_samples, accumulators, every_row=every_row),
        disk=sizes.rows(all_samples, 1),
        why=mode.why + few,
        refusal=refusal,
    )


def notes_of(trial: Trial) -> Iterator[Note]:
    """The notes that scores of this training would have."""
    scores, _ = attempt(lambda: attribute(trial.run, trial.query))
    if scores is not None:
        yield from scores.evidence.notes
