"""Rows of all samples at checkpoints, for queries that come later: no second pass over the training set.

making       influence_rows: the rows of a recorded run's checkpoints, or of those of a model trained elsewhere
store        InfluenceStore: the rows, and what they say about queries
plan         what a folder of them is to hold, as its file says it
checkpoints  gradients of queries at all checkpoints, next to each other
"""

from hydragrad.checkpoint_rows.making import influence_rows as influence_rows
from hydragrad.checkpoint_rows.store import InfluenceStore as InfluenceStore
