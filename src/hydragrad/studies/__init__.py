"""The paper's tables and figures, and the truth behind the numbers: one flat, resumable file each."""

from hydragrad.studies.figure1 import Figure1, reproduce_figure1
from hydragrad.studies.trust import NETWORKS, Row, reproduce_trust

__all__ = ["NETWORKS", "Figure1", "Row", "reproduce_figure1", "reproduce_trust"]
