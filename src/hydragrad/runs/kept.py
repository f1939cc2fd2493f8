"""Results that are computed once: saved with a digest, computed again where damaged or of another key.

A result is never worth an error: what can't be read is computed again, and where the disk is read-only or full, nothing
is saved.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from hydragrad.disk import DIGEST, content_digest, load_sealed, replace_file, save_sealed

Key = Any
"""Everything that a result depends on, as JSON can hold it: numbers, text, lists and dicts of them."""

Result = TypeVar("Result")

KEY = "key"
DIGITS = 24
"""Of the key's digest, in a file name."""


def key_digest(key: Key) -> str:
    """The sha256 of a key, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def tensor_key(tensor: Tensor) -> str:
    """Stands for a tensor in a key: equal for equal values, type and shape only."""
    return content_digest({"": tensor.detach().cpu().contiguous()}, {})


class Kept:
    """Tensors in a file that is named after their key: FOLDER/KIND-DIGEST.safetensors, every key a file of its own.

    Args:
        folder: Where the file lies; made when it is written.
        kind: What the name starts with; may be empty.
        key: What the tensors depend on.

    Attributes:
        path: The file, whether it is there or not.
    """

    def __init__(self, folder: Path, kind: str, key: Key) -> None:
        self._digest = key_digest(key)
        name = self._digest[:DIGITS]
        self.path = folder / f"{f'{kind}-{name}' if kind else name}.safetensors"

    def read(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Tensors and metadata; None where they must be computed: no file, a damaged one, or one of another key."""
        try:
            return load_sealed(self.path, key=self._digest)
        except (OSError, ValueError):
            return None

    def read_as(self, build: Callable[[dict[str, Tensor], dict[str, str]], Result]) -> Result | None:
        """What `build` makes of tensors and metadata; None also where it can't, as of a file of another version."""
        result = self.read()
        return None if result is None else _built(build, *result)

    def write(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bool:
        """Save tensors and metadata in place of what was there; False where the disk takes nothing."""
        try:
            save_sealed(tensors, self.path, metadata, key=self._digest)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Delete the file, if there is one."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


class KeptValues:
    """Plain values in a file that a person can read, FOLDER/KIND.json: one key at a time.

    Args:
        folder: Where the file lies.
        kind: Its name.
        key: What the values depend on.

    Attributes:
        path: The file, whether it is there or not.
    """

    def __init__(self, folder: Path, kind: str, key: Key) -> None:
        self._digest = key_digest(key)
        self.path = folder / f"{kind}.json"

    def read(self) -> dict[str, Any] | None:
        """The values; None where they must be computed: no file, a damaged one, or one of another key."""
        try:
            values = dict(json.loads(self.path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        digest, key = values.pop(DIGEST, None), values.pop(KEY, None)
        return values if key == self._digest and digest == key_digest([key, values]) else None

    def read_as(self, build: Callable[..., Result]) -> Result | None:
        """What `build` makes of the values, its keyword arguments; None also where it can't."""
        values = self.read()
        return None if values is None else _built(build, **values)

    def write(self, values: Mapping[str, Any]) -> bool:
        """Save values in place of what was there; False where the disk takes nothing."""
        seals = {KEY: self._digest, DIGEST: key_digest([self._digest, values])}
        text = json.dumps({**values, **seals}, indent=1) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, lambda to: to.write_text(text), several=True)
        except OSError:
            return False
        return True


def _built(build: Callable[..., Result], *parts: Any, **values: Any) -> Result | None:
    try:
        return build(*parts, **values)
    except (KeyError, TypeError, ValueError):
        return None
