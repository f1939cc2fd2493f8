"""The public names, and where they live: read by type checkers, and by hydragrad itself when a name is first used."""

from . import errors as errors

# Attribute
from .attribution import attribute as attribute
from .attribution import ensemble as ensemble
from .attribution import influence as influence
from .attribution import self_influence as self_influence
from .attribution import tracin as tracin

# Ask
from .checking import check as check

# Elsewhere
from .checkpoint_rows import InfluenceStore as InfluenceStore
from .checkpoint_rows import influence_rows as influence_rows

# Clean
from .cleaning import annotations as annotations

# Treat
from .cleaning import clean as clean
from .cleaning import near_duplicates as near_duplicates
from .cleaning import reweigh as reweigh
from .cleaning import suspect_groups as suspect_groups
from .cleaning import suspects as suspects

# Record
from .derivatives import chunked_cross_entropy as chunked_cross_entropy
from .derivatives import loss_of_parts as loss_of_parts

# Scale
from .execution import RayExecutor as RayExecutor

# Mend
from .labelling import export_suspects as export_suspects
from .labelling import import_labels as import_labels
from .recording import Recorder as Recorder
from .recording import indexed as indexed

# Replay
from .replay import Recording as Recording

# Show
from .reports import report as report
from .scores import Scores as Scores

# Query
from .scores import continuation_loss as continuation_loss
from .scores import difference as difference
from .scores import log_probability as log_probability
from .scores import mean_loss as mean_loss
from .scores import query as query
from .scores import sample_losses as sample_losses
from .scores import sample_margins as sample_margins
from .scores import token_losses as token_losses
from .steps import register_optimizer as register_optimizer

# Track
from .tracking import Store as Store
from .tracking import Tracker as Tracker
from .tracking import hypergradients as hypergradients
from .tracking import planned as planned
from .trained_elsewhere import Checkpoints as Checkpoints
from .training import augmented as augmented
from .training import train as train

# Check, compare
from .trust import Bank as Bank
from .trust import approximation_error as approximation_error
from .trust import bank as bank
from .trust import brittleness as brittleness
from .trust import counterfactual as counterfactual
from .trust import evaluate as evaluate
from .trust import smoothness as smoothness
from .trust import top_overlap as top_overlap
from .trust import verify as verify

__version__: str
