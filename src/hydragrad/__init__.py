"""hydragrad tells which training samples made a model what it is.

Record      train, Recorder, indexed
Replay      Recording
Ask         mean_loss, sample_losses, query
Attribute   attribute, Scores
Errors      errors.HydragradError and its children
"""

from hydragrad import errors as errors
from hydragrad.attribution import attribute as attribute
from hydragrad.recording import Recorder as Recorder
from hydragrad.recording import Recording as Recording
from hydragrad.recording import indexed as indexed
from hydragrad.scores import Scores as Scores
from hydragrad.scores import mean_loss as mean_loss
from hydragrad.scores import query as query
from hydragrad.scores import sample_losses as sample_losses
from hydragrad.training import train as train

__version__ = "0.1.0"
