"""Random numbers.

Drawn eagerly they come from PyTorch's stream: the same seed gives the same tensors, initial weights among them.
Inside a traced ``forward``, and for dropout everywhere, they come from a counter-based generator whose state (seed,
offset) is a tensor: a compiled program reads and advances the same state, so eager and compiled masks agree.
``manual_seed`` restarts both.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from ..ir.dims import DimExpr, Extent
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from . import dispatch, elementwise, promotion, shaping, streams, tracing
from .device import CPU, device, require_cpu
from .out import store
from .sources import user_place

if TYPE_CHECKING:
    from .tensor import Tensor

_INITIAL_SEED = 67280421310721  # PyTorch's default seed


class Generator:
    """A random stream. ``state`` is an int64[2] Tensor: seed and offset of its counter-based part."""

    def __init__(self, device: Any = "cpu") -> None:
        require_cpu(device)
        self._stream = streams.Stream(_INITIAL_SEED)
        self._state: Tensor | None = None

    @property
    def device(self) -> device:
        return CPU

    @property
    def state(self) -> Tensor:
        if self._state is None:
            self._state = dispatch.from_array(np.zeros(2, np.int64))
            self._restart(0)
        return self._state

    def _restart(self, offset: int) -> None:
        self.state._data[:] = (self._stream.seed - 2**64 * (self._stream.seed >= 2**63), offset)

    def manual_seed(self, seed: int) -> Generator:
        """Restart the stream; RuntimeError for seeds that do not fit in 64 bits."""
        seed = int(seed)
        if not -(2**63) <= seed < 2**64:
            raise RuntimeError(f"Overflow when unpacking long long: the seed {seed} does not fit in 64 bits")
        self._stream = streams.Stream(seed)
        self._restart(0)
        return self

    def seed(self) -> int:
        """Restart the stream at a seed from the operating system and return that seed."""
        seed = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed this stream was started with."""
        return self._stream.seed

    def get_state(self) -> Tensor:
        """The state of this stream, a uint8 tensor in PyTorch's layout: pass it to ``set_state``."""
        data = self._stream.state(int(self.state._data[1]))
        return dispatch.from_array(np.frombuffer(data, np.uint8).copy())

    def set_state(self, new_state: Tensor) -> Generator:
        """Go back to a state of this stream (or of PyTorch's)."""
        if not dispatch.is_tensor(new_state) or new_state.dtype is not dtypes.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        if new_state.numel() != streams.STATE_BYTES:
            raise RuntimeError(f"Expected a CPUGeneratorImplState of size {streams.STATE_BYTES} but found the input "
                               f"RNG state size to be {new_state.numel()}")  # fmt: skip
        try:
            offset = self._stream.set_state(new_state._data.tobytes())
        except ValueError as error:
            raise RuntimeError(str(error)) from None
        self._restart(offset)
        return self

    def clone_state(self) -> Generator:
        """Another generator that goes on from here."""
        return Generator().set_state(self.get_state())

    graphsafe_get_state = clone_state

    def graphsafe_set_state(self, other: Generator) -> Generator:
        """Go to the state of another generator."""
        return self.set_state(other.get_state())

    def __repr__(self) -> str:
        return f"<torch._C.Generator object at {id(self):#x}>"

    def __reduce__(self) -> Any:
        return (_generator, (self.get_state(),))


def _generator(state: Tensor) -> Generator:
    return Generator().set_state(state)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Restart the default random stream."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Restart the default random stream at a seed from the operating system and return that seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default random stream."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The state of the default random stream (uint8)."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Go back to a state of the default random stream."""
    default_generator.set_state(new_state)


@contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, **kwargs: Any) -> Iterator[None]:
    """What is drawn inside leaves the default stream as it was."""
    state = default_generator.get_state() if enabled else None
    try:
        yield
    finally:
        if state is not None:
            default_generator.set_state(state)


# -- the counter-based generator --------------------------------------------------------------------
class _Counting(threading.local):
    depth = 0


_counting = _Counting()


