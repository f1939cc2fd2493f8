"""Curvature of the loss.

products          exact and Gauss-Newton products with the directional derivatives of one evaluation
many_products     the same products of many cotangents in one pass
reverse_products  the same products by reverse mode alone
held_products     products held to how the gradient changes
zero              the same directional derivatives with no curvature
output_draws      random gradients at the output, whose second moment is the losses' Hessian in it
eigenbasis        a matrix that is diagonal in a basis of Kronecker form
ekfac             the Gauss-Newton matrix as such a matrix, by two passes over data
tangents          exact tangents of the batch gradient along many samples
symmetric         whether the trained gradient has a symmetric curvature
"""
