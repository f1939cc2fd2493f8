"""A sample as a person sees it: a picture, a text, or names and values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hydragrad.errors import PresentationError
from hydragrad.reports.wording import number

Table = dict[str, str]
Rendered = NDArray[np.uint8] | str | Table | None
"""Picture, uint8 (height, width) or (height, width, 3); text; names and values; or nothing to show."""

Render = Callable[[Any], Any]

LONGEST_TEXT = 600
MOST_VALUES = 24
"""Characters of a text and values of a row that are shown."""


def rendered(item: Any, render: Render | None = None, columns: Sequence[str] | None = None) -> Rendered:
    """Show an item of a data set.

    Args:
        item: What the data set returns for an index.
        render: The user's own way: takes the item and returns a picture (PIL image or uint8 array), a text, a
            mapping of names to values, or None. Without it the item's first part is shown for what it is: an image
            (1 or 3 channels first or last, or grey), a string, or a row of numbers.
        columns: Names of the numbers in a row.

    Raises:
        PresentationError: `render` returned something else.
    """
    if render is not None:
        value = render(item)
        shown = _view(value)
        if shown is None and value is not None:
            got = f"uint8 of shape {value.shape}" if _is_uint8(value) else type(value).__name__
            raise PresentationError(
                f"render(item) must return a PIL image, a uint8 array (height, width) or (height, width, 3), a string, "
                f"a mapping of names to values, or None, got {got}."
            )
        return shown
    return _guessed(_input_of(item), columns)


def _view(value: Any) -> Rendered:
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, Mapping):
        return _table(value)
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("L" if value.mode in ("1", "L") else "RGB"))
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return _picture(value) if _is_uint8(value) else None


def _input_of(item: Any) -> Any:
    """The first part of an item (input, label, ...)."""
    return item[0] if isinstance(item, list | tuple) and item else item


def _guessed(value: Any, columns: Sequence[str] | None) -> Rendered:
    if isinstance(value, str | Image.Image):
        return _view(value)
    if isinstance(value, Mapping):
        arrays = {name: _array(entry) for name, entry in value.items()}
        return _table({name: value[name] for name, array in arrays.items() if array is not None and array.size == 1})
    array = _array(value)
    if array is None or not array.size:
        return None
    if array.ndim <= 1:
        return _row(array.reshape(-1), columns)
    return _levels(array)


def _array(value: Any) -> NDArray[Any] | None:
    if isinstance(value, torch.Tensor):
        return np.asarray(value.detach().cpu().to(torch.float64 if value.is_floating_point() else value.dtype))
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biufU" else None


def _row(array: NDArray[Any], columns: Sequence[str] | None) -> Rendered:
    if array.dtype.kind in "iu" and columns is None and len(array) > 1:  # token numbers
        return _shortened(" ".join(map(str, array[: LONGEST_TEXT // 2].tolist())))
    names = [f"x{place}" for place in range(len(array))] if columns is None else list(map(str, columns))
    return _table(dict(zip(names, array.tolist(), strict=False)))


def _levels(array: NDArray[Any]) -> Rendered:
    """An image of any range as grey levels or colours; what looks like none is not shown."""
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 and array.dtype.kind in "biuf" and array.ndim in (2, 3):
        finite = np.nan_to_num(array.astype(np.float64), posinf=0, neginf=0)
        low, high = float(finite.min()), float(finite.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        array = ((finite - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    return _picture(array)


def _picture(array: NDArray[Any]) -> NDArray[np.uint8] | None:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    return np.ascontiguousarray(array, dtype=np.uint8) if shaped and array.size else None


def _is_uint8(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8


def _table(values: Mapping[Any, Any]) -> Table:
    return {str(name): _value(value) for name, value in list(values.items())[:MOST_VALUES]}


def _value(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        array = np.asarray(value)
        value = array.item() if array.size == 1 else array.tolist()
    if isinstance(value, float):
        return number(value)
    return _shortened(str(value), 80)


def _shortened(text: str, length: int = LONGEST_TEXT) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
