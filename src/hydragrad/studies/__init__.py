"""The paper's tables and figures, one flat file each; resumable at the level of single measurements."""

from hydragrad.studies.figure1 import Figure1, reproduce_figure1

__all__ = ["Figure1", "reproduce_figure1"]
