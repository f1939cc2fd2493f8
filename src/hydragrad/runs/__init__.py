"""The run directory: what a training run did, written while it runs, readable without the code that wrote it.

manifest         what was recorded, by what, where
module_settings  settings of torch's modules that change what they compute
log              the step log
steps            the steps of a run directory, read
processes        runs that several processes made, each its part
checkpoints      states as safetensors
averages         updates of averages of the weights, a line each
stored_batches   batches that are stored with the run
buffers          buffers that appear, grow or are sparse
sparse           sparse tensors in safetensors files
lines            files of sealed lines that survive a kill
encoding         states without pickling
kept             results that are computed once, saved and computed again where damaged
kept_jobs        jobs whose results are such files, done by one call or by several slices
unstarted        runs that never got through their first step
"""

from hydragrad.runs.checkpoints import Checkpoint as Checkpoint
from hydragrad.runs.log import StepRecord as StepRecord
from hydragrad.runs.unstarted import holds_run as holds_run
from hydragrad.runs.unstarted import never_started as never_started
