"""The table of hypergradient rows while it grows: in memory, or memory-mapped so that a killed process loses nothing.

On disk a step is all or nothing. Before rows are changed their old values go to a journal, and one word says
whether a step is under way: a process killed inside a step leaves an odd word, and opening undoes that step. What
is written to a mapped file outlives the process, so nothing is flushed from step to step. Every row has a seal, which
is compared when the table is opened again.

Source of the scheme: undo logging (Gray and Reuter 1993).
"""

import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.disk import make_folder, writing
from hydragrad.errors import DiskFull, NotEnoughMemory, RunDamaged
from hydragrad.tracking.rows.seals import packed, row_seals, unpacked

NUMPY_TYPES: dict[torch.dtype, Any] = {torch.float64: np.float64, torch.float32: np.float32, torch.bfloat16: np.uint16}
"""How rows are stored. NumPy has no bfloat16: its 16 bits are the upper half of a float32's."""

COMPUTED = {torch.float64: torch.float64, torch.float32: torch.float32, torch.bfloat16: torch.float32}
"""How rows are computed with."""

Arrays = dict[str, NDArray[Any]]


class Table:
    """Rows of tracked samples, their tangents of optimizer states where there are any, and the model's last state.

    Use `create` or `open`.

    Attributes:
        folder: Where it lies, or None in memory.
        touched: The number of steps each row takes into account, int64, (rows,).
    """

    def __init__(self, folder: Path | None, arrays: Arrays, dtype: torch.dtype) -> None:
        self.folder, self._arrays, self._dtype = folder, arrays, dtype
        self._accumulators = ["rows", *sorted(name for name in arrays if name.startswith("state-"))]
        self.touched = arrays["touched"]

    @classmethod
    def create(
        cls,
        folder: Path | None,
        *,
        rows: int,
        width: int,
        accumulators: int,
        dtype: torch.dtype,
        room: int,
        state_bytes: int,
    ) -> Self:
        """Make an empty table.

        Args:
            folder: Where it will lie; None keeps it in memory.
            rows: Tracked samples.
            width: Columns.
            accumulators: 1, and one for every optimizer state that rows have tangents of.
            dtype: float64, float32 or bfloat16.
            room: Rows that one step may change at most.
            state_bytes: Size of the model's state that is saved with every step.

        Raises:
            DiskFull: The files would not fit, computed before anything is written.
        """
        names, number = _names(accumulators), NUMPY_TYPES[dtype]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {name: ((rows, width), number) for name in names}
        shapes |= {"touched": ((rows,), np.int64), "word": ((2,), np.uint64)}
        if folder is None:
            # Filled, so that no step pays for fetching fresh pages.
            return cls(None, {name: np.full(shape, 0, kind) for name, (shape, kind) in shapes.items()}, dtype)
        shapes |= {f"journal-{name}": ((room, width), number) for name in names}
        shapes |= {f"journal-{name}": ((room,), np.int64) for name in ("ids", "touched")}
        shapes |= {f"seal-{name}": ((rows,), np.uint64) for name in names}
        shapes |= {f"journal-seal-{name}": ((room,), np.uint64) for name in names}
        shapes |= {"model": ((2, state_bytes), np.uint8), "seal-model": ((2,), np.uint64)}
        make_folder(folder)
        require_disk(folder, sum(int(np.prod(shape)) * np.dtype(number).itemsize for shape, number in shapes.values()))
        arrays: Arrays = {}
        for name, (shape, kind) in shapes.items():
            with writing(folder / name):
                arrays[name] = np.lib.format.open_memmap(_path(folder, name), mode="w+", dtype=kind, shape=shape)
        table = cls(folder, arrays, dtype)
        table._seal_everything()
        return table

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> Self:
        """Open a table on disk as it was after its last complete step; every row is read once.

        Args:
            folder: Where it lies.
            dtype: As it was created with.

        Raises:
            RunDamaged: Files are missing or damaged.
        """
        try:
            arrays: Arrays = {
                path.stem.removeprefix("table-"): _mapped(path)
                for path in [folder / "rows.npy", *sorted(folder.glob("table-*.npy"))]
            }
            table = cls(folder, arrays, dtype)
            table._require_layout()
            table._undo()
            table._require_seals()
        except Exception as error:  # NumPy's header is Python text: a damaged one raises whatever parsing it may raise
            raise RunDamaged(
                f"The growing table in {folder} can't be read ({error!r}). Delete the folder and build it again."
            ) from error
        return table

    @property
    def steps(self) -> int:
        """Complete steps."""
        return self._word() // 2

    @property
    def accumulators(self) -> int:
        """Numbers of a row a column: 1, and one for every optimizer state."""
        return len(self._accumulators)

    @property
    def room(self) -> int:
        """Rows that one step may change."""
        return len(self._arrays["journal-ids"]) if self.folder is not None else len(self.touched)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, width = self._arrays["rows"].shape
        return rows, width

    def read(self, ids: NDArray[np.int64]) -> Tensor:
        """Accumulators of some rows, (accumulators, rows, columns); float32 where they are stored as bfloat16."""
        rows, width = len(ids), self.shape[1]
        values = torch.empty(len(self._accumulators), rows, width, dtype=COMPUTED[self._dtype])
        for name, out in zip(self._accumulators, values, strict=True):
            if self._dtype == torch.bfloat16:
                out.copy_(from_numpy(self._arrays[name][ids], self._dtype))
            else:
                np.take(self._arrays[name], ids, axis=0, out=out.numpy())
        return values

    def change(self, ids: NDArray[np.int64], values: Tensor, state: Mapping[str, Tensor]) -> None:
        """Complete one step.

        Args:
            ids: The rows that it changes, each once.
            values: Their accumulators after it, (accumulators, rows, columns).
            state: The model's state after it.
        """
        done = self.steps + 1
        if self.folder is not None:
            self._journal(ids)
            _pack(state, self._arrays["model"][done % 2])
            self._arrays["seal-model"][done % 2] = self._model_seal(done)
            self._set_word(2 * done - 1)
        self._put(ids, values, done)
        self._set_word(2 * done)

    def add_state(self) -> None:
        """Give every row the tangent of one more optimizer state, zero: an option that needs it was switched on.

        Raises:
            DiskFull: It would not fit.
            NotEnoughMemory: It would not fit.
        """
        (rows, width), number = self.shape, NUMPY_TYPES[self._dtype]
        state = _names(self.accumulators + 1)[-1]
        needed = rows * width * np.dtype(number).itemsize
        if self.folder is None:
            available = psutil.virtual_memory().available
            if needed > available:
                raise NotEnoughMemory(
                    f"The optimizer has one more state (an option was switched on): {rows:,} rows need "
                    f"{needed / 2**30:,.1f} GiB more and {available / 2**30:,.1f} GiB are free. Give store=, a folder, "
                    f"or projection=, or fewer samples."
                )
            self._arrays[state] = np.full((rows, width), 0, number)
        else:
            require_disk(self.folder, needed)
            # The state last, complete: a table with a state always has its journal and its seals.
            for name, shape, kind in (
                (f"journal-{state}", (self.room, width), number),
                (f"journal-seal-{state}", (self.room,), np.uint64),
                (f"seal-{state}", (rows,), np.uint64),
                (state, (rows, width), number),
            ):
                if name == state:
                    self._arrays[f"seal-{state}"][:] = self._seals_of_zeros()
                with writing(self.folder / name):
                    unfinished = self.folder / f"new-{name}.npy"
                    self._arrays[name] = np.lib.format.open_memmap(unfinished, mode="w+", dtype=kind, shape=shape)
                    unfinished.replace(_path(self.folder, name))
        self._accumulators.append(state)

    def settle(self, ids: NDArray[np.int64], rows: Tensor) -> None:
        """Set rows, (rows, columns), that were caught up to the last complete step."""
        steps = self.steps
        if self.folder is not None:
            self._journal(ids)
            self._set_word(2 * steps + 1)
        self._put(ids, rows[None], steps)
        self._set_word(2 * steps)

    def _put(self, ids: NDArray[np.int64], values: Tensor, steps: int) -> None:
        # Rows that were caught up come without states, which nobody needs any more.
        for name, value in zip(self._accumulators, values, strict=False):
            stored = to_numpy(value, self._dtype)
            self._arrays[name][ids] = stored
            if self.folder is not None:
                self._arrays[f"seal-{name}"][ids] = row_seals(
                    np.ascontiguousarray(stored), ids, steps if name == "rows" else 0
                )
        self.touched[ids] = steps

    def state(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's state after the last complete step, shaped as the examples."""
        return _unpack(self._arrays["model"][self.steps % 2], like)

    def rows(self) -> NDArray[Any]:
        """The first accumulator as it is stored, flushed to the disk."""
        rows = self._arrays["rows"]
        if isinstance(rows, np.memmap):
            rows.flush()
        return rows

    def remove(self) -> None:
        """Delete every file but the rows, which stay where they are."""
        if self.folder is not None:
            for name in self._arrays:
                if name != "rows":
                    _path(self.folder, name).unlink(missing_ok=True)

    def _word(self) -> int:
        """Twice the complete steps, and 1 while a step is under way."""
        word = int(self._arrays["word"][0])
        return unpacked(word) if self.folder is not None else word

    def _set_word(self, number: int) -> None:
        self._arrays["word"][0] = packed(number) if self.folder is not None else number

    @property
    def _journalled(self) -> list[str]:
        return [*self._accumulators, *(f"seal-{name}" for name in self._accumulators), "touched"]

    def _journal(self, ids: NDArray[np.int64]) -> None:
        arrays, count = self._arrays, len(ids)
        arrays["journal-ids"][:count] = ids
        arrays["word"][1] = packed(count)
        for name in self._journalled:
            arrays[f"journal-{name}"][:count] = arrays[name][ids]

    def _undo(self) -> None:
        arrays, word = self._arrays, self._word()
        if word % 2:
            count = unpacked(int(arrays["word"][1]))
            ids = arrays["journal-ids"][:count]
            for name in self._journalled:
                arrays[name][ids] = arrays[f"journal-{name}"][:count]
            self._set_word(word - 1)

    def _seals(self, name: str, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        steps = self.touched[places] if name == "rows" else 0
        return row_seals(np.ascontiguousarray(self._arrays[name][places[0] : places[-1] + 1]), places, steps)

    def _model_seal(self, steps: int) -> np.uint64:
        model = self._arrays["model"][steps % 2 : steps % 2 + 1]
        seal: np.uint64 = row_seals(model, np.array([0]), steps)[0]
        return seal

    def _seal_everything(self) -> None:
        for name in self._accumulators:
            for places in _blocks(self.shape[0]):
                self._arrays[f"seal-{name}"][places] = self._seals(name, places)
        word = self._arrays["word"]
        self._arrays["seal-model"][int(word[0]) // 2 % 2] = self._model_seal(int(word[0]) // 2)
        word[:] = [packed(int(number)) for number in word]

    def _require_layout(self) -> None:
        arrays, (rows, width), number = self._arrays, self._arrays["rows"].shape, NUMPY_TYPES[self._dtype]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {"touched": ((rows,), np.int64), "word": ((2,), np.uint64)}
        shapes |= {f"journal-{name}": ((self.room,), np.int64) for name in ("ids", "touched")}
        shapes |= {"model": ((2, arrays["model"].shape[1]), np.uint8), "seal-model": ((2,), np.uint64)}
        for name in _names(self.accumulators):
            shapes |= {name: ((rows, width), number), f"journal-{name}": ((self.room, width), number)}
            shapes |= {f"seal-{name}": ((rows,), np.uint64), f"journal-seal-{name}": ((self.room,), np.uint64)}
        for name, (shape, kind) in shapes.items():
            if arrays[name].shape != shape or arrays[name].dtype != kind or not arrays[name].flags.c_contiguous:
                raise ValueError(f"{_path(Path(), name)} is {arrays[name].dtype} {arrays[name].shape}, not {shape}")
        # A kill while a state was added may leave its seals without it, not yet used.
        for name in {name for name in arrays if name.startswith("seal-state-")} - shapes.keys():
            if not np.array_equal(arrays[name], self._seals_of_zeros()):
                raise ValueError(f"{_path(Path(), name.removeprefix('seal-'))} is missing")

    def _seals_of_zeros(self) -> NDArray[np.uint64]:
        return row_seals(np.zeros((self.shape[0], 0), np.uint8), np.arange(self.shape[0]), 0)

    def _require_seals(self) -> None:
        if self.shape[0] and not 0 <= self.touched.min() <= self.touched.max() <= self.steps:
            raise ValueError(f"rows hold more than its {self.steps} complete steps")
        for name in self._accumulators:
            for places in _blocks(self.shape[0]):
                wrong = np.nonzero(self._seals(name, places) != self._arrays[f"seal-{name}"][places])[0]
                if len(wrong):
                    raise ValueError(f"row {places[wrong[0]]} of {name} does not have the seal it was written with")
        if self._model_seal(self.steps) != self._arrays["seal-model"][self.steps % 2]:
            raise ValueError("the model's state does not have the seal it was written with")


def _mapped(path: Path) -> NDArray[Any]:
    np.lib.format.open_memmap(path, mode="r")  # which refuses a file that is cut; the next one would fill it up
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r+")
    return array


def _blocks(rows: int) -> Iterator[NDArray[np.int64]]:
    """The places of rows, a few at a time."""
    for start in range(0, rows, 256):
        yield np.arange(start, min(rows, start + 256))


def _names(accumulators: int) -> list[str]:
    return ["rows", *(f"state-{number}" for number in range(accumulators - 1))]


def to_numpy(values: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """Values as they are stored."""
    stored = values.detach().to(dtype).cpu()
    return stored.view(torch.uint16).numpy() if dtype == torch.bfloat16 else stored.numpy()


def from_numpy(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Values to compute with: float64 as it is, everything else float32."""
    stored = torch.from_numpy(np.asarray(array))
    return stored.view(torch.bfloat16).float() if dtype == torch.bfloat16 else stored


def require_disk(folder: Path, needed: int) -> None:
    """Refuse what would not fit.

    Raises:
        DiskFull: Says how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            errno.ENOSPC,
            f"The hypergradient rows need {needed / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free. Track "
            f"fewer samples, project (projection=2048), or store dtype=torch.bfloat16",
        )


def _path(folder: Path, name: str) -> Path:
    return folder / ("rows.npy" if name == "rows" else f"table-{name}.npy")


def _pack(state: Mapping[str, Tensor], raw: NDArray[np.uint8]) -> None:
    start = 0
    for value in state.values():
        part = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        raw[start : start + len(part)] = part
        start += len(part)


def _unpack(raw: NDArray[np.uint8], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result, start = {}, 0
    for name, value in like.items():
        part = torch.from_numpy(raw[start : start + value.nbytes].copy())
        result[name] = part.view(value.dtype).reshape(value.shape)
        start += value.nbytes
    return result
