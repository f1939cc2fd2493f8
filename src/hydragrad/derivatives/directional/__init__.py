"""Directional derivatives of all samples of a batch.

forward_mode    by dual numbers (any model)
shared_forward  forward mode right after a forward pass, whose outputs it reuses
layer_dots      by dot products in the replay's own backward pass (known layers, samples not coupled)
labels          derivatives under every possible label
parts           derivatives of samples as sums of those of their parts
"""
