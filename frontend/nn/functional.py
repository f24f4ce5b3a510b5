"""``nn.functional``: the stateless forms of the layers."""

from __future__ import annotations

from .. import autocasting
from ..linalg import linear  # noqa: F401
from ..padding import pad  # noqa: F401
from . import (
    activation_functions,
    adaptive_pooling_functions,
    attention_functions,
    conv_functions,
    conv_transpose_functions,
    ctc,
    distance_functions,
    dropout_functions,
    embedding_functions,
    grid_functions,
    loss_functions,
    margin_losses,
    multihead_functions,
    norm_functions,
    pooling_functions,
    rearrange_functions,
    regression_losses,
    resize_functions,
)
from .activation_functions import *  # noqa: F403
from .adaptive_pooling_functions import *  # noqa: F403
from .attention_functions import *  # noqa: F403
from .conv_functions import *  # noqa: F403
from .conv_transpose_functions import *  # noqa: F403
from .ctc import *  # noqa: F403
from .distance_functions import *  # noqa: F403
from .dropout_functions import *  # noqa: F403
from .embedding_functions import *  # noqa: F403
from .grid_functions import *  # noqa: F403
from .loss_functions import *  # noqa: F403
from .margin_losses import *  # noqa: F403
from .multihead_functions import *  # noqa: F403
from .norm_functions import *  # noqa: F403
from .pooling_functions import *  # noqa: F403
from .rearrange_functions import *  # noqa: F403
from .regression_losses import *  # noqa: F403
from .resize_functions import *  # noqa: F403

_FILES = (
    activation_functions, adaptive_pooling_functions, attention_functions, conv_functions, conv_transpose_functions,
    ctc, distance_functions, dropout_functions, embedding_functions, grid_functions, loss_functions, margin_losses,
    multihead_functions, norm_functions, pooling_functions, rearrange_functions, regression_losses, resize_functions,
)  # fmt: skip
__all__ = sorted({"linear", "pad", *(name for file in _FILES for name in file.__all__)})
globals().update(autocasting.policies({name: globals()[name] for name in __all__}, __name__))
