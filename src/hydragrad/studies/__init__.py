"""The paper's tables and figures, and the truth behind the numbers: one flat, resumable file each."""

from hydragrad.studies.accuracy import PUBLISHED, AccuracyRow, reproduce_accuracy
from hydragrad.studies.convergence import reproduce_settling
from hydragrad.studies.damping import DampingRow, reproduce_damping
from hydragrad.studies.error import reproduce_error
from hydragrad.studies.estimators import reproduce_estimators
from hydragrad.studies.extremes import Extreme, Extremes, reproduce_extremes
from hydragrad.studies.figure1 import Figure1, reproduce_figure1
from hydragrad.studies.label_errors import LabelErrors, reproduce_label_errors
from hydragrad.studies.noisy_run import Setting
from hydragrad.studies.rankings import METHODS
from hydragrad.studies.table4 import reproduce_table4
from hydragrad.studies.trust import NETWORKS, reproduce_trust
from hydragrad.studies.weights import reproduce_filtering, reproduce_weights

__all__ = [
    "AccuracyRow",
    "PUBLISHED",
    "reproduce_accuracy",
    "METHODS",
    "DampingRow",
    "reproduce_damping",
    "NETWORKS",
    "Extreme",
    "Extremes",
    "Figure1",
    "LabelErrors",
    "Setting",
    "reproduce_error",
    "reproduce_extremes",
    "reproduce_estimators",
    "reproduce_figure1",
    "reproduce_filtering",
    "reproduce_label_errors",
    "reproduce_settling",
    "reproduce_table4",
    "reproduce_trust",
    "reproduce_weights",
]
