"""The paper's Figure 1, from saved timings: `python -m studies figure1` measures them again."""

import json
from pathlib import Path

from studies.growth_figure import growth

TIMINGS = Path(__file__).parent.parent / "results" / "figure1.jsonl"


def make(pictures: Path, _runs: Path) -> list[Path]:
    """Draw it."""
    rows = [json.loads(line) for line in TIMINGS.read_text().splitlines()]
    file = pictures / "figure1.png"
    growth(rows).savefig(file, dpi=160)
    return [file]
