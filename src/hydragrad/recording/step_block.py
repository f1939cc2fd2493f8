"""A step block: one optimizer step of a user's loop, watched. Recorder and Tracker share it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from hydragrad.derivatives import PerSampleLoss, check_losses, naming_label_dtype
from hydragrad.errors import QueryError, StepError
from hydragrad.randomness import BATCH, FORWARD, StepSeeds, step_seed, stream_seed
from hydragrad.recording.gradient_watch import Earlier
from hydragrad.recording.prepared import autocast_outside
from hydragrad.recording.rank_watch import RankWatch
from hydragrad.recording.sampler_position import Indices
from hydragrad.recording.watch import Watch
from hydragrad.replay.data import channels_last
from hydragrad.replay.fingerprints import batch_digest
from hydragrad.runs.log import MicroBatch, StepRecord
from hydragrad.runs.manifest import Reduction
from hydragrad.steps import Together
from hydragrad.surroundings import in_clean_surroundings

_inside: ContextVar[tuple[Watch, ...]] = ContextVar("inside", default=())
"""The step blocks that are open: a loop may have several observers."""


class StepBlock:
    """Turns what a loop does between `begin` and `leave` into the record of a step.

    In order: `samples`, `micro_batch`, `watched` (`begin` and `leave` around the loop's code), `record`. A block that
    an exception leaves is abandoned: nobody calls `record`, and the next block starts afresh.

    Args:
        model: The model being trained.
        optimizer: Its optimizer, or several together.
        owner: The class whose method `step` hands out the blocks, for messages.
        length: Samples of the training set.
        reduction: How the loop makes one number of the per-sample losses.
        state: The step's `state` in the log; called after the step.
        shares_seed: Inside a block that is seeded already, draw from its seed. False: every block has its own.
        rank: Watches this process where several train together.

    Attributes:
        watch: What model and optimizer do inside the blocks.

    Raises:
        Unsupported: The optimizer's step has no rule, or it has parameters that are not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Together,
        *,
        owner: str,
        length: int,
        reduction: Reduction,
        state: Callable[[], float],
        shares_seed: bool = False,
        rank: RankWatch | None = None,
    ) -> None:
        self._owner, self._method = owner, f"{owner.lower()}.step()"
        self._length, self._reduction, self._state, self._shares_seed = length, reduction, state, shares_seed
        buffers = "own" if rank is None else rank.compared_buffers
        self.watch, self._rank = Watch(model, optimizer, self._method, buffers), rank
        self._open, self._seed, self._step = False, 0, 0
        self._before: list[MicroBatch] = []
        self._present = MicroBatch([], 0, 0, 1.0)
        self._while_inside, self._seeds = ExitStack(), StepSeeds()

    def open(
        self,
        seed: int,
        before_update: Callable[[], None] | None = None,
        before_transform: Callable[[], None] | None = None,
    ) -> None:
        """Accept blocks from now on.

        Args:
            seed: The seeds of all steps are derived from it.
            before_update: Called before the optimizer steps.
            before_transform: Called before gradients are clipped.
        """
        self._open, self._seed = True, seed
        self.watch.attach(before_update, before_transform)
        if self._rank is not None:
            self._rank.attach()

    def close(self) -> None:
        """Accept no further blocks."""
        self._open = False
        self.watch.detach()
        if self._rank is not None:
            self._rank.detach()

    def samples(self, indices: Sequence[int] | Tensor) -> list[int]:
        """Check that a block may begin with these samples.

        Raises:
            StepError: The owner is not open, or the block would be nested in another one.
            QueryError: No samples, or some that the training set does not have.
        """
        if not self._open:
            raise StepError(f"{self._method} belongs inside `with {self._owner}(...)`, which is not open. Enter it.")
        if self.watch.inside:
            raise StepError(
                f"{self._method} blocks hold one step each and are never nested; the block before this one is still "
                f"open. Leave it first."
            )
        samples = [int(i) for i in (indices.tolist() if isinstance(indices, Tensor) else indices)]
        if not samples:
            raise QueryError(f"{self._method} needs the samples of the batch, got an empty batch. Pass their indices.")
        unknown = [i for i in samples if not 0 <= i < self._length]
        if unknown:
            raise QueryError(
                f"A step trains on samples 0 to {self._length - 1} of the training set, got {unknown[:5]}. Pass "
                f"indices of the data set that the {self._owner} has."
            )
        return samples

    @property
    def pending(self) -> int:
        """Micro-batches of the next step that came already."""
        return len(self._before)

    @property
    def latest(self) -> MicroBatch:
        """The last micro-batch that came, as its block showed it."""
        return self._before[-1]

    def micro_batch(
        self, step: int, indices: Sequence[int] | Tensor, samples: list[int], batch: Any = None
    ) -> MicroBatch:
        """The batch that the next block trains on, with its seeds.

        Args:
            step: Counted from 0.
            indices: As the loop passed them; those of `hg.indexed` have a seed of their own for augmentation.
            samples: The same, checked.
            batch: The batch itself, where the loop passes it.
        """
        batch_seed = indices.batch_seed if isinstance(indices, Indices) else None
        digest = indices.digest if isinstance(indices, Indices) else None
        shared = self._shared_seed()
        self._step = step
        return MicroBatch(
            indices=samples,
            batch_seed=stream_seed(self._seed, step, BATCH, self.pending) if batch_seed is None else batch_seed,
            seed=stream_seed(self._seed, step, FORWARD, self.pending) if shared is None else shared,
            coefficients=1 / len(samples) if self._reduction == "mean" else 1.0,
            digest=batch_digest(batch) if digest is None and batch is not None else digest,
        )

    def losses(self, loss: PerSampleLoss, batch: Any) -> Tensor:
        """The recorded loss of a batch inside the block, whose reduction is watched.

        Raises:
            StepError: Outside of a block, or for the second time in one.
            LossError: Not one number a sample.
        """
        if not self.watch.inside:
            raise StepError(f"losses() belongs inside the {self._method} block that gave it, which is over.")
        part = self._present
        if part.digest is None:
            part = replace(part, digest=batch_digest(batch))
        self._present = replace(part, channels_last=channels_last(batch))
        with autocast_outside(self.watch.model):
            losses = loss(self._called, batch)
        check_losses(losses, len(part))
        for watch in _inside.get():
            if watch.model is self.watch.model:
                watch.reduction.observe(losses)
        return losses

    def reduced(self, loss: Tensor) -> None:
        """The loop's own mean or sum of the losses, as the owner's `reduction` says, before it is scaled.

        Raises:
            StepError: Outside of a block, or no scalar with a gradient.
        """
        if not self.watch.inside:
            raise StepError(f"reduced() belongs inside the {self._method} block that gave it, which is over.")
        self.watch.reduction.observe_reduced(loss, len(self._present), mean=self._reduction == "mean")

    @contextmanager
    def watched(self, micro_batch: MicroBatch) -> Iterator[None]:
        """Watch the loop's code inside a `with` block."""
        self.begin(micro_batch)
        try:
            with naming_label_dtype():
                yield
        finally:
            self.leave()

    def begin(self, micro_batch: MicroBatch) -> None:
        """Watch the loop from here on, with the global generators seeded."""
        self._present = micro_batch
        alone = self._shared_seed() is None
        self.watch.begin(self._step, checks=alone)
        if self._rank is not None:
            self._rank.begin()
        self._while_inside.callback(_inside.reset, _inside.set((*_inside.get(), self.watch)))
        if alone:
            self._while_inside.enter_context(self._seeds.seeded(micro_batch.seed))

    def leave(self) -> None:
        """The loop's code is over, whether it ended or failed."""
        self._while_inside.close()
        self.watch.end()
        if self._rank is not None:
            self._rank.leave()

    @in_clean_surroundings
    def record(self, step: int, loss: float | None = None) -> StepRecord | None:
        """What the block did; None where it was a micro-batch of a step that follows.

        Args:
            step: Counted from 0.
            loss: The step's loss, where the loop reported it.

        Raises:
            StepError: Several optimizer steps, no backward pass, or something else that moved the model.
        """
        stepped = self.watch.stepped
        part = replace(self._present, autocast=self.watch.autocast)
        if self._rank is not None:
            part = self._rank.shown(part, step)
        if self.watch.reduction.observed:
            part = replace(part, coefficients=self.watch.reduction.coefficients())
        if self.watch.earlier is Earlier.CLEARED:
            self._before = [_without_gradient(before) for before in self._before]
        if not stepped:
            self.watch.keep_micro_batch()
            self._before.append(part)
            return None
        structure = self.watch.structure()
        self.watch.end_block()
        parts, self._before, state = (*self._before, part), [], self._state()
        return StepRecord(
            step,
            parts,
            self.watch.options,
            structure,
            state,
            loss,
            self.watch.transforms,
            clipped=self.watch.clipped,
            shared=None if self._rank is None else self._rank.shared(state),
        )

    @property
    def _called(self) -> nn.Module:
        """What a loop calls: the model, or what is around it where several processes train."""
        return self.watch.model if self._rank is None else self._rank.called

    def _shared_seed(self) -> int | None:
        return step_seed() if self._shares_seed else None


def _without_gradient(part: MicroBatch) -> MicroBatch:
    """A micro-batch whose gradient the loop threw away; its forward pass may have moved running statistics."""
    return replace(part, coefficients=(0.0,) * len(part))
