"""Reading and writing of tensors: PyTorch checkpoints (both formats) and safetensors, without running anything."""
