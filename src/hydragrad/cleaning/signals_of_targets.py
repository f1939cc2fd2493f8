"""What training shows about each sample's target, where it is more than one class: values, several labels, positions.

Every sample is evaluated at the trained weights and at earlier checkpoints of the run, as for `signals`. What the model
returned is averaged over them: right targets are learned before wrong ones, so the mean shows more than the end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.cleaning.signals import POINTS, checkpoints_of
from hydragrad.cleaning.target_evidence import Block, Evidence, positions, several_labels, values
from hydragrad.derivatives import Evaluator, Target, floating_outputs
from hydragrad.errors import NonFinite
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, Trained, samples_in
from hydragrad.replay.checkpoint_spread import spread_steps
from hydragrad.replay.labels import target_of
from hydragrad.runs import Checkpoint
from hydragrad.runs.buffers import put_state
from hydragrad.runs.kept import Kept
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

AT_ONCE = 500
"""Samples that are evaluated at a time."""

HELD = 2**28
"""Numbers of a mean over checkpoints that are held at a time; what has more is evaluated block by block."""

EVIDENCE = {"values": values, "multi-label": several_labels, "positions": positions}


@dataclass(frozen=True, kw_only=True)
class TargetSignals:
    """Evidence against every sample's target, in the order of the training set.

    Attributes:
        kind: "values", "multi-label" or "positions".
        how: How the target was found.
        against: How strongly training contradicts the target, float64 (samples,); higher is more suspect.
        columns: What a person sees of it, each (samples,): `given_target`, `suggested_target`, and more of the kind.
    """

    kind: str
    how: str
    against: Tensor
    columns: dict[str, Tensor]

    def of(self, samples: Tensor) -> "TargetSignals":
        """Those of some samples, in their order."""
        columns = {name: column[samples] for name, column in self.columns.items()}
        return replace(self, against=self.against[samples], columns=columns)


@in_clean_surroundings
def target_signals(run: Recording | Checkpoints, *, points: int = POINTS) -> TargetSignals:
    """Measure them once; they are saved in RUN/signals, those of checkpoints nowhere.

    Args:
        run: A recorded run, or checkpoints of a model trained elsewhere.
        points: Checkpoints at which all samples are evaluated, as for `training_signals`.

    Raises:
        LossError: No tensor of the batches is a target of a kind that is known, or several are.
        NonFinite: The model returned NaN or infinity.

    Cost: `points` evaluations of the training set, and one of the loss for which elements count.
    """
    if isinstance(run, Checkpoints):
        return _measured(run, target_of(run), checkpoints_of(run, points))
    steps = spread_steps(run, max(1, points))
    kept = Kept(
        run.path / "signals",
        f"targets-points{points}",
        [run.digest, steps, "targets by behaviour, in order"],
    )
    signals = kept.read_as(_unpacked)
    if signals is None:
        signals = _measured(run, target_of(run), checkpoints_of(run, points))
        about = {"kind": signals.kind, "how": signals.how, "columns": " ".join(signals.columns)}
        kept.write({"against": signals.against, **signals.columns}, about)
    return signals


def _unpacked(tensors: dict[str, Tensor], metadata: dict[str, str]) -> TargetSignals:
    columns = {name: tensors[name] for name in metadata["columns"].split()}  # files do not keep their order
    return TargetSignals(kind=metadata["kind"], how=metadata["how"], against=tensors["against"], columns=columns)


def _measured(run: Trained, target: Target, checkpoints: Sequence[Callable[[], Checkpoint]]) -> TargetSignals:
    """Evaluate all samples at the checkpoints, the last of them the trained weights."""
    model, length = run.trained_model(), samples_in(run)
    blocks = list[Block]()
    with preserved(), bar("evaluating", length * len(checkpoints), unit="samples") as progress:
        start = 0
        while start < length:
            means, stop = list[Block](), length
            for number, read in enumerate(checkpoints):
                state = read()
                put_state(model, state.parameters | state.buffers)
                for place, part in enumerate(_parts(run, target, model, start, stop, first=number == 0)):
                    if number == 0:
                        means.append(part)
                        if sum(mean.output.numel() for mean in means) >= HELD:
                            break
                    else:
                        means[place].add(part)
                stop = start + sum(len(mean.output) for mean in means)
                progress.advance(stop - start)
            blocks += [mean.finished(len(checkpoints), target) for mean in means]
            start = stop
    evidence: Evidence = EVIDENCE[target.kind](blocks)
    return TargetSignals(kind=target.kind, how=target.how, against=evidence.against, columns=evidence.columns)


def _parts(run: Trained, target: Target, model: nn.Module, start: int, stop: int, *, first: bool) -> Iterator[Block]:
    """What the model returns for samples, a batch at a time; which elements count only the first time."""
    outputs, evaluate = list[Any](), Evaluator(run.loss)
    for begin in range(start, stop, AT_ONCE):
        data = run.collate(range(begin, min(begin + AT_ONCE, stop)))
        counted = target.counted(model, lambda batch: run.loss(model, batch), data).cpu() if first else torch.empty(0)
        handle = model.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        try:
            with torch.no_grad():
                outputs.clear()
                losses = evaluate(model, data)
        finally:
            handle.remove()
        output = floating_outputs(outputs, len(losses))[target.output]
        given, answers = target.of(data, output), target.answers(output)
        answers = answers.double() if target.kind == "values" else _probabilities(target, answers)
        if not bool(answers.isfinite().all()) or not bool(losses.isfinite().all()):
            raise NonFinite(
                f"The model must return finite numbers for every sample; of samples {begin} to "
                f"{begin + len(losses) - 1} some are NaN or infinite. Leave those samples out."
            )
        yield Block(answers.cpu(), given.cpu(), counted, losses.double().cpu())


def _probabilities(target: Target, answers: Tensor) -> Tensor:
    if target.kind == "positions":
        return answers.double().softmax(-1).float()  # the largest by far
    return answers.double() if target.probabilities else answers.double().sigmoid()
