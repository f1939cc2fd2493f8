"""A step block: one optimizer step of a user's loop, watched. Recorder and Tracker share it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.derivatives import naming_label_dtype
from hydragrad.errors import QueryError, StepError
from hydragrad.randomness import BATCH, StepSeeds, step_seed, stream_seed
from hydragrad.recording.sampler_position import Indices
from hydragrad.recording.watch import Watch
from hydragrad.replay.fingerprints import batch_digest
from hydragrad.runs.log import MicroBatch, StepRecord
from hydragrad.runs.manifest import Reduction
from hydragrad.surroundings import in_clean_surroundings


class StepBlock:
    """Turns what a loop does between `begin` and `leave` into the record of a step.

    In order: `samples`, `micro_batch`, `watched` (`begin` and `leave` around the loop's code), `record`. A block that
    an exception leaves is abandoned: nobody calls `record`, and the next block starts afresh.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        owner: The class whose method `step` hands out the blocks, for messages.
        length: Samples of the training set.
        reduction: How the loop makes one number of the per-sample losses.
        state: The step's `state` in the log; called after the step.
        shares_seed: Inside a block that is seeded already, draw from its seed. False: every block has its own.

    Attributes:
        watch: What model and optimizer do inside the blocks.

    Raises:
        Unsupported: The optimizer's step has no rule, or it has parameters that are not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        owner: str,
        length: int,
        reduction: Reduction,
        state: Callable[[], float],
        shares_seed: bool = False,
    ) -> None:
        self._owner, self._method = owner, f"{owner.lower()}.step()"
        self._length, self._reduction, self._state, self._shares_seed = length, reduction, state, shares_seed
        self.watch = Watch(model, optimizer, self._method)
        self._open, self._seed, self._step = False, 0, 0
        self._micro_batches: tuple[MicroBatch, ...] = ()
        self._while_inside, self._seeds = ExitStack(), StepSeeds()

    def open(self, seed: int, before_update: Callable[[], None] | None = None) -> None:
        """Accept blocks from now on.

        Args:
            seed: The seeds of all steps are derived from it.
            before_update: Called before the optimizer steps.
        """
        self._open, self._seed = True, seed
        self.watch.attach(before_update)

    def close(self) -> None:
        """Accept no further blocks."""
        self._open = False
        self.watch.detach()

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
            batch_seed=stream_seed(self._seed, step, BATCH) if batch_seed is None else batch_seed,
            seed=stream_seed(self._seed, step) if shared is None else shared,
            coefficients=1 / len(samples) if self._reduction == "mean" else 1.0,
            digest=batch_digest(batch) if digest is None and batch is not None else digest,
        )

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
        self._micro_batches = (micro_batch,)
        alone = self._shared_seed() is None
        self.watch.begin(self._step, checks=alone)
        if alone:
            self._while_inside.enter_context(self._seeds.seeded(micro_batch.seed))

    def leave(self) -> None:
        """The loop's code is over, whether it ended or failed."""
        self._while_inside.close()
        self.watch.end()

    @in_clean_surroundings
    def record(self, step: int, loss: float | None = None) -> StepRecord:
        """What the block did.

        Args:
            step: Counted from 0.
            loss: The step's loss, where the loop reported it.

        Raises:
            StepError: Not exactly one optimizer step, or something else that moved the model.
        """
        self.watch.require_one_step()
        structure = self.watch.structure()
        self.watch.end_block()
        return StepRecord(step, self._micro_batches, self.watch.options, structure, self._state(), loss)

    def _shared_seed(self) -> int | None:
        return step_seed() if self._shares_seed else None
