"""hydragrad tells which training samples made a model what it is.

Record      train, Recorder, indexed, augmented
Replay      Recording
Ask         mean_loss, sample_losses, sample_margins, query
Attribute   attribute, ensemble, Scores
Track       Tracker, planned, hypergradients, Store
Check       counterfactual, verify, smoothness, approximation_error
Clean       suspects
Show        report
Errors      errors.HydragradError and its children
"""

from hydragrad import errors as errors

# Record
from hydragrad.training import train as train
from hydragrad.recording import Recorder as Recorder
from hydragrad.recording import indexed as indexed
from hydragrad.training import augmented as augmented

# Replay
from hydragrad.replay import Recording as Recording

# Ask
from hydragrad.scores import mean_loss as mean_loss
from hydragrad.scores import query as query
from hydragrad.scores import sample_losses as sample_losses
from hydragrad.scores import sample_margins as sample_margins

# Attribute
from hydragrad.attribution import attribute as attribute
from hydragrad.attribution import ensemble as ensemble
from hydragrad.scores import Scores as Scores

# Track
from hydragrad.tracking import Tracker as Tracker
from hydragrad.tracking import hypergradients as hypergradients
from hydragrad.tracking import planned as planned
from hydragrad.tracking import Store as Store

# Check
from hydragrad.trust import approximation_error as approximation_error
from hydragrad.trust import counterfactual as counterfactual
from hydragrad.trust import smoothness as smoothness
from hydragrad.trust import verify as verify

# Clean
from hydragrad.cleaning import suspects as suspects

# Show
from hydragrad.reports import report as report

__version__ = "0.1.0"
