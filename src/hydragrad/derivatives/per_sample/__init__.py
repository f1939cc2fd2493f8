"""Gradients of single samples.

one_by_one         by one backward pass a sample, inside its batch (any model)
along              their products with directions, by one backward pass a sample
layer_calls        what layers see in somebody else's forward and backward pass
by_layers          out of somebody else's backward pass (known layers, samples not coupled)
frozen_statistics  with the batch's statistics as constants, by one pass of our own
weighted           the gradient of a weighted sum of losses, which they must add up to
projection         random projections of them
"""
