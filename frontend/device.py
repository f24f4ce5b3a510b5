"""Devices. Ingot computes on the CPU; other devices can be named but not used."""

from __future__ import annotations

from typing import Any

from ..ir.errors import UnsupportedError

_TYPES = ("cpu", "cuda", "mps", "xpu", "meta", "hpu", "xla", "mtia", "ipu", "vulkan")


class device:
    """``device("cpu")``, ``device("cuda", 2)``, ``device("cuda:2")``: has ``type`` and ``index``."""

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, type: str | device, index: int | None = None) -> None:
        if isinstance(type, device):
            index = type.index if index is None else index
            type = type.type
        if not isinstance(type, str):
            raise TypeError(f"device(): expected a string such as 'cpu' or 'cuda:0', got {type!r}")
        if ":" in type:
            if index is not None:
                raise RuntimeError("type (string) must not include an index because index was passed explicitly: "
                                   f"{type}")  # fmt: skip
            name, _, number = type.partition(":")
            if not number.isdigit():
                raise RuntimeError(f"Invalid device string: '{type}'")
            type, index = name, int(number)
        if type not in _TYPES:
            raise RuntimeError(f"Expected one of {', '.join(_TYPES)} device type at start of device string: {type}")
        self.type = type
        self.index = index

    def __repr__(self) -> str:
        suffix = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{suffix})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __enter__(self) -> device:
        """New tensors are made on this device, which must be the CPU."""
        require_cpu(self)
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __reduce__(self) -> Any:
        return (device, (self.type, self.index))


CPU = device("cpu")


def require_cpu(where: str | device | int | None) -> None:
    """UnsupportedError unless ``where`` (None: the default) names the CPU."""
    if where is None:
        return
    target = device("cuda", where) if isinstance(where, int) else device(where)
    if target.type != "cpu":
        raise UnsupportedError(f"device '{target}' is not available: Ingot computes on the CPU; use device 'cpu'")


def get_default_device() -> device:
    """The CPU."""
    return CPU


def set_default_device(device: Any) -> None:
    """UnsupportedError unless it is the CPU."""
    require_cpu(device)
