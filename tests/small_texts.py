"""Texts in the published form that are small, and need no data folder."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydragrad.datasets import TEXTS
from hydragrad.datasets.download import Remote

BEGIN = ("an", "be", "ca", "do", "el", "fi", "ga", "ho")
END = ("na", "ra", "lyn", "ton", "bert", "mir", "son", "dia")
PLAY = "First Citizen:\nSpeak, speak.\n\nAll:\nResolved. <b>resolved</b> & more.\n\n"


def names(count: int = 300) -> str:
    """Made of two or three syllables each, from a fixed seed, one a line."""
    generator = np.random.default_rng(0)
    return "".join(f"{''.join(generator.choice(BEGIN, n))}{generator.choice(END)}\n" for n in [1, 2] * (count // 2))


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Write both texts into a folder, and take them for the published ones; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"names": names(), "shakespeare": PLAY * 160}.items():
        source = TEXTS[name]
        content = text.encode()
        remote = Remote(source.file.remote.url, hashlib.md5(content, usedforsecurity=False).hexdigest())
        (folder / source.file.files[0]).write_bytes(content)
        monkeypatch.setitem(TEXTS, name, replace(source, file=replace(source.file, remote=remote)))
    return folder
