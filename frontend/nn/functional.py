"""``nn.functional``: the stateless forms of the layers."""

from __future__ import annotations

from ..linalg import linear
from ..padding import pad
from .activation_functions import (
    elu,
    elu_,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    relu_,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from .attention_functions import scaled_dot_product_attention
from .conv_transpose_functions import conv_transpose1d, conv_transpose2d, conv_transpose3d
from .loss_functions import cross_entropy, l1_loss, mse_loss, nll_loss
from .norm_functions import batch_norm, dropout, dropout2d, embedding, layer_norm
from .resize_functions import interpolate, upsample, upsample_bilinear, upsample_nearest
from .window_functions import adaptive_avg_pool2d, avg_pool2d, conv2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d", "avg_pool2d", "batch_norm", "conv2d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "cross_entropy", "dropout", "dropout2d", "elu", "elu_", "embedding", "gelu", "hardsigmoid",
    "hardswish", "hardtanh", "interpolate", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "logsigmoid", "max_pool2d", "mish", "mse_loss", "nll_loss", "pad", "prelu", "relu", "relu6", "relu_",
    "scaled_dot_product_attention", "selu", "sigmoid", "silu", "softmax", "softplus", "tanh", "upsample",
    "upsample_bilinear", "upsample_nearest",
]  # fmt: skip
