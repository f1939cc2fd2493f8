"""Every Python block of the README and the guide runs."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
BLOCKS = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(block, "document", "exec"), {"__name__": "document"})
