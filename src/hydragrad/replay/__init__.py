"""A recorded run once more: opened, repeated to the bit, and repeated with changes.

recording          Recording: opens a run directory
trained            what is needed of a trained model where its steps are not
trajectory         model and optimizer moving along recorded steps
buffer_flow        which buffers each micro-batch of a step begins with
repeatable         whether a run can be repeated at all
replay             repeats steps and holds them to the record
averages           an average of the run's weights as what is asked about
elsewhere          holds a replay on another machine to what rounding explains
rounding           measures what rounding does to a run
differences        how far two numbers, or two checkpoints, are apart
reported_losses    whether the losses that a loop reported are those of its steps
causes             why a step can't be repeated
backend            switches of torch, recorded and set again
machine            threads and processors: where a replay is equal to the bit
data               a step's data, fetched again
held_out           batches of data that were not trained on
outside_state      what a model keeps outside of parameters and buffers, refused by name
labels             the labels that the run was trained on
fingerprints       one number over the state after a step, one digest of a batch
histories          the run's optimizer histories
statistics         which running statistics the run moved
means              what is left of the mean of a batch without some samples
run_means          over what the run averages its losses
changed_run        the run with other weights or labels of some samples, or another start
on_run             work on a run that may be done on another machine
retraining         many changed runs, their final states saved
checkpoint_spread  which checkpoints stand for the run
resumable          a fold over segments that an interruption does not lose
"""

from hydragrad.replay.data import fetch as fetch
from hydragrad.replay.data import require_finite as require_finite
from hydragrad.replay.data import require_map_style as require_map_style
from hydragrad.replay.data import to_device as to_device
from hydragrad.replay.labels import label_of as label_of
from hydragrad.replay.labels import labels_of as labels_of
from hydragrad.replay.labels import target_of as target_of
from hydragrad.replay.labels import warn_of_other_labels as warn_of_other_labels
from hydragrad.replay.recording import Recording as Recording
from hydragrad.replay.replay import Replay as Replay
from hydragrad.replay.trained import Trained as Trained
from hydragrad.replay.trained import samples_in as samples_in
