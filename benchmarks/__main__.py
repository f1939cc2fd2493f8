"""`python -m benchmarks`: the tables of costs, checks, tracking and formats; `--help` lists the sizes."""

import argparse

from benchmarks import checks, formats, tracking
from benchmarks.costs import Setting, measure

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("--train-size", type=int, default=50_000)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--only", default="", help="only kinds whose name contains this text")
options = parser.parse_args()
measure(Setting(options.train_size, options.epochs), options.repeats, options.only)
if not options.only:
    checks.run(rounds=9)
    tracking.run(steps=60, pairs=10_000)
    formats.run(train_size=5000, epochs=3, queries=100)