@contextmanager
def counter_based() -> Iterator[None]:
    """Inside, eager draws use the counter-based generator, as a compiled program does."""
    _counting.depth += 1
    try:
        yield
    finally:
        _counting.depth -= 1


def _by_counter() -> bool:
    return tracing.is_tracing() or _counting.depth > 0


def uniform(shape: tuple[Extent, ...], dtype: DType = dtypes.float32, generator: Generator | None = None) -> Tensor:
    """Counter-based numbers on [0, 1) of the given extents; advances the generator."""
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


def _counted_normal(shape: tuple[Extent, ...], dtype: DType, generator: Generator | None) -> Tensor:
    """Counter-based standard normal numbers: the Box-Muller transform of two uniform draws."""
    work = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
    radius = elementwise.sqrt(elementwise.mul(elementwise.log(elementwise.sub(1, uniform(shape, work, generator))), -2))
    angle = elementwise.mul(uniform(shape, work, generator), 2 * np.pi)
    return dispatch.cast(elementwise.mul(radius, elementwise.cos(angle)), dtype)


def _counted_uniform(shape: tuple[Extent, ...], dtype: DType, generator: Generator | None) -> Tensor:
    work = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
    return dispatch.cast(uniform(shape, work, generator), dtype)


def _refuse_tracing(name: str) -> None:
    if tracing.is_tracing():
        raise UnsupportedError(f"{user_place()}: {name} cannot be traced; draw the numbers outside forward")


# -- filling in place -------------------------------------------------------------------------------
def _stream(generator: Generator | None) -> streams.Stream:
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"argument 'generator' must be torch._C.Generator, not {type(generator).__name__}")
    return (generator or default_generator)._stream


def _fill(target: Tensor, numbers: np.ndarray, name: str) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):
        return dispatch.write(target, dispatch.from_array(numbers.astype(target.dtype.numpy)), name)


def _require_float(target: Tensor, name: str) -> None:
    if not target.dtype.is_floating_point:
        kind = dispatch.type_word(target.dtype)
        raise NotImplementedError(f'"{name}_kernel_cpu" not implemented for \'{kind}\'')


def uniform_(
    input: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None, **old: Any
) -> Tensor:  # fmt: skip
    """Refill in place from U[a, b); PyTorch's names of the bounds, ``from`` and ``to``, are understood."""
    a, b = old.pop("from", a), old.pop("to", b)
    if old:
        raise TypeError(f"uniform_() got an unexpected keyword argument '{next(iter(old))}'")
    _require_float(input, "uniform")
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a:g} > to={b:g}")
    if _by_counter():  # must be drawn anew by every call of the program
        u = uniform(input._extents, dtypes.float32, generator)
        return dispatch.write(input, elementwise.add(elementwise.mul(u, b - a), a), "uniform_")
    return _fill(input, streams.uniform(_stream(generator), input._data, a, b), "uniform_")


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Refill in place from N(mean, std^2)."""
    _require_float(input, "normal")
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    if _by_counter():  # must be drawn anew by every call of the program
        z = _counted_normal(input._extents, input.dtype, generator)
        return dispatch.write(input, elementwise.add(elementwise.mul(z, std), mean), "normal_")
    return _fill(input, streams.normal(_stream(generator), input._data, mean, std), "normal_")


def bernoulli_(input: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Refill in place with 1 (probability ``p``, a number or a tensor that broadcasts) and 0."""
    if not dispatch.is_tensor(p):
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
        if _by_counter():
            drawn = elementwise.lt(uniform(input._extents, dtypes.float32, generator), float(p))
            return dispatch.write(input, dispatch.cast(drawn, input.dtype), "bernoulli_")
        draw = streams.from_doubles(_stream(generator), input._data, lambda u: u < p)
        return _fill(input, draw, "bernoulli_")
    if _by_counter():
        work = dtypes.float64 if p.dtype is dtypes.float64 else dtypes.float32
        drawn = elementwise.lt(uniform(input._extents, work, generator), dispatch.cast(p, work))
        return dispatch.write(input, dispatch.cast(drawn, input.dtype), "bernoulli_")
    odds = p._data
    if not ((odds >= 0) & (odds <= 1)).all():
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    kind = np.dtype(np.float64 if odds.dtype == np.float64 else np.float32)
    u = streams.arrange(_stream(generator).units(input._data.size, kind), input._data)
    return _fill(input, u < np.broadcast_to(odds.astype(kind), u.shape), "bernoulli_")


