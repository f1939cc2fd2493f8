"""Hypergradients of single training samples, for queries thought of later.

hypergradients  the store of a recorded run, by replay
tracker         Tracker: the same online, while the user trains
online          the rows of a run that is under way
place           where a resumed loop goes on
drawn           a step's data, drawn when first needed
store           Store: rows, the trained model, contributions
asking          gradients of queries against rows, in blocks
options         choices that both share
gradients       per-sample gradients of a step that somebody else makes
exact           exact tangents, curvature included
recurrence      how a row takes in a gradient, lazily or by known coefficients
schedule        options told ahead: one accumulator online
lanes           optimizer histories while they unfold
growing         rows advanced step by step
table           rows in memory or on disk; a kill leaves a step whole or undone
building        beginning, going on with and finishing a store
columns         which columns follow which history
"""

from hydragrad.tracking.asking import TopContributions as TopContributions
from hydragrad.tracking.hypergradients import hypergradients as hypergradients
from hydragrad.tracking.schedule import planned as planned
from hydragrad.tracking.store import Store as Store
from hydragrad.tracking.tracker import Tracker as Tracker
