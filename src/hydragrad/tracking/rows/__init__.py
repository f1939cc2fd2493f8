"""Rows of a hypergradient store while they grow.

table        rows in memory or on disk; a kill leaves a step whole or undone
seals        one number a row that notices damage of a file
growing_rows rows advanced step by step
recurrence   how a row takes in a gradient, lazily or by known coefficients
histories    optimizer histories while they unfold
columns      which columns follow which history
"""
