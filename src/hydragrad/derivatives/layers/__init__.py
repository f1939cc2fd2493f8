"""Rules of single layers.

gradient_rules  per-sample gradients of one layer
"""
