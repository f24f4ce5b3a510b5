"""``Tensor``: a NumPy array, or, while tracing, a value of the graph. Its methods are the operator families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dtypes
from ..ir.dims import Extent, product
from ..ir.dtypes import DType
from ..ir.errors import ShapeError, UnsupportedError
from ..ir.graph import Value
from ..ir.types import TensorType
from . import (
    attributes,
    autocasting,
    creation,
    dispatch,
    elementary,
    elementwise,
    families,
    indexing,
    linalg,
    promotion,
    reduce,
    shaping,
    tensor_types,
    tracing,
)
from .device import CPU, device, require_cpu
from .differentiable import Differentiable
from .elementwise import operator, reflected
from .printing import tensor_repr
from .size import Size, SymInt, wrap


class Tensor(Differentiable):
    """A multi-dimensional array with PyTorch's interface.

    ``Tensor([1, 2])`` and ``Tensor(2, 3)`` make default-float tensors as in PyTorch; prefer ``ingot.tensor``,
    ``zeros``, ``from_numpy``...
    """

    # Class-level defaults keep plain tensors small. ``_trace`` is the trace that made the tensor.
    _data: np.ndarray = None  # type: ignore[assignment]
    _value: Value | None = None
    _trace: tracing.Tracer | None = None
    _alias: Any = None
    _alias_seen = 0
    # Differentiation (``tape``): a leaf's flag, the node that made the tensor and which of its results it is, the
    # gradient; the counter of in-place changes; the base of a view and the operators that lead there.
    _requires_grad: bool = False
    _grad_fn: Any = None
    _output_nr = 0
    _grad: Tensor | None = None
    _counter: Any = None
    _base: Tensor | None = None
    _moved: Tensor | None = None  # what it was before its shape was changed in place
    _view: Any = ()
    _view_seen = 0
    _inference = False
    _owned = False  # a gradient whose memory nobody else holds
    _hooks: Any = None
    _accumulate_hooks: Any = None
    _accumulator: Any = None
    _retains = False
    __array_priority__ = 1000

    def __init__(self, *data: Any, device: Any = None) -> None:
        require_cpu(device)
        kind = promotion.get_default_dtype()
        if len(data) == 1 and not isinstance(data[0], (int, np.integer)):
            (source,) = data
            if isinstance(source, Size):
                self._data = np.zeros(source, kind.numpy)
            elif dispatch.is_tensor(source):
                self._data, self._value, self._trace = source._data, source._value, source._trace
            else:
                self._data = creation._array_of(source, kind)
        else:
            self._data = np.zeros(data or (0,), kind.numpy)
        if self._trace is None:
            self._trace = tracing.current()

    @classmethod
    def _wrap(cls, array: np.ndarray) -> Tensor:
        out = cls.__new__(cls)
        out._data = array
        return out

    @classmethod
    def _traced(cls, value: Value, tracer: tracing.Tracer) -> Tensor:
        out = cls.__new__(cls)
        out._value, out._trace = value, tracer
        return out

    # -- attributes ---------------------------------------------------------------------------------
    @property
    def _extents(self) -> tuple[Extent, ...]:
        return self._value.shape if self._value is not None else self._data.shape

    @property
    def shape(self) -> Size:
        """Extents: ints, or SymInts for symbolic ones while tracing."""
        return Size(map(wrap, self._extents))

    def size(self, dim: int | None = None) -> Any:
        """``shape``, or one extent."""
        return self.shape if dim is None else wrap(self._extents[shaping.axis_of(dim, self.dim())])

    @property
    def _type(self) -> TensorType:
        return TensorType(self.dtype, self._extents)

    @property
    def dtype(self) -> DType:
        return self._value.dtype if self._value is not None else dispatch.array_dtype(self._data)

    @property
    def device(self) -> device:
        return CPU

    @property
    def is_cuda(self) -> bool:
        return False

    @property
    def ndim(self) -> int:
        return len(self._extents)

    def dim(self) -> int:
        """Number of axes."""
        return len(self._extents)

    def numel(self) -> Any:
        """Number of elements."""
        return wrap(product(self._extents))

    nelement = numel

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def element_size(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> Any:
        return self.numel() * self.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Element strides (row-major while tracing)."""
        if self._value is not None:
            shape = self._extents
            strides = tuple(wrap(product(shape[i + 1 :])) for i in range(len(shape)))
        elif not self._data.size:  # NumPy gives them no strides of their own
            strides = tuple(product(max(e, 1) for e in self._data.shape[i + 1 :]) for i in range(self._data.ndim))
        else:
            strides = tuple(s // self._data.itemsize for s in self._data.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self, memory_format: Any = attributes.contiguous_format) -> bool:
        """Whether the memory order is row-major without gaps (or the given one)."""
        return attributes.has_format(self, memory_format)

    def is_floating_point(self) -> bool:
        """Whether the dtype is floating."""
        return self.dtype.is_floating_point

    @property
    def T(self) -> Tensor:
        """All axes reversed."""
        return shaping.permute(self, tuple(reversed(range(self.dim()))))

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return shaping.transpose(self, -2, -1)

    # -- values -------------------------------------------------------------------------------------
    def _concrete(self, what: str, hint: str = "keep it outside the compiled function") -> np.ndarray:
        """The array; DataDependentError while tracing if this tensor is part of the graph."""
        tracer = tracing.current()
        if tracer is not None and tracer.owns(self):
            raise tracer.refuse_data(what, hint)
        if self._value is not None:
            raise UnsupportedError(f"{what}: this tensor belongs to a trace that has ended and has no values")
        return self._data

    def item(self) -> Any:
        """The Python number of a one-element tensor."""
        array = self._concrete("item()", "computing with the tensor itself")
        if array.size != 1:
            raise RuntimeError(f"a Tensor with {array.size} elements cannot be converted to Scalar")
        value = array.reshape(()).item()
        return float(value) if self.dtype.is_floating_point else value

    def tolist(self) -> Any:
        """Nested lists of Python numbers (a number for a 0-d tensor)."""
        array = self._concrete("tolist()")
        return array.astype(np.float32).tolist() if self.dtype is dtypes.bfloat16 else array.tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The array, sharing memory; RuntimeError while ``requires_grad`` is on (unless ``force``)."""
        array = self._concrete("numpy()")
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError("Unable to avoid copy while creating an array as requested")
            return array.astype(dtype)
        return array.copy() if copy else array

    def _scalar(self, what: str, hint: str) -> Any:
        array = self._concrete(what, hint)
        if array.size != 1:
            raise RuntimeError("only one element tensors can be converted to Python scalars")
        return array.reshape(())[()]

    def __bool__(self) -> bool:
        array = self._concrete("a branch on a tensor (bool())", "where(condition, a, b), or a mask")
        if array.size != 1:
            word = "no values" if array.size == 0 else "more than one value"
            raise RuntimeError(f"Boolean value of Tensor with {word} is ambiguous")
        return bool(array.reshape(())[()])

    def __int__(self) -> int:
        return int(self._scalar("int()", "computing with the tensor itself"))

    def __float__(self) -> float:
        return float(self._scalar("float()", "computing with the tensor itself"))

    def __index__(self) -> int:
        if not self.dtype.is_integer and self.dtype is not dtypes.bool_:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._scalar("use as an index", "index_select or gather with the tensor"))

    def __len__(self) -> Any:
        if self.dim() == 0:
            raise TypeError("len() of a 0-d tensor")
        extent = wrap(self._extents[0])
        if isinstance(extent, SymInt):
            extent.__index__()  # refuses, naming the line: len() must return a number
        return extent

    def __iter__(self) -> Iterator[Tensor]:
        if self.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(shaping.unbind(self, 0))

    def __contains__(self, element: Any) -> bool:
        return bool(reduce.any(elementwise.eq(self, element)))

    # -- copies and casts ---------------------------------------------------------------------------
    def clone(self, *, memory_format: Any = attributes.preserve_format) -> Tensor:
        """A copy."""
        return attributes.in_format(dispatch.apply("identity", self), memory_format)

    def contiguous(self, memory_format: Any = attributes.contiguous_format) -> Tensor:
        """Itself if row-major (or in the given order of memory), else a copy that is."""
        return self if self.is_contiguous(memory_format) else attributes.in_format(self, memory_format)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(other)``, each with ``non_blocking``, ``copy``,
        ``memory_format``: itself if nothing changes. The CPU is the only device."""
        dtype, copy, memory_format = attributes.conversion("to", args, kwargs)
        out = self if dtype is None else dispatch.cast(self, dtype)
        if copy and out is self:
            out = dispatch.apply("identity", self)
        return out if memory_format is None else attributes.in_format(out, memory_format)

    def type(self, dtype: Any = None, non_blocking: Any = False, **kwargs: Any) -> Any:
        """The type's name (``torch.FloatTensor``), or a cast to a dtype, a tensor type or such a name."""
        if dtype is None:
            return f"torch.{dispatch.type_word(self.dtype)}Tensor"
        return dispatch.cast(self, tensor_types.named_dtype(dtype))

    def as_subclass(self, cls: Any) -> Any:
        """The same storage and history as an instance of ``cls``, a subclass of Tensor."""
        if not (isinstance(cls, type) and issubclass(cls, Tensor)):
            raise TypeError(f"as_subclass(): {cls} is not a subclass of Tensor")
        out = shaping.view_as(self, self)
        if out is self:
            out = self.detach()
        out.__class__ = cls
        return out

    def type_as(self, other: Tensor) -> Tensor:
        """Cast to other's dtype."""
        return dispatch.cast(self, other.dtype)

    def cpu(self, memory_format: Any = None) -> Tensor:
        """Itself."""
        return self

    def cuda(self, device: Any = None, non_blocking: Any = False, memory_format: Any = None) -> Tensor:
        """Refused: there is no GPU."""
        require_cpu("cuda" if device is None else device)
        return self

    def double(self, memory_format: Any = None) -> Tensor:
        """Cast to float64."""
        return dispatch.cast(self, dtypes.float64)

    def float(self, memory_format: Any = None) -> Tensor:
        """Cast to float32."""
        return dispatch.cast(self, dtypes.float32)

    def half(self, memory_format: Any = None) -> Tensor:
        """Cast to float16."""
        return dispatch.cast(self, dtypes.float16)

    def bfloat16(self, memory_format: Any = None) -> Tensor:
        """Cast to bfloat16."""
        return dispatch.cast(self, dtypes.bfloat16)

    def long(self, memory_format: Any = None) -> Tensor:
        """Cast to int64."""
        return dispatch.cast(self, dtypes.int64)

    def int(self, memory_format: Any = None) -> Tensor:
        """Cast to int32."""
        return dispatch.cast(self, dtypes.int32)

    def short(self, memory_format: Any = None) -> Tensor:
        """Cast to int16."""
        return dispatch.cast(self, dtypes.int16)

    def char(self, memory_format: Any = None) -> Tensor:
        """Cast to int8."""
        return dispatch.cast(self, dtypes.int8)

    def byte(self, memory_format: Any = None) -> Tensor:
        """Cast to uint8."""
        return dispatch.cast(self, dtypes.uint8)

    def bool(self, memory_format: Any = None) -> Tensor:
        """Cast to bool."""
        return dispatch.cast(self, dtypes.bool_)

    # -- writing ------------------------------------------------------------------------------------
    def _assign(self, new: Tensor) -> None:
        """Replace a state's value: eager into the storage, traced as an update of the graph."""
        if new._extents != self._extents:
            raise ShapeError(f"a state of shape {list(self.shape)} cannot become {list(new.shape)}")
        dispatch.assign(self, new)

    def copy_(self, src: Tensor, non_blocking: Any = False) -> Tensor:
        """Copies values, broadcasting and converting the dtype."""
        return dispatch.write(self, dispatch.cast(src, self.dtype), "copy_")

    def fill_(self, value: Any) -> Tensor:
        """Sets every element."""
        return dispatch.write(self, promotion.operand(value, self.dtype), "fill_")

    def zero_(self) -> Tensor:
        """Sets every element to 0."""
        return dispatch.write(self, dispatch.scalar(0, self.dtype), "zero_")

    __getitem__ = indexing.getitem
    __setitem__ = indexing.setitem

    if TYPE_CHECKING:  # the methods of the families are attached below

        def __getattr__(self, name: str) -> Any: ...

    else:

        def __getattr__(self, name: str) -> Any:
            from . import missing

            return missing.method(self, name)

    # -- printing -----------------------------------------------------------------------------------
    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return tensor_repr(self)

    def __format__(self, spec: str) -> str:
        if self.dim() == 0 and self._value is None and type(self) is Tensor:
            return format(self.item(), spec)
        return object.__format__(self, spec)

    def __hash__(self) -> Any:
        return id(self)

    # -- operator families --------------------------------------------------------------------------
    __add__ = operator(elementwise.plus)
    __radd__ = reflected(elementwise.plus)
    __sub__ = operator(elementwise.minus)
    __rsub__ = reflected(elementwise.reflected_minus)
    __mul__ = operator(elementwise.mul)
    __rmul__ = reflected(elementwise.mul)
    __truediv__ = operator(elementwise.div)
    __rtruediv__ = reflected(elementwise.reflected_div)
    __floordiv__ = operator(elementwise.floor_divide)
    __rfloordiv__ = reflected(elementwise.floor_divide)
    __mod__ = operator(elementwise.remainder)
    __rmod__ = reflected(elementwise.remainder)
    __pow__ = operator(elementwise.pow)
    __rpow__ = reflected(elementwise.pow)
    __and__ = operator(elementwise.bitwise_and)
    __rand__ = reflected(elementwise.bitwise_and)
    __or__ = operator(elementwise.bitwise_or)
    __ror__ = reflected(elementwise.bitwise_or)
    __xor__ = operator(elementwise.bitwise_xor)
    __rxor__ = reflected(elementwise.bitwise_xor)
    __eq__ = operator(elementwise.eq)  # type: ignore[assignment]
    __ne__ = operator(elementwise.ne)  # type: ignore[assignment]
    __lt__ = operator(elementwise.lt)
    __le__ = operator(elementwise.le)
    __gt__ = operator(elementwise.gt)
    __ge__ = operator(elementwise.ge)
    __lshift__ = operator(elementary.bitwise_left_shift)
    __rlshift__ = reflected(elementary.bitwise_left_shift)
    __rshift__ = operator(elementary.bitwise_right_shift)
    __rrshift__ = reflected(elementary.bitwise_right_shift)
    __matmul__ = autocasting.with_policy("matmul", linalg.matmul)
    __neg__ = elementwise.neg
    __pos__ = elementwise.positive
    __abs__ = elementwise.abs
    __invert__ = elementwise.invert

    def polygamma(self, n: Any) -> Tensor:
        """The n-th derivative of digamma."""
        return elementary.polygamma(n, self)

    def where(self, condition: Tensor, other: Any) -> Tensor:
        """``self`` where ``condition`` holds, else ``other``."""
        return elementwise.where(condition, self, other)

    def softmax(self, dim: Any, dtype: DType | None = None) -> Tensor:
        """Softmax along ``dim``."""
        from .nn import functional

        return functional.softmax(self, dim, dtype=dtype)

    def log_softmax(self, dim: Any, dtype: DType | None = None) -> Tensor:
        """Logarithm of softmax along ``dim``."""
        from .nn import functional

        return functional.log_softmax(self, dim, dtype=dtype)


families.attach(Tensor)
Tensor.layout = attributes.tensor_layout  # type: ignore[attr-defined] - the family's own ``layout`` is the class
for _name, _fn in {
    "__iadd__": elementwise.plus,
    "__isub__": elementwise.minus,
    "__imul__": elementwise.mul,
    "__itruediv__": elementwise.div,
    "__ifloordiv__": elementwise.floor_divide,
    "__imod__": elementwise.remainder,
    "__ipow__": elementwise.pow,
    "__iand__": elementwise.bitwise_and,
    "__ior__": elementwise.bitwise_or,
    "__ixor__": elementwise.bitwise_xor,
    "__ilshift__": elementary.bitwise_left_shift,
    "__irshift__": elementary.bitwise_right_shift,
}.items():
    setattr(Tensor, _name, dispatch.inplace(_fn, _name))
Tensor.polygamma_ = dispatch.inplace(Tensor.polygamma, "polygamma_")  # type: ignore[attr-defined]

dispatch.register_tensor_class(Tensor)

def is_tensor(obj: object) -> bool:
    """Whether ``obj`` is a Tensor."""
    return isinstance(obj, Tensor)


def _has_compatible_shallow_copy_type(input: Tensor, from_: Tensor) -> bool:
    """Whether ``input.data = from_`` keeps ``input`` a tensor of its kind: always, between tensors with memory."""
    return isinstance(from_, Tensor)


def numel(input: Tensor) -> Any:
    """Number of elements."""
    return input.numel()


def typename(obj: object) -> str:
    """``torch.FloatTensor`` for a tensor, the qualified type name otherwise."""
    if isinstance(obj, Tensor):
        return obj.type()
    cls = type(obj)
    return cls.__name__ if cls.__module__ in ("builtins", "__builtin__") else f"{cls.__module__}.{cls.__qualname__}"
