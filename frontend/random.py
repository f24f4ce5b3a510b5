"""Random numbers.

``rand``, ``randn`` and dropout draw from a counter-based generator whose state (seed, offset) is a
tensor: a traced program reads and advances the same state, so eager and compiled draws agree. In-place
fills (``uniform_``...: parameter initialisation) use NumPy's generator, seeded together with it.
The streams are not PyTorch's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from ..ir.dims import DimExpr, Extent
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from . import dispatch, elementwise, promotion, shaping, tracing
from .device import CPU, device, require_cpu
from .sources import user_place

if TYPE_CHECKING:
    from .tensor import Tensor

_INITIAL_SEED = 67280421310721  # PyTorch's default seed


class Generator:
    """A random stream: ``state`` is an int64[2] Tensor of seed and offset."""

    def __init__(self, device: Any = "cpu") -> None:
        require_cpu(device)
        self._numpy = np.random.default_rng(_INITIAL_SEED)
        self._state: Tensor | None = None
        self._seed = _INITIAL_SEED

    @property
    def device(self) -> device:
        return CPU

    @property
    def state(self) -> Tensor:
        if self._state is None:
            self._state = dispatch.from_array(np.array([self._seed, 0], np.int64))
        return self._state

    def manual_seed(self, seed: int) -> Generator:
        """Restart the stream."""
        self._seed = int(seed)
        folded = int(np.array(self._seed % 2**64, np.uint64).astype(np.int64))
        self.state._data[:] = (folded, 0)
        self._numpy = np.random.default_rng(self._seed % 2**64)
        return self

    def get_state(self) -> Any:
        """The state of this stream: pass it to ``set_state``."""
        return self._seed, self.state._data.copy(), self._numpy.bit_generator.state

    def set_state(self, state: Any) -> None:
        """Go back to a state of this stream."""
        self._seed, counter, numpy_state = state
        self.state._data[...] = counter
        self._numpy.bit_generator.state = numpy_state

    def initial_seed(self) -> int:
        """The seed this stream was started with."""
        return self._seed


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Restart the default random stream."""
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the default random stream."""
    return default_generator.initial_seed()


def uniform(shape: tuple[Extent, ...], dtype: DType = dtypes.float32, generator: Generator | None = None) -> Tensor:
    """Numbers on [0, 1) of the given extents; advances the generator."""
    state = (generator or default_generator).state
    out = dispatch.apply("random_uniform", state, shape=tuple(shape), dtype=dtype)
    words = dims.product(shape) * (2 if dtype is dtypes.float64 else 1)
    counters = (words + 3) // 4
    if isinstance(counters, DimExpr):
        step = shaping.stack([dispatch.scalar(0, dtypes.int64), dispatch.extent_scalar(counters, dtypes.int64)])
    else:
        step = dispatch.from_array(np.array([0, counters], np.int64))
    dispatch.assign(state, elementwise.add(state, step))
    return out


def normal_like_uniform(shape: tuple[Extent, ...], dtype: DType, generator: Generator | None) -> Tensor:
    """Standard normal numbers by the Box-Muller transform of two uniform draws."""
    work = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
    radius = elementwise.sqrt(elementwise.mul(elementwise.log(elementwise.sub(1, uniform(shape, work, generator))), -2))
    angle = elementwise.mul(uniform(shape, work, generator), 2 * np.pi)
    return dispatch.cast(elementwise.mul(radius, elementwise.cos(angle)), dtype)


def _float_dtype(dtype: DType | None) -> DType:
    return dtype or promotion.get_default_dtype()


def rand(
    *size: Any, generator: Generator | None = None, dtype: DType | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform on [0, 1); sizes as separate ints, a tuple or a list."""
    require_cpu(device)
    target = _float_dtype(dtype)
    work = dtypes.float64 if target is dtypes.float64 else dtypes.float32
    out = dispatch.cast(uniform(shaping.sizes_of(size), work, generator), target)
    return out.requires_grad_(requires_grad)


def randn(
    *size: Any, generator: Generator | None = None, dtype: DType | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Standard normal; sizes as separate ints, a tuple or a list."""
    require_cpu(device)
    return normal_like_uniform(shaping.sizes_of(size), _float_dtype(dtype), generator).requires_grad_(requires_grad)


def rand_like(input: Tensor, *, dtype: DType | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform on [0, 1) with input's shape."""
    return rand(*input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


def randn_like(input: Tensor, *, dtype: DType | None = None, requires_grad: bool = False) -> Tensor:
    """Standard normal with input's shape."""
    return randn(*input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Generator | None = None, dtype: DType | None = None,
    device: Any = None,
) -> Tensor:  # fmt: skip
    """``randint(high, size)`` or ``randint(low, high, size)``: int64 uniform, high excluded."""
    if size is None:
        low, high, size = 0, low, high
    if high is None:
        low, high = 0, low
    require_cpu(device)
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    unit = uniform(shaping.sizes_of((tuple(size),)), dtypes.float64, generator)
    return dispatch.cast(
        elementwise.add(elementwise.floor(elementwise.mul(unit, high - low)), low), dtype or dtypes.int64
    )


def randperm(n: int, *, generator: Generator | None = None, dtype: DType | None = None) -> Tensor:
    """A random permutation of 0..n-1 (int64); eager only."""
    if tracing.is_tracing():
        raise UnsupportedError(f"{user_place()}: randperm cannot be traced; draw the permutation outside forward")
    order = (generator or default_generator)._numpy.permutation(int(n)).astype((dtype or dtypes.int64).numpy)
    return dispatch.from_array(order)


def _fill(target: Tensor, numbers: np.ndarray) -> Tensor:
    return dispatch.write(target, dispatch.from_array(numbers.astype(target.dtype.numpy)), "random fill")


def uniform_(input: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Refill in place from U[a, b)."""
    if tracing.is_tracing():  # must be drawn anew by every call of the program
        u = uniform(input._extents, dtypes.float32, generator)
        return dispatch.write(input, elementwise.add(elementwise.mul(u, b - a), a), "uniform_")
    kind = np.float64 if input.dtype is dtypes.float64 else np.float32
    draw = (generator or default_generator)._numpy.random(input._data.shape, dtype=kind)
    return _fill(input, draw * kind(b - a) + kind(a))


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Refill in place from N(mean, std^2)."""
    if tracing.is_tracing():  # must be drawn anew by every call of the program
        z = normal_like_uniform(input._extents, input.dtype, generator)
        return dispatch.write(input, elementwise.add(elementwise.mul(z, std), mean), "normal_")
    kind = np.float64 if input.dtype is dtypes.float64 else np.float32
    draw = (generator or default_generator)._numpy.standard_normal(input._data.shape, dtype=kind)
    return _fill(input, draw * kind(std) + kind(mean))

# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "Generator", "default_generator", "initial_seed", "manual_seed", "rand", "rand_like", "randint", "randn",
    "randn_like", "randperm",
)  # fmt: skip
METHODS = ("normal_", "uniform_")
IN_PLACE = ()
