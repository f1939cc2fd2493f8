"""A recorded run once more: opened, repeated to the bit, and repeated with changes.

recording          Recording: opens a run directory
trajectory         model and optimizer moving along recorded steps
replay             repeats steps and holds them to the record
backend            switches of torch, set as in the recording
causes             which fault a step looks like that can't be repeated
machine            threads and processors: where a replay is equal to the bit
data               a step's data, fetched again
fingerprints       one number over the state after a step, one digest of a batch
histories          the run's optimizer histories
statistics         which running statistics the run moved
changed_run        the run with other weights or labels of some samples, or another start
retraining         many changed runs, their final states saved
checkpoint_spread  which checkpoints stand for the run
resumable          a fold over segments that an interruption does not lose
"""

from hydragrad.replay.data import fetch as fetch
from hydragrad.replay.data import require_finite as require_finite
from hydragrad.replay.data import require_map_style as require_map_style
from hydragrad.replay.data import to_device as to_device
from hydragrad.replay.recording import Recording as Recording
from hydragrad.replay.replay import Replay as Replay
