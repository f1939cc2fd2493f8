"""The run directory: what a training run did, written while it runs and replayed to the bit.

recorder        Recorder: watches a loop
recording       Recording: opens a run directory
verifying       replays some steps while recording
resuming        where a killed run left off
unstarted       runs that never got through their first step
interruption    Ctrl-C, noticed even where the loop catches it
replay          repeats steps and holds them to the record
trajectory      model and optimizer moving along recorded steps
indexed         sample indices from any stock DataLoader
log             the step log
checkpoints     states as safetensors
manifest        what was recorded, by what, where
data            a step's data, fetched again
stored_batches  batches kept with the run
observer        the StepObserver protocol
files, encoding files that survive a kill; states without pickling
"""

from hydragrad.recording.checkpoints import Checkpoint as Checkpoint
from hydragrad.recording.data import fetch as fetch
from hydragrad.recording.data import require_finite as require_finite
from hydragrad.recording.data import require_map_style as require_map_style
from hydragrad.recording.data import to_device as to_device
from hydragrad.recording.indexed import indexed as indexed
from hydragrad.recording.log import StepRecord as StepRecord
from hydragrad.recording.observer import Indices as Indices
from hydragrad.recording.observer import StepHandle as StepHandle
from hydragrad.recording.observer import StepObserver as StepObserver
from hydragrad.recording.recorder import Recorder as Recorder
from hydragrad.recording.recording import Recording as Recording
from hydragrad.recording.replay import Replay as Replay
from hydragrad.recording.unstarted import holds_run as holds_run
from hydragrad.recording.unstarted import never_started as never_started
