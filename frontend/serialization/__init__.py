"""Reading and writing of tensors: PyTorch checkpoints (both formats) and safetensors, without running anything."""

from .loading import load
from .saving import save

__all__ = ["load", "save"]