def random_(input: Tensor, *bounds: Any, generator: Generator | None = None, **named: Any) -> Tensor:
    """``random_()``, ``random_(to)``, ``random_(from, to)``: refill in place with whole numbers below ``to``; without
    bounds, those that the dtype can hold (a floating type: exactly)."""
    _refuse_tracing("random_")
    if len(bounds) == 1:
        bounds = (0, *bounds)
    low, high = (*bounds, None, None)[:2]
    low, high = named.pop("from", 0 if low is None else low), named.pop("to", high)
    if named or len(bounds) > 2:
        raise TypeError("random_() takes from, to and generator")
    kind, stream = input.dtype, _stream(generator)
    if high is None and not bounds:
        top = 2 ** {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[kind.name] + 1 \
            if kind.is_floating_point else 2 if kind is dtypes.bool_ else int(np.iinfo(kind.numpy).max) + 1  # fmt: skip
        wide = kind in (dtypes.float64, dtypes.int64, dtypes.uint64)
        drawn = (stream.double_words if wide else stream.words)(input._data.size) % np.uint64(min(top, 2**64 - 1))
        return _fill(input, streams.arrange(drawn, input._data), "random_")
    high = 2**63 if high is None else int(high)
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    if not kind.is_floating_point:
        least, most = (0, 1) if kind is dtypes.bool_ else (np.iinfo(kind.numpy).min, np.iinfo(kind.numpy).max)
        if not least <= low <= most:
            raise RuntimeError(f"from is out of bounds for {_C_NAMES.get(kind.name, kind.name)}")
        if not least <= high - 1 <= most:
            raise RuntimeError(f"to - 1 is out of bounds for {_C_NAMES.get(kind.name, kind.name)}")
    return _fill(input, streams.integers(stream, input._data, int(low), high), "random_")


_C_NAMES = {
    "uint8": "unsigned char", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long", "bool": "bool",
}  # fmt: skip


def exponential_(input: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Refill in place from the exponential distribution of rate ``lambd``."""
    _refuse_tracing("exponential_")
    _require_float(input, "exponential")
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    return _fill(input, streams.from_doubles(_stream(generator), input._data, streams.exponential(lambd)),
                 "exponential_")  # fmt: skip


def geometric_(input: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Refill in place with the number of trials up to the first success of probability ``p``."""
    _refuse_tracing("geometric_")
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
    return _fill(input, streams.from_doubles(_stream(generator), input._data, streams.geometric(p)), "geometric_")


def cauchy_(input: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Refill in place from the Cauchy distribution."""
    _refuse_tracing("cauchy_")
    _require_float(input, "cauchy")
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
    return _fill(input, streams.from_doubles(_stream(generator), input._data, streams.cauchy(median, sigma)), "cauchy_")


def log_normal_(input: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None) -> Tensor:
    """Refill in place with exp of N(mean, std^2)."""
    _refuse_tracing("log_normal_")
    _require_float(input, "log_normal")
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
    drawn = _stream(generator).normals(input._data.size) * std + mean
    return _fill(input, streams.arrange(np.exp(drawn), input._data), "log_normal_")


# -- new tensors ------------------------------------------------------------------------------------
def _float_dtype(dtype: DType | None) -> DType:
    return dtype or promotion.get_default_dtype()


def _blank(size: tuple[Any, ...], dtype: DType) -> Tensor:
    shape = shaping.sizes_of(size)
    if any(isinstance(e, int) and e < 0 for e in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")  # type: ignore[type-var]
    return dispatch.from_array(np.empty(shape, dtype.numpy))  # type: ignore[arg-type]


def _like(input: Tensor, dtype: DType | None, device: Any) -> Tensor:
    """Uninitialised, with input's shape and order of memory, which is the order of drawing."""
    require_cpu(device)
    dispatch.require_tensor(input, "rand_like")
    return dispatch.from_array(np.empty_like(input._data, (dtype or input.dtype).numpy, order="K"))


def _into(out: Tensor | None, made: Tensor) -> Tensor:
    if out is None:
        return made
    store("a random function", made, out)
    return out


def rand(
    *size: Any, generator: Generator | None = None, out: Tensor | None = None, dtype: DType | None = None,
    layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False, names: Any = None,
) -> Tensor:  # fmt: skip
    """Uniform on [0, 1); sizes as separate ints, a tuple or a list."""
    require_cpu(device)
    size, target = _sizes(size, names), _float_dtype(dtype if out is None else out.dtype)
    if _by_counter():
        made = _counted_uniform(shaping.sizes_of(size), target, generator)
    else:
        made = uniform_(_blank(size, target), generator=generator)
    return _into(out, made).requires_grad_(requires_grad)


def randn(
    *size: Any, generator: Generator | None = None, out: Tensor | None = None, dtype: DType | None = None,
    layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False, names: Any = None,
) -> Tensor:  # fmt: skip
    """Standard normal; sizes as separate ints, a tuple or a list."""
    require_cpu(device)
    size, target = _sizes(size, names), _float_dtype(dtype if out is None else out.dtype)
    if _by_counter():
        made = _counted_normal(shaping.sizes_of(size), target, generator)
    else:
        made = normal_(_blank(size, target), generator=generator)
    return _into(out, made).requires_grad_(requires_grad)


def _sizes(size: tuple[Any, ...], names: Any) -> tuple[Any, ...]:
    if names is not None:
        raise UnsupportedError("named tensors are not supported")
    return size


def rand_like(
    input: Tensor, *, dtype: DType | None = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False, memory_format: Any = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Uniform on [0, 1) with input's shape."""
    if _by_counter():
        return rand(*input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)
    return uniform_(_like(input, dtype, device), generator=generator).requires_grad_(requires_grad)


def randn_like(
    input: Tensor, *, dtype: DType | None = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False, memory_format: Any = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Standard normal with input's shape."""
    if _by_counter():
        return randn(*input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)
    return normal_(_like(input, dtype, device), generator=generator).requires_grad_(requires_grad)


def _bounds(low: Any, high: Any, size: Any) -> tuple[int, int, Any]:
    if size is None:
        low, high, size = 0, low, high
    if high is None:
        low, high = 0, low
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    return int(low), int(high), size


def _counted_integers(low: int, high: int, shape: Any, dtype: DType, generator: Generator | None) -> Tensor:
    unit = uniform(shaping.sizes_of((tuple(shape),)), dtypes.float64, generator)
    return dispatch.cast(elementwise.add(elementwise.floor(elementwise.mul(unit, high - low)), low), dtype)


def randint(
    low: int = 0, high: Any = None, size: Any = None, *, generator: Generator | None = None, out: Tensor | None = None,
    dtype: DType | None = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """``randint(high, size)`` or ``randint(low, high, size)``: int64 uniform, high excluded."""
    if size is None or high is None:
        low, high, size = (0, low, high) if size is None else (0, low, size)
    low, high, size = _bounds(low, high, size)
    require_cpu(device)
    kind = (dtype or dtypes.int64) if out is None else out.dtype
    if _by_counter():
        made = _counted_integers(low, high, size, kind, generator)
    else:
        made = random_(_blank((tuple(size),), kind), low, high, generator=generator)
    return _into(out, made).requires_grad_(requires_grad)


def randint_like(
    input: Tensor, low: int = 0, high: Any = None, *, dtype: DType | None = None, layout: Any = None,
    device: Any = None, requires_grad: bool = False, pin_memory: bool = False, memory_format: Any = None,
) -> Tensor:  # fmt: skip
    """``randint_like(input, high)`` or ``randint_like(input, low, high)``: whole numbers with input's shape."""
    low, high, _ = _bounds(low, high, ())
    if _by_counter():
        return _counted_integers(low, high, input.shape, dtype or input.dtype, None)
    return random_(_like(input, dtype, device), low, high).requires_grad_(requires_grad)


def randperm(
    n: int, *, generator: Generator | None = None, out: Tensor | None = None, dtype: DType | None = None,
    layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """A random permutation of 0..n-1 (int64); eager only."""
    _refuse_tracing("randperm")
    require_cpu(device)
    if n < 0:
        raise RuntimeError("n must be non-negative, got " + str(n))
    order = streams.permutation(_stream(generator), int(n)).astype((dtype or dtypes.int64).numpy)
    return _into(out, dispatch.from_array(order)).requires_grad_(requires_grad)


def normal(
    mean: Any, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None, out: Tensor | None = None,
    dtype: DType | None = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """``normal(mean, std, size)``, or with tensors for mean, std or both: their (broadcast) shape."""
    require_cpu(device)
    spreads, centres = dispatch.is_tensor(std), dispatch.is_tensor(mean)
    if spreads and not tracing.is_tracing() and std.numel() and bool((std._data < 0).any()):
        raise RuntimeError("normal expects all elements of std >= 0.0")
    if size is not None or not (spreads or centres):
        if size is None:
            raise TypeError("normal() missing 1 required positional argument: 'size'")
        if not (spreads or centres or _by_counter()):
            made = normal_(_blank((tuple(size),), _float_dtype(dtype)), mean, std, generator=generator)
            return _into(out, made).requires_grad_(requires_grad)
        z = randn(*size, generator=generator, dtype=dtype)
    else:
        if spreads and centres:
            shape, kind = np.broadcast_shapes(mean.shape, std.shape), mean.dtype
        else:
            shape, kind = (std.shape, std.dtype) if spreads else (mean.shape, mean.dtype)
        z = randn(*shape, generator=generator, dtype=kind)
    return _into(out, elementwise.add(elementwise.mul(z, std), mean).detach()).requires_grad_(requires_grad)


def bernoulli(
    input: Tensor, p: Any = None, *, generator: Generator | None = None, out: Tensor | None = None
) -> Tensor:  # fmt: skip
    """1 with the probability that ``input`` (or ``p``) states, else 0; input's shape and dtype."""
    dispatch.require_tensor(input, "bernoulli")
    odds = input if p is None else p
    if p is None and not input.dtype.is_floating_point:
        kind = dispatch.type_word(input.dtype)
        raise NotImplementedError(f'"bernoulli_tensor_cpu_p_" not implemented for \'{kind}\'')
    if _by_counter():
        work = dtypes.float64 if input.dtype is dtypes.float64 else dtypes.float32
        return dispatch.cast(elementwise.lt(uniform(input._extents, work, generator), odds), input.dtype)
    return _into(out, bernoulli_(_like(input, None, None), odds, generator=generator))


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Indices (int64) drawn with the weights of ``input`` [categories] or [rows, categories], which need not sum to
    one: [num_samples] or [rows, num_samples]."""
    weights = input._concrete("multinomial()", "drawing the indices outside the compiled function")
    if weights.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    _require_float(input, "multinomial")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > weights.shape[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    rows = np.atleast_2d(weights if weights.dtype == np.float64 else weights.astype(np.float32))
    if not (rows.sum(1) > 0).all():
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if replacement and num_samples > 1:
        picked = streams.choices(_stream(generator), rows, num_samples)
    else:
        drawn = streams.from_doubles(_stream(generator), np.ascontiguousarray(weights), streams.exponential(1.0))
        with np.errstate(divide="ignore"):
            keys = rows / drawn.astype(rows.dtype).reshape(rows.shape)
        picked = np.argsort(-keys, axis=1, kind="stable")[:, :num_samples]
    return _into(out, dispatch.from_array(picked.astype(np.int64).reshape(*weights.shape[:-1], num_samples)))


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "Generator", "bernoulli", "default_generator", "get_rng_state", "initial_seed", "manual_seed", "multinomial",
    "normal", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "seed",
    "set_rng_state",
)  # fmt: skip
METHODS = (
    "bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "multinomial", "normal_",
    "random_", "uniform_",
)  # fmt: skip
IN_PLACE = ()
