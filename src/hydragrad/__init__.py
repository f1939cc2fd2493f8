"""hydragrad measures which training samples made a model what it is.

Ask         check: what of a setup can be recorded, and what each mode costs, before it is trained
Record      train, Recorder, indexed, augmented, loss_of_parts, register_optimizer: write a run directory
Replay      Recording: open it again
Elsewhere   Checkpoints: a model trained elsewhere, of which weights alone are left
Query       mean_loss, sample_losses, sample_margins, query: what about the model is to be explained
Continue    continuation_loss, token_losses, log_probability, difference: what about a language model is
Attribute   attribute, ensemble, influence, tracin, Scores: one number a training sample
Track       Tracker, planned, hypergradients, Store: rows for later queries
Check       verify, counterfactual, smoothness, approximation_error: predicted against measured
Clean       suspects: samples ranked by the evidence against their labels
Show        report: one HTML page
Errors      errors.HydragradError and its children

Training loops of other frameworks are recorded by `hydragrad.integrations`. What is not listed here is internal.
"""

from hydragrad import errors as errors
from hydragrad import torch_release as torch_release  # refuses an older torch, before anything needs a newer one

# Ask
from hydragrad.checking import check as check

# Record
from hydragrad.derivatives import loss_of_parts as loss_of_parts
from hydragrad.recording import Recorder as Recorder
from hydragrad.recording import indexed as indexed
from hydragrad.steps import register_optimizer as register_optimizer
from hydragrad.training import augmented as augmented
from hydragrad.training import train as train

# Replay
from hydragrad.replay import Recording as Recording

# Elsewhere
from hydragrad.trained_elsewhere import Checkpoints as Checkpoints

# Query
from hydragrad.scores import continuation_loss as continuation_loss
from hydragrad.scores import difference as difference
from hydragrad.scores import log_probability as log_probability
from hydragrad.scores import mean_loss as mean_loss
from hydragrad.scores import query as query
from hydragrad.scores import sample_losses as sample_losses
from hydragrad.scores import sample_margins as sample_margins
from hydragrad.scores import token_losses as token_losses

# Attribute
from hydragrad.attribution import attribute as attribute
from hydragrad.attribution import ensemble as ensemble
from hydragrad.attribution import influence as influence
from hydragrad.attribution import tracin as tracin
from hydragrad.scores import Scores as Scores

# Track
from hydragrad.tracking import Store as Store
from hydragrad.tracking import Tracker as Tracker
from hydragrad.tracking import hypergradients as hypergradients
from hydragrad.tracking import planned as planned

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
