"""Recording: watches a training loop and writes the run directory.

recorder          Recorder: a user's loop, recorded
step_block        one micro-batch of a loop, watched, and the step that several make; shared with Tracker
watch             what model and optimizer do inside a step block
gradient_watch    the optimizer gets the gradients that backward passes and clipping gave
torch_calls       backward passes and clipping, heard of under whatever name they are called
averages          averages of the weights that a loop keeps next to its model, watched
share             the share of the model in an update of its average
reduction         how the loop makes one number of the per-sample losses
update_check      the optimizer makes the step of its rule
strided           some entries of tensors, evenly spaced
settings_watch    settings of modules and switches of torch stay as they are
run_writer        everything that a recording does to the disk
loop_state        model, optimizer, scheduler and generators, as checkpoints hold them
resuming          how far a killed run got, and whether it may be resumed
sampler_position  where a loader stands in its epoch
indexed           sample indices of batches from any stock DataLoader
prepared          optimizers and loaders that accelerate wrapped
between_steps     nothing may change weights or optimizer state between two steps
batch_of_one      a batch of one sample under BatchNorm, named
autocast          what forward passes run under; autocast that the model enters itself
verifying         replays some steps while recording
interruption      Ctrl-C, noticed even where the loop catches it
data_parallel     which of several processes this is
rank_watch        what one of several processes shows of a step
rank_zero         what rank 0 wrote, compared by the other ranks
observer          the StepObserver protocol
"""

from hydragrad.recording.indexed import indexed as indexed
from hydragrad.recording.observer import StepHandle as StepHandle
from hydragrad.recording.observer import StepObserver as StepObserver
from hydragrad.recording.recorder import Recorder as Recorder
from hydragrad.recording.sampler_position import Indices as Indices
