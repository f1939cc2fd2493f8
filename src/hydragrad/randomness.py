"""Reproducible randomness: one seed per step and stream, and the global generators saved and restored.

One seed per step replaces a generator state of 5 KB per step: dropout of step t draws from `stream_seed(seed, t)`,
and the random augmentation of its batch from another stream of the same step.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

FORWARD, BATCH, ORDER = "forward", "batch", "order"


def stream_seed(seed: int, step: int, stream: str = FORWARD, micro_batch: int = 0) -> int:
    """Derive an independent 63-bit seed for one stream of one step, or of its further micro-batches."""
    further = f":{micro_batch}" if micro_batch else ""
    digest = hashlib.blake2b(f"{seed}:{step}:{stream}{further}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def reseed(seed: int) -> None:
    """Seed torch's global generators (CPU, and CUDA where it is in use)."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def reseed_everything(seed: int) -> None:
    """Seed torch's, NumPy's and Python's global generators: user code may use any of them."""
    reseed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def generator_states() -> dict[str, Tensor]:
    """Read torch's global generator states, as tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_generator_states(states: dict[str, Tensor]) -> None:
    """Restore what `generator_states` or `every_generator_state` read."""
    torch.set_rng_state(states["torch"])
    for name, state in states.items():
        if name.startswith("cuda"):
            torch.cuda.set_rng_state(state, int(name[4:]))
    if "python" in states:
        words = tuple(states["python"].tolist())
        random.setstate((3, words, _optional(states["python_normal"])))
        key, normal = states["numpy"].numpy(), _optional(states["numpy_normal"])
        np.random.set_state(
            ("MT19937", key[:-1].astype(np.uint32), int(key[-1]), int(normal is not None), normal or 0.0)
        )


def every_generator_state() -> dict[str, Tensor]:
    """Read torch's, Python's and NumPy's global generator states, as tensors."""
    _, words, python_normal = random.getstate()
    _, key, position, has_normal, numpy_normal = np.random.get_state(legacy=True)
    return generator_states() | {
        "python": torch.from_numpy(np.array(words, dtype=np.int64)),
        "python_normal": _as_tensor(python_normal),
        "numpy": torch.from_numpy(np.append(np.asarray(key, dtype=np.int64), position)),
        "numpy_normal": _as_tensor(float(numpy_normal) if has_normal else None),
    }


def _as_tensor(value: float | None) -> Tensor:
    return torch.empty(0, dtype=torch.float64) if value is None else torch.full((1,), value, dtype=torch.float64)


def _optional(value: Tensor) -> float | None:
    return value.item() if len(value) else None


@contextmanager
def preserved() -> Iterator[None]:
    """Restore every global generator after the block."""
    states, python, numpy = generator_states(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        set_generator_states(states)
        random.setstate(python)
        np.random.set_state(numpy)


_step_seed: ContextVar[int | None] = ContextVar("step_seed", default=None)


def step_seed() -> int | None:
    """Return the seed that the current `seeded` block draws from; None outside of one."""
    return _step_seed.get()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside the block, and restore the global generators after it."""
    token = _step_seed.set(seed)
    try:
        with preserved():
            reseed_everything(seed)
            yield
    finally:
        _step_seed.reset(token)


class StepSeeds:
    """Seeds the steps of a loop.

    NumPy's and Python's generators take longer to save than a small step may cost. So they are seeded where a step was
    seen to draw from them: at the first step, and at steps of ever longer distances.
    """

    def __init__(self) -> None:
        self._draws, self._steps = False, 0

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Draw from `seed` inside the block, and restore the generators that were seeded after it."""
        looks = self._steps & (self._steps - 1) == 0
        self._steps += 1
        if not (self._draws or looks):
            with _torch_seeded(seed):
                yield
            return
        with seeded(seed):
            before = _other_states()
            yield
            self._draws = self._draws or before != _other_states()


@contextmanager
def _torch_seeded(seed: int) -> Iterator[None]:
    states, token = generator_states(), _step_seed.set(seed)
    reseed(seed)
    try:
        yield
    finally:
        _step_seed.reset(token)
        set_generator_states(states)


def _other_states() -> tuple[object, ...]:
    """Where Python's and NumPy's generators stand, in a form that can be compared."""
    _, key, *rest = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(key).tobytes(), *rest
