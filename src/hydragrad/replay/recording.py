"""A Recording: a run directory opened for replay."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from hydragrad.derivatives import Batch, PerSampleLoss, bare_model, require_differentiable
from hydragrad.errors import LossError, RecordingMismatch, ReplayMismatch, RunDamaged
from hydragrad.randomness import preserved
from hydragrad.replay.averages import Ends, RunAverage, read_average, trained_ends
from hydragrad.replay.backend import backend
from hydragrad.replay.data import Collate, data_fingerprint, fetch, fetch_micro_batch, require_map_style
from hydragrad.replay.elsewhere import Elsewhere
from hydragrad.replay.fingerprints import batch_digest, same_batch
from hydragrad.replay.machine import default_dtype_of, same_kind, this_machine, threads, warn_other_machine
from hydragrad.replay.outside_state import OUTSIDE_STATE, refuse_outside_state
from hydragrad.replay.replay import Replay
from hydragrad.replay.reported_losses import ReportedLosses
from hydragrad.replay.rounding import Followers, unit_of_rounding
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint, CheckpointFolder
from hydragrad.runs.log import LOG, MicroBatch, StepRecord
from hydragrad.runs.manifest import Manifest, read_manifest, require_same_model
from hydragrad.runs.processes import parts_of, read_whole_manifest, read_whole_steps
from hydragrad.steps import StepRule, rule_named
from hydragrad.surroundings import clean, in_clean_surroundings


class Recording:
    """A finished or interrupted run, ready to be replayed.

    Args:
        path: Run directory; where several processes trained, that of rank 0 with the parts of the others in it.
        model: A model like the recorded one; its weights may be anything, and it is never changed.
        loss: The loss that was recorded.
        train_set: The data set that was recorded.
        collate: As given to the Recorder.
        fingerprint: What `data_fingerprint` says of `train_set`, where the caller has just asked it.

    Attributes:
        average: Of the weights, which the run is asked about; None: the trained weights.
        loss_weights: Loss weight of every sample, (samples,), or None: 1, as in the run.
        steps: What every complete step did.
        manifest: The facts about the run.

    Raises:
        RunNotFound: No run at `path`.
        RunDamaged: Truncated or altered files.
        RecordingMismatch: Another model, loss, data set, or schema.
    """

    @in_clean_surroundings
    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        loss: PerSampleLoss,
        train_set: Dataset[Any],
        *,
        collate: Collate | None = None,
        fingerprint: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        model = bare_model(model)
        self.manifest: Manifest = read_whole_manifest(self.path)
        self.rules: tuple[StepRule, ...] = tuple(map(rule_named, self.manifest.optimizers))
        self._folder = CheckpointFolder(self.path)
        require_same_model(self.manifest.model, model, self.path, self._folder.last_buffers)
        refuse_outside_state(self.manifest.about.get(OUTSIDE_STATE, []))
        require_differentiable(model)
        require_map_style(train_set)
        self.model, self.loss, self.train_set = model, loss, train_set
        self.collate_fn = collate
        self.loss_weights: Tensor | None = None
        self.average: RunAverage | None = None
        self.repeated: set[int] = set()
        self._seen_digests: dict[tuple[int, int], int] = {}
        self._warned_of_data = False
        self._reported_losses = ReportedLosses()
        self.device = next(model.parameters()).device
        self._require_same_data(data_fingerprint(train_set) if fingerprint is None else fingerprint)
        self.steps = self._read_steps()
        self._digests = {step: digest for step, digest in self._folder.entries().items() if step <= len(self.steps)}
        self._require_whole()
        self._machines = [*self._recorded_on(), this_machine(self.device)]
        self.same_machine = warn_other_machine(self._machines[:-1], self._machines[-1])
        self._require_same_loss()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in another process, which may be on another machine."""
        vars(self).update(state)
        there, here = self._machines[-1], this_machine(self.device)
        self._machines = [*self._machines[:-1], here]
        if not same_kind(there, here):
            self.same_machine = warn_other_machine(self._machines[:-1], here)

    def __copy__(self) -> "Recording":
        """The same in this process, where nothing has to be looked at again."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    @property
    def files(self) -> list[Path]:
        """The files of the run directory that a replay reads."""
        patterns = ("*.json", "*.jsonl", "checkpoints/*", "batches/*", "ranks/**/*")
        return sorted(path for pattern in patterns for path in self.path.glob(pattern) if path.is_file())

    def moved_to(self, folder: Path) -> "Recording":
        """The same run, read from a copy of its directory."""
        moved = copy.copy(self)
        moved.path, moved._folder = folder, CheckpointFolder(folder)
        return moved

    @property
    def completed(self) -> bool:
        """True where the loop ran to its end."""
        return self.manifest.status == "completed"

    @property
    def exact(self) -> bool:
        """Whether a replay repeats the run to the bit: on its machine, where one process made it."""
        return self.same_machine and self.manifest.processes == 1

    def _recorded_on(self) -> list[dict[str, Any]]:
        """The machines of all parts of the run."""
        parts = [self.manifest]
        if self.manifest.processes > 1:
            parts += [read_manifest(folder) for folder in parts_of(self.path, self.manifest)[1:]]
        return [machine for part in parts for machine in (part.machine, *part.resumed_on)]

    @property
    def default_dtype(self) -> torch.dtype | None:
        """What torch made new tensors of while the run was recorded; None where an earlier version recorded it."""
        return default_dtype_of(self.manifest.machine)

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Stretches of steps [start, stop), each starting at a checkpoint."""
        starts = sorted(step for step in self._digests if step < len(self.steps))
        return list(zip(starts, [*starts[1:], len(self.steps)], strict=True))

    def checkpoint(self, step: int) -> Checkpoint:
        """Read the checkpoint before `step`; it must be one of the segments' starts, or the run's end."""
        return self._folder.read(step, self._digests[step])

    @cached_property
    def autocast(self) -> str | None:
        """The type that steps ran in under autocast; None where none did."""
        return next((record.autocast for record in self.steps if record.autocast is not None), None)

    def has_checkpoint(self, step: int) -> bool:
        """Whether there is a checkpoint before `step`."""
        return step in self._digests

    @property
    def digest(self) -> str:
        """Digest of the last checkpoint and the number of steps, which names this run and no other."""
        about = "" if self.average is None else f"-{self.average.name}"
        return f"{self._digests[max(self._digests)]}-{len(self.steps)}{about}"

    def batches(self, record: StepRecord) -> list[Batch]:
        """Fetch a step's micro-batches again. It draws from the global generators; callers preserve them."""
        batches = []
        for number, part in enumerate(record.micro_batches):
            data = self._data(record, part)
            self._require_same_batch(record, number, batch_digest(data))
            batches.append(Batch(data, len(part), part.seed))
        return batches

    def _require_same_batch(self, record: StepRecord, number: int, digest: int) -> None:
        """Compare a micro-batch with what the loop showed, and with what was fetched first."""
        part = record.micro_batches[number]
        fetched = self._seen_digests.setdefault((record.step, number), digest)
        recorded = fetched if part.digest is None else part.digest
        if not same_batch(fetched, digest) or not same_batch(recorded, digest, rounded=self._rounds_data):
            raise ReplayMismatch(
                f"The batch of step {record.step} (samples {part.indices[:3]}, ...) holds other data than it was "
                f"trained on. Open the run with the data set, labels, collate_fn and augmentation that it was "
                f"recorded with."
            )
        if not same_batch(recorded, digest) and not self._warned_of_data:
            self._warned_of_data = True
            warnings.warn(
                f"Floating-point data of step {record.step} differ to the bit from the recorded ones, and labels and "
                f"other integers agree: augmentation rounds otherwise on this machine, or data were changed. Steps are "
                f"held to their recorded states all the same.",
                stacklevel=2,
            )

    @property
    def _rounds_data(self) -> bool:
        """Whether code of the data set's own makes the data, on another machine than the recording's."""
        stored = self.manifest.store_batches or (type(self.train_set) is TensorDataset and self.collate_fn is None)
        return not self.same_machine and not stored

    def _data(self, record: StepRecord, part: MicroBatch) -> Any:
        return fetch_micro_batch(
            record,
            part,
            self.train_set,
            collate=self.collate_fn,
            device=self.device,
            stored_in=self.path if self.manifest.store_batches else None,
        )

    @contextmanager
    def replay(self) -> Iterator[Replay]:
        """Replay steps on a private copy, with the recorded threads and switches; global generators are preserved."""
        machine = self.manifest.machine
        with clean(self.default_dtype), preserved(), threads(machine["threads"]), backend(machine.get("backend", {})):
            trajectory = Trajectory(self.model, self.loss, self.rules)
            elsewhere = None if self.exact else self._elsewhere(trajectory)
            yield Replay(trajectory, elsewhere=elsewhere, repeated=self.repeated)

    def _elsewhere(self, trajectory: Trajectory) -> Elsewhere:
        unit = unit_of_rounding(trajectory.parameters.values(), self._machines)
        followers = Followers(self._recorded, lambda: Trajectory(self.model, self.loss, self.rules), unit)
        return Elsewhere(
            followers,
            self._reported_losses,
            self._origin_of,
            processes=self.manifest.processes,
            same_machine=self.same_machine,
        )

    @property
    def _recorded(self) -> "Recording":
        """The run as it was recorded."""
        return self

    def _origin_of(self, restored: int) -> int:
        """The step whose recorded state led to the state before a step that is restored."""
        return max(step for step in self._digests if step <= restored)

    @property
    def final(self) -> Checkpoint:
        """The state that queries are about, after the last complete step, or the average that was asked for."""
        return self.asked_about(self.last)

    def asked_about(self, checkpoint: Checkpoint) -> Checkpoint:
        """What queries are about at a checkpoint: its own weights, or those of the average that was asked for."""
        return checkpoint if self.average is None else self.average.at(checkpoint)

    @property
    def ends(self) -> Ends:
        """What the final model is made of: a share of the state after every step."""
        return trained_ends(len(self.steps)) if self.average is None else self.average.ends

    def averaged(self, name: str | None = None) -> "Recording":
        """The same run, asked about an average of its weights that the loop kept next to the model (EMA, SWA).

        Its `trained_model()` is the averaged one, and scores are about it.

        Args:
            name: As in the Recorder's `averages`; the only one if None.

        Raises:
            QueryError: There is none of this name, it was never updated, or the run was not completed.
            RunDamaged: Updates are missing.
        """
        averaged = copy.copy(self)
        averaged.average = read_average(self, name)
        return averaged

    @cached_property
    @in_clean_surroundings
    def last(self) -> Checkpoint:
        """The state after the last complete step."""
        end = len(self.steps)
        if end in self._digests:
            return self.checkpoint(end)
        start, _ = self.segments[-1]
        with self.replay() as replay:
            replay.trajectory.restore(self.checkpoint(start))
            for record in self.steps[start:end]:
                replay.advance(record, self.batches(record))
            return replay.trajectory.checkpoint(end)

    @cached_property
    @in_clean_surroundings
    def initial(self) -> Checkpoint:
        """The state before the first step."""
        return self.checkpoint(0)

    @in_clean_surroundings
    def trained_model(self) -> nn.Module:
        """A copy of the model with the run's final (or averaged) weights and buffers, in eval mode."""
        with preserved():
            trajectory = Trajectory(self.model, self.loss, self.rules)
        trajectory.restore(self.final)
        return trajectory.model.eval().requires_grad_(False)

    @in_clean_surroundings
    def collate(self, indices: Sequence[int]) -> Any:
        """Draw samples of the training set outside any step."""
        return fetch(self.train_set, indices, seed=0, collate=self.collate_fn, device=self.device)

    def _read_steps(self) -> list[StepRecord]:
        steps = read_whole_steps(self.path, self.manifest)
        expected = self.manifest.steps
        if expected is not None and len(steps) < expected:
            raise RunDamaged(
                f"{self.path / LOG} has {len(steps):,} steps; the run had {expected:,}. It was truncated: restore "
                f"it from a copy, or train again."
            )
        if not steps:
            raise RunDamaged(f"{self.path} holds no complete step, so there is nothing to replay. Train again.")
        if not self.completed:
            warnings.warn(
                f"{self.path} was not completed; it is read up to its last complete step, {len(steps):,}. Train on "
                f"with resume=True (--resume).",
                stacklevel=4,
            )
        return steps

    def _require_whole(self) -> None:
        if 0 not in self._digests:
            raise RunDamaged(f"{self._folder.index} does not list the first checkpoint. Restore it, or train again.")
        last, ahead = max(self._folder.entries()), int(self.manifest.processes > 1)
        if last > len(self.steps) + ahead:  # rank 0 may have been a step ahead of one that was killed
            raise RunDamaged(
                f"{self.path / LOG} ends at step {len(self.steps):,}, before the checkpoint of step {last:,}. The file "
                f"was truncated: restore it from a copy, or train again."
            )

    def _require_same_data(self, given: dict[str, Any]) -> None:
        recorded = self.manifest.data
        if recorded["length"] != given["length"]:
            raise RecordingMismatch(
                f"{self.path} was recorded on {recorded['length']:,} training samples; this data set has "
                f"{given['length']:,}. Give the data set it was recorded with."
            )
        if recorded != given and not self.manifest.store_batches:
            raise RecordingMismatch(
                f"{self.path} was recorded on a data set of the same length but other content (digest "
                f"{recorded['digest'][:12]} then, {given['digest'][:12]} now). Give the data set it was recorded "
                f"with, labels included."
            )

    def _require_same_loss(self) -> None:
        """Replay the first step: another loss, or a model of the same shapes that computes otherwise, shows."""
        record = self.steps[0]
        try:
            with self.replay() as replay:
                replay.trajectory.restore(self.initial)
                replay.advance(record, self.batches(record))
        except (ReplayMismatch, LossError) as error:
            raise RecordingMismatch(
                f"The first step of {self.path} can't be repeated with this model and loss: {error} Give the model "
                f"and the loss it was recorded with."
            ) from error
