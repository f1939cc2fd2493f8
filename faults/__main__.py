"""`python -m faults`: kills and damages, with a tally; `--help` lists the numbers.

Trials are appended to a file as they end: the same command again goes on where an interrupted one stopped.
"""

import argparse
import sys
from pathlib import Path

import torch

from faults import damages, kills
from faults.toys import warm_up
from faults.trials import GOOD, Trials, show, write_rows

parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
parser.add_argument("--kills", type=int, default=1000)
parser.add_argument("--damages", type=int, default=10_000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--trials", type=Path, default=Path("runs/faults.jsonl"), help="where trials are appended")
parser.add_argument("--rows", action="store_true", help="write the tally to docs/results/faults.jsonl")
options = parser.parse_args()
torch.set_num_threads(1)
warm_up()
killed = Trials(options.trials, "kills", options.seed)
damaged = Trials(options.trials, "damages", options.seed)
kills.campaign(options.kills, killed, options.seed)
damages.campaign(options.damages, damaged, options.seed)
every = killed.done + damaged.done
show(every)
if options.rows:
    write_rows(every)
sys.exit(any(trial.came not in GOOD for trial in every))
