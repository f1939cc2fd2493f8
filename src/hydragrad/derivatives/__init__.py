"""What one batch yields: per-sample losses, their directional derivatives, curvature products.

loss_module    model and per-sample loss as one function of parameters and buffers
directional    directional derivatives of all per-sample losses by forward mode (any model)
shared_forward a forward-mode evaluation beside a forward pass, which it does not repeat
layer_dots     the same out of the replay's own backward pass (known layers, samples not coupled)
curvature      exact and Gauss-Newton products with the directional derivatives of one evaluation
vectorised     the same products of many cotangents in one pass
gradient_rules    per-sample gradients of one layer
layer_gradients   per-sample gradients out of somebody else's backward pass (known layers, samples not coupled)
sample_gradients  the same by one backward pass a sample, inside its batch (any model)
frozen_gradients  the same with the batch's statistics as constants, by one pass of our own
projection     random projections of per-sample gradients
labels         derivatives under every possible label
normalization  BatchNorm as a differentiable formula
padding        embeddings' padding rows as constants
recurrent      recurrent layers by kernels that have a forward-mode rule
stopped        gradients that are stopped on their way
symmetric      whether the trained gradient has a symmetric curvature
one_call       the model's one call inside the loss
layout         named tensors as one flat vector
supported      what is refused, and why
"""

from hydragrad.derivatives.curvature import CurvatureProducts as CurvatureProducts
from hydragrad.derivatives.curvature import CurvatureStep as CurvatureStep
from hydragrad.derivatives.curvature import Point as Point
from hydragrad.derivatives.curvature import require_one_call as require_one_call
from hydragrad.derivatives.directional import Directional as Directional
from hydragrad.derivatives.directional import directional_derivatives as directional_derivatives
from hydragrad.derivatives.directional import works_at_once as works_at_once
from hydragrad.derivatives.frozen_gradients import FrozenGradients as FrozenGradients
from hydragrad.derivatives.labels import label_derivatives as label_derivatives
from hydragrad.derivatives.labels import require_cross_entropy as require_cross_entropy
from hydragrad.derivatives.labels import tensor_leaves as tensor_leaves
from hydragrad.derivatives.layer_dots import HooksInapplicable as HooksInapplicable
from hydragrad.derivatives.layer_dots import LayerDots as LayerDots
from hydragrad.derivatives.layer_dots import why_not_hooks as why_not_hooks
from hydragrad.derivatives.layer_gradients import LayerGradients as LayerGradients
from hydragrad.derivatives.layout import Layout as Layout
from hydragrad.derivatives.loss_module import Batch as Batch
from hydragrad.derivatives.loss_module import LossModule as LossModule
from hydragrad.derivatives.loss_module import PerSampleLoss as PerSampleLoss
from hydragrad.derivatives.loss_module import check_losses as check_losses
from hydragrad.derivatives.normalization import BatchStatistics as BatchStatistics
from hydragrad.derivatives.normalization import batch_coupled as batch_coupled
from hydragrad.derivatives.normalization import normalises_batches as normalises_batches
from hydragrad.derivatives.normalization import running_statistics as running_statistics
from hydragrad.derivatives.normalization import use_explicit_batch_norm as use_explicit_batch_norm
from hydragrad.derivatives.projection import Projector as Projector
from hydragrad.derivatives.sample_gradients import sample_gradients as sample_gradients
from hydragrad.derivatives.shared_forward import SharedForward as SharedForward
from hydragrad.derivatives.supported import require_differentiable as require_differentiable
from hydragrad.derivatives.symmetric import require_symmetric as require_symmetric
from hydragrad.derivatives.vectorised import Products as Products
from hydragrad.derivatives.vectorised import VectorisedProducts as VectorisedProducts
from hydragrad.derivatives.vectorised import fastest_products as fastest_products
