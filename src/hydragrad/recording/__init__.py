"""Recording: watches a training loop and writes the run directory.

recorder          Recorder: a user's loop, recorded
step_block        one optimizer step of a loop, watched; shared with Tracker
watch             what model and optimizer do inside a step block
run_writer        everything that a recording does to the disk
loop_state        model, optimizer, scheduler and generators, as checkpoints hold them
resuming          how far a killed run got, and whether it may be resumed
sampler_position  where a loader stands in its epoch
indexed           sample indices of batches from any stock DataLoader
between_steps     only the optimizer may move weights and its own state
settings_watch    settings of modules and switches of torch stay as they are
gradient_watch    the optimizer gets the gradients that backward() gave
update_check      the optimizer makes the step of its rule
strided           a strided sample of tensors
verifying         replays some steps while recording
interruption      Ctrl-C, noticed even where the loop catches it
observer          the StepObserver protocol
"""

from hydragrad.recording.indexed import indexed as indexed
from hydragrad.recording.observer import StepHandle as StepHandle
from hydragrad.recording.observer import StepObserver as StepObserver
from hydragrad.recording.recorder import Recorder as Recorder
from hydragrad.recording.sampler_position import Indices as Indices
