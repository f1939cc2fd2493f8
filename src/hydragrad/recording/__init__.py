"""Recording: watches a training loop and writes the run directory.

recorder      Recorder: the step block, and what is written
watch         what model and optimizer do inside a step block
between_steps nothing may move the weights between two steps
verifying     replays some steps while recording
resuming      where a killed run left off
interruption  Ctrl-C, noticed even where the loop catches it
indexed       sample indices from any stock DataLoader
observer      the StepObserver protocol
"""

from hydragrad.recording.indexed import indexed as indexed
from hydragrad.recording.observer import Indices as Indices
from hydragrad.recording.observer import StepHandle as StepHandle
from hydragrad.recording.observer import StepObserver as StepObserver
from hydragrad.recording.recorder import Recorder as Recorder
