"""Layers whose per-sample derivatives follow from the layer's input and the gradient that arrives at its output.

layer_rule   one layer's rules as a value
rules        the table of all layers that have rules
applicable   whether the rules hold for a model
factors      whose gradients are sums of outer products: what is multiplied
positions    sums over positions of one sample
linear       Linear
convolution  Conv1d, Conv2d, Conv3d
embedding    Embedding
layer_norm   LayerNorm
batch_norm   BatchNorm1d, BatchNorm2d, BatchNorm3d, normalised by constants
"""
