"""`python -m benchmarks`: every table. `--help` for its size."""

import argparse

from benchmarks import formats, tracking
from benchmarks.costs import Setting, measure

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("--train-size", type=int, default=50_000)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--only", default="", help="only kinds whose name holds this text")
asked = parser.parse_args()
measure(Setting(asked.train_size, asked.epochs), asked.repeats, asked.only)
if not asked.only:
    tracking.run(steps=60, pairs=10_000)
    formats.run(train_size=5000, epochs=3, queries=100)
