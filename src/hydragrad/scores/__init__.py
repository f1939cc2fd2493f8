"""Queries and Scores, the method that computes them, and the evidence that they carry.

queries         scalars of the trained model, their values and gradients
query_gradient  a scalar's gradient, held to the scalar itself
margins         margins of single samples as queries
continuations   losses and log-probabilities of tokens as queries; differences of queries
samples         ids of training samples, checked
method          curvature, damping, smoothing, replays: how contributions are computed
scores          contributions, and their file
saved           what the files of scores in a folder say, without their tensors
evidence        how scores were computed, and what was measured about them
checks          predicted against actual changes
solved          how far the systems of influence functions were solved
notes           what a reader must know
relative        scores relative to self-influence; how far queries have the same extreme samples
amounts         how contributions are shown: calibrated, as derivatives, or as shares
spread          how contributions vary between independent runs
"""

from hydragrad.scores.amounts import SHARE as SHARE
from hydragrad.scores.amounts import AmountKind as AmountKind
from hydragrad.scores.amounts import Amounts as Amounts
from hydragrad.scores.amounts import Calibration as Calibration
from hydragrad.scores.amounts import amounts_of as amounts_of
from hydragrad.scores.amounts import calibrate as calibrate
from hydragrad.scores.amounts import calibration_of as calibration_of
from hydragrad.scores.amounts import reads_as_change as reads_as_change
from hydragrad.scores.amounts import shares_of as shares_of
from hydragrad.scores.checks import Check as Check
from hydragrad.scores.continuations import continuation_loss as continuation_loss
from hydragrad.scores.continuations import difference as difference
from hydragrad.scores.continuations import log_probability as log_probability
from hydragrad.scores.continuations import token_losses as token_losses
from hydragrad.scores.evidence import Compared as Compared
from hydragrad.scores.evidence import Evidence as Evidence
from hydragrad.scores.margins import sample_margins as sample_margins
from hydragrad.scores.method import Curvature as Curvature
from hydragrad.scores.method import Method as Method
from hydragrad.scores.method import Removal as Removal
from hydragrad.scores.notes import Note as Note
from hydragrad.scores.queries import Query as Query
from hydragrad.scores.queries import QueryPoint as QueryPoint
from hydragrad.scores.queries import QueryRow as QueryRow
from hydragrad.scores.queries import mean_loss as mean_loss
from hydragrad.scores.queries import numbered as numbered
from hydragrad.scores.queries import queries_of as queries_of
from hydragrad.scores.queries import query as query
from hydragrad.scores.queries import sample_losses as sample_losses
from hydragrad.scores.queries import single_samples_of as single_samples_of
from hydragrad.scores.relative import SharedExtremes as SharedExtremes
from hydragrad.scores.samples import checked_samples as checked_samples
from hydragrad.scores.saved import SavedScores as SavedScores
from hydragrad.scores.saved import saved_scores as saved_scores
from hydragrad.scores.scores import MEANING as MEANING
from hydragrad.scores.scores import Scores as Scores
from hydragrad.scores.solved import Solved as Solved
