"""Make the pictures of the documentation again: `make pictures`, or some of them: `make pictures ARGS="digits"`.

A module beside this one makes some pictures, by the library alone, with `make(pictures, runs)`: it writes them into
the folder `pictures` and keeps in `runs` what took long.
"""

import importlib
import sys
import time
from pathlib import Path

PICTURES = Path(__file__).parent
sys.path.append(str(PICTURES.parent.parent))  # where the studies are
RUNS = Path("runs/pictures")
MODULES = sorted(path.stem for path in PICTURES.glob("[a-z]*.py"))


def main(names: list[str]) -> None:
    """Make what is named, or everything."""
    unknown = set(names) - set(MODULES)
    if unknown:
        sys.exit(f"Pictures must be some of {', '.join(MODULES)}; got {', '.join(unknown)}.")
    for name in names or MODULES:
        begin = time.monotonic()
        made = importlib.import_module(name).make(PICTURES, RUNS / name)
        print(f"{name}: {', '.join(path.name for path in made)} in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
