"""What is asked and what is answered: queries, Scores, and the evidence that Scores carry."""

from hydragrad.scores.evidence import Curvature as Curvature
from hydragrad.scores.evidence import Evidence as Evidence
from hydragrad.scores.margins import sample_margins as sample_margins
from hydragrad.scores.queries import Query as Query
from hydragrad.scores.queries import QueryPoint as QueryPoint
from hydragrad.scores.queries import QueryRow as QueryRow
from hydragrad.scores.queries import mean_loss as mean_loss
from hydragrad.scores.queries import numbered as numbered
from hydragrad.scores.queries import queries_of as queries_of
from hydragrad.scores.queries import query as query
from hydragrad.scores.queries import sample_losses as sample_losses
from hydragrad.scores.samples import checked_samples as checked_samples
from hydragrad.scores.scores import MEANING as MEANING
from hydragrad.scores.scores import Scores as Scores
