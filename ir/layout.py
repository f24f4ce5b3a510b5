"""Physical placement of a tensor's elements; its logical shape and meaning never change with it.

Operators, references and gradients see logical shapes only. The layout pass sets ``TensorType.layout``
and inserts ``layout_cast`` nodes (the identity on values); kernels and the memory plan read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .dims import Extent, product


@dataclass(frozen=True)
class Form:
    """A transform of a packed constant, applied when the program is built; the kernel that reads it expects it.

    ``shape``: logical shape -> shape of the transformed array (same rank), which is then placed in memory by the
    layout's other fields. ``error``: what a kernel that uses the form may add to the relative L2 error of a float32
    result, for inputs with a normal distribution. ``halves``: 16-bit halves stored per float32 element; the
    innermost axis then has ``halves / 2`` words per element.
    """

    shape: Callable[[Sequence[Extent]], tuple[Extent, ...]]
    error: float
    halves: int = 2


def _winograd(rows: int, columns: int) -> Callable[[Sequence[Extent]], tuple[Extent, ...]]:
    # [O, C, 3, 3] -> [O, C, rows, columns]
    return lambda shape: (*shape[:2], shape[2] + (rows - 3), shape[3] + (columns - 3))


def _phases(rows: int, columns: int) -> Callable[[Sequence[Extent]], tuple[Extent, ...]]:
    # [O, C, 7, 7] -> [O, 4 C, rows, columns]
    return lambda shape: (shape[0], shape[1] * 4, rows, columns)


def _blocks(cuts: int, products: int, stacked: int) -> Callable[[Sequence[Extent]], tuple[Extent, ...]]:
    # Combinations of cuts x cuts blocks, one behind the other along axis ``stacked``
    def shape_of(shape: Sequence[Extent]) -> tuple[Extent, ...]:
        return (*((products if i == stacked else 1) * (e // cuts) for i, e in enumerate(shape[:2])), *shape[2:])

    return shape_of


def _fixed(axis: int) -> Callable[[Sequence[Extent]], tuple[Extent, ...]]:
    # Two words for every three terms along ``axis``, and one for every 192
    return lambda shape: tuple((e + 191) // 192 + (e + 2) // 3 * 2 if i == axis else e for i, e in enumerate(shape))


FORMS: dict[str, Form] = {
    # Minimal filtering: results along the sides of a tile, the stride, and whether sums are made of short blocks.
    "winograd2": Form(_winograd(4, 4), 1e-6),
    "winograd2x4careful": Form(_winograd(4, 6), 1e-6),
    "winograd4careful": Form(_winograd(6, 6), 1e-6),
    "winograd4": Form(_winograd(6, 6), 1e-5),
    "winograd6": Form(_winograd(8, 8), 1e-5),
    "winograd3s2": Form(_winograd(7, 7), 1e-6),
    "winograd4s2": Form(_winograd(9, 9), 1e-5),
    # The same on the phases of an input with stride 2: 7x7 kernels.
    "winograd1x3p2": Form(_phases(4, 6), 1e-6),
    "winograd4p2": Form(_phases(7, 7), 1e-5),
    # One and two levels of Strassen's algorithm, for matrices [K, N] and [N, K], or [N, K, 1, 1].
    "strassen": Form(_blocks(2, 7, 0), 1e-6),
    "strassen_t": Form(_blocks(2, 7, 1), 1e-6),
    "strassen2": Form(_blocks(4, 49, 0), 1e-6),
    "strassen2_t": Form(_blocks(4, 49, 1), 1e-6),
    # Fixed point of 21 bits, for matrices [K, N] and [N, K].
    "fixed21": Form(_fixed(0), 6e-6),
    "fixed21_t": Form(_fixed(1), 6e-6),
    # One to three bfloat16 parts per element, for matrix tiles; the innermost blocks are 32 columns of 32.
    "bf16": Form(tuple, 4e-3, 1),
    "bf16x2": Form(tuple, 1e-5, 2),
    "bf16x3": Form(tuple, 1e-6, 3),
}


@dataclass(frozen=True)
class Layout:
    """How a logical tensor of rank r lies in memory.

    The physical array has these axes, outermost first: the logical axes in ``order`` (default
    0..r-1), where axis ``a`` named in ``blocks`` is split and holds ceil(extent / block) blocks
    there, and then, innermost, one axis of size ``block`` per entry of ``blocks`` in that order.
    ``halo[a] = (before, after)`` adds that many zero elements on either side of a logical axis (never
    a blocked one). ``form`` names a transform of FORMS that a constant undergoes first. Channel padding
    (an extent that is no multiple of its block) has unspecified but finite contents in activations; packed
    constants hold zeros there.

    ``Layout()`` is dense row-major. NCHW16c with a 1-pixel halo:
    ``Layout(blocks=((1, 16),), halo=((0, 0), (0, 0), (1, 1), (1, 1)))``.
    OIHW weights as [O/32][I][R][S][32]: ``Layout(blocks=((0, 32),))``.
    """

    order: tuple[int, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    halo: tuple[tuple[int, int], ...] = ()
    form: str = ""

    @property
    def is_dense(self) -> bool:
        return not self.blocks and not self.order and not self.has_halo and not self.form

    @property
    def has_halo(self) -> bool:
        return any(b or a for b, a in self.halo)

    def physical_shape(self, shape: Sequence[Extent]) -> tuple[Extent, ...]:
        """Extents of the physical array for a logical ``shape``."""
        padded = list(FORMS[self.form].shape(shape) if self.form else shape)
        if self.halo:
            padded = [e + b + a for e, (b, a) in zip(padded, self.halo, strict=True)]
        for axis, size in self.blocks:
            padded[axis] = (padded[axis] + (size - 1)) // size
        order = self.order or tuple(range(len(padded)))
        inner = [size for _, size in self.blocks]
        if self.form and inner:
            inner[-1] = inner[-1] * FORMS[self.form].halves // 2
        return (*(padded[a] for a in order), *inner)

    def strides(self, shape: Sequence[Extent]) -> tuple[Extent, ...]:
        """Element strides of the *physical* axes (row-major over ``physical_shape``)."""
        phys = self.physical_shape(shape)
        return tuple(product(phys[i + 1 :]) for i in range(len(phys)))

    def elements(self, shape: Sequence[Extent]) -> Extent:
        """Number of stored elements, halo and block padding included."""
        return product(self.physical_shape(shape))

    def __str__(self) -> str:
        if self.is_dense:
            return "dense"
        parts = []
        if self.form:
            parts.append(f"form={self.form}")
        if self.order:
            parts.append("order=" + ",".join(map(str, self.order)))
        if self.blocks:
            parts.append("blocks=" + ",".join(f"{a}:{n}" for a, n in self.blocks))
        if self.has_halo:
            parts.append("halo=" + ",".join(f"{b}:{a}" for b, a in self.halo))
        return ";".join(parts)

    @staticmethod
    def parse(text: str) -> Layout:
        """Inverse of ``str``; ValueError on anything else."""
        if text == "dense":
            return DENSE
        fields: dict[str, str] = dict(part.split("=", 1) for part in text.split(";"))  # type: ignore[misc]

        def pairs(s: str) -> tuple[tuple[int, int], ...]:
            return tuple((int(x), int(y)) for x, y in (p.split(":") for p in s.split(",")))

        unknown = set(fields) - {"order", "blocks", "halo", "form"}
        if unknown:
            raise ValueError(f"unknown layout field {sorted(unknown)}")
        form = fields.get("form", "")
        if form and form not in FORMS:
            raise ValueError(f"unknown form {form!r}; there are {', '.join(FORMS)}")
        return Layout(
            order=tuple(int(x) for x in fields["order"].split(",")) if "order" in fields else (),
            blocks=pairs(fields["blocks"]) if "blocks" in fields else (),
            halo=pairs(fields["halo"]) if "halo" in fields else (),
            form=form,
        )


DENSE = Layout()
