"""Write the tables of docs/results.md again from the rows in this folder: `python docs/results`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a key of `TABLES`.
"""

import re
from pathlib import Path

import adamw
import other_targets
import protocols
import removals
import wrong_labels

DOCUMENT = Path(__file__).parent.parent / "results.md"
TABLE = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
TABLES = wrong_labels.TABLES | other_targets.TABLES | removals.TABLES | protocols.TABLES | adamw.TABLES


def rewritten(text: str) -> str:
    """Return the text with every table written again.

    Raises:
        KeyError: A table in the text that is not in `TABLES`.
    """

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match['name']} -->\n\n{TABLES[match['name']]()}\n\n<!-- end -->"

    return TABLE.sub(table, text)


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text()))
