"""Which layouts a contraction wants for its operands and result, with estimated costs (for the layout pass)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..ir import dtypes
from ..ir.dims import mod, product
from ..ir.graph import Node
from ..ir.kernels import CAST_BYTES_PER_SECOND, LayoutChoice
from ..ir.layout import DENSE, Layout
from ..ir.target import Target
from . import fixed_point, gather, strassen, winograd
from . import schedule as scheduling
from .contraction import compute
from .loopir import contiguous_loads
from .lower.contraction_gradients import MOST_PARTS, axis_phases, runs, transpose_halo
from .lower.contraction_operands import Placed
from .lower.contraction_pixels import reads_in_place
from .lower.winograd import tile_halo
from .schedule import Problem, upper
from .tile_layouts import tile_choices

Pairs = Sequence[tuple[int, int]]

# Minimal filtering whose error each precision admits.
_EXACT = ("winograd2", "winograd3s2")
_FAST = (*_EXACT, "winograd4", "winograd6", "winograd4s2", "winograd1x3p2", "winograd4p2")
# Channels from which these err no more than a float32 kernel that adds up the same products one by one.
_LONG_SUM = {"winograd4": 224, "winograd2x4careful": 32, "winograd4careful": 128, "winograd1x3p2": 3}
WINOGRAD_FORMS = {"float32": (*_EXACT, *_LONG_SUM), "float32-fast": _FAST, "bfloat16": _FAST}
_PHASES_MARGIN = 1.1  # by how much phases have to be faster: small images gain less than estimated
# Terms and columns from which Strassen's algorithm pays, and by how much it has to be faster.
_STRASSEN_LEVELS = (1, 2)
_STRASSEN_TERMS, _STRASSEN_COLUMNS, _STRASSEN_MARGIN = 256, 256, 1.02
_STRASSEN_CONV_COLUMNS, _STRASSEN_CONV_MARGIN = 128, 1.03  # the estimates of gathered rows are nearer to what they take


def layout_choices(node: Node, target: Target, precision: str = "float32") -> list[LayoutChoice]:
    """Layouts in which ``node`` can run, best first; all-dense is always among them.

    For operators other than contractions there is one choice: everything dense.
    """
    core = node
    if node.op == "fused":
        core = next((n for n in node.regions[0] if n.op in _RULES), node)
    rule = _RULES.get(core.op)
    dense = tuple(DENSE for _ in node.inputs), tuple(DENSE for _ in node.outputs)
    if rule is None:
        return [LayoutChoice(*dense, cost=0.0, reason="any layout-free kernel")]
    found = rule(core, target, precision) + tile_choices(core, target, precision)
    if core is not node:
        found = [_spread(choice, node, core) for choice in found]
    return sorted(found, key=lambda c: c.cost)


def _spread(choice: LayoutChoice, node: Node, core: Node) -> LayoutChoice:
    """A contraction's choice as one for the fused group: operands of the result's shape follow its layout."""
    by_value = dict(zip(core.inputs, choice.inputs, strict=True))
    (result,) = choice.outputs
    inputs = []
    for outer, inner in zip(node.inputs, node.regions[0].inputs, strict=True):
        layout = by_value.get(inner)
        if layout is None:
            layout = result if outer.shape == core.output.shape else DENSE
        inputs.append(layout)
    return LayoutChoice(tuple(inputs), tuple(result for _ in node.outputs), choice.cost, choice.reason)


def _seconds(target: Target, p: Problem) -> tuple[float, int]:
    """Estimated time of the best schedule and its number of vectors."""
    s = scheduling.choose(target, p)
    return scheduling.estimate(target, p, s), s.nb


def _frame(rank: int, padding: Pairs) -> tuple[tuple[int, int], ...]:
    halo = ((0, 0),) * (rank - len(padding)) + tuple((max(low, 0), max(high, 0)) for low, high in padding)
    return halo if any(h != (0, 0) for h in halo) else ()


# -- convolution ----------------------------------------------------------------------------------------
def _conv(node: Node, target: Target, precision: str) -> list[LayoutChoice]:
    x, w = node.inputs
    y, groups = node.output, node.attrs["groups"]
    lanes = target.lanes(compute(y.dtype))
    shape = [upper(e) for e in w.shape]
    per_group, channels = shape[0] // groups, shape[1]
    k = channels
    for e in shape[2:]:
        k *= e
    halo = _frame(x.type.rank, node.attrs["padding"])
    rows = (y.shape[-2] if y.type.rank > 3 else 1, y.shape[-1])
    if shape[2:] and all(e == 1 for e in shape[2:]) and all(s == 1 for s in node.attrs["stride"]) and not halo:
        rows = (1, rows[0] * rows[1])
    repeat = upper(product(y.shape[:1])) * (upper(product(y.shape[2:-2])) if y.type.rank > 4 else 1)
    out = Layout(blocks=((1, lanes),)) if lanes > 1 else DENSE
    choices = []
    if lanes > 1 and channels == 1 and shape[0] == groups and groups > 1:
        p = Problem(y.dtype, rows, shape[0], k, shape[-1], repeat, 1, vector_a=True)
        cost, _ = _seconds(target, p)
        blocked = Layout(blocks=((1, lanes),), halo=halo)
        packed = Layout(blocks=((0, lanes),))
        choices.append(LayoutChoice((blocked, packed), (out,), cost * repeat, "depthwise: channels along the lanes"))
    elif lanes > 1 and (groups == 1 or (per_group % lanes == 0 and channels % lanes == 0)):
        dense_x = channels < lanes and groups == 1
        fixed = None if groups == 1 else max(d for d in (4, 3, 2, 1) if (per_group // lanes) % d == 0)
        p = Problem(y.dtype, rows, per_group, k, channels if dense_x else lanes, repeat * groups, fixed)
        cost, nb = _seconds(target, p)
        given = Layout(halo=halo) if dense_x else Layout(blocks=((1, lanes),), halo=halo)
        packed = Layout(blocks=((0, lanes * nb),) if dense_x else ((1, lanes), (0, lanes * nb)))
        why = "few channels, so x stays dense" if dense_x else f"channels in blocks of {lanes}"
        seconds = cost * repeat * groups
        if not dense_x and groups == 1 and y.type.rank == 4 and all(isinstance(e, int) for e in y.shape[1:]):
            seconds = _blocked_seconds(node, target, nb, not halo)
        choices.append(LayoutChoice((given, packed), (out,), seconds, f"{why}; weights in panels of {nb} vectors"))
    exact, channels = precision == "float32", upper(w.shape[1])
    forms = [f for f in WINOGRAD_FORMS[precision] if not (exact and channels < _LONG_SUM.get(f, 0))]
    choices += _winograd(node, target, forms)
    choices += _strassen_conv(node, target) if precision == "float32-fast" else []
    pixels = _pixels(node, target)
    choices += [pixels] if pixels is not None else []
    if pixels is None or halo:
        choices.append(_dense(node, target, 2.0 * upper(product(y.shape), 1 << 40) * k, per_group))
    return choices


def _pixels(node: Node, target: Target) -> LayoutChoice | None:
    """Everything dense and x read in place, pixels along the lanes: no lane is lost to few output channels."""
    x, w = node.inputs
    y, groups, taps = node.output, node.attrs["groups"], [upper(e) for e in w.shape[2:]]
    halo = _frame(x.type.rank, node.attrs["padding"])
    given = Layout(halo=halo)
    if not reads_in_place(node, Placed(x.type.with_layout(given)), target):
        return None
    lanes = target.lanes(compute(y.dtype))
    lines = [y.shape[0], *y.shape[2:-1]]
    per_group, channels = upper(w.shape[0]) // groups, upper(w.shape[1])
    repeat = upper(product(lines[:-1])) * groups
    inner = next((e for e in reversed(taps) if e != 1), channels)
    loads = contiguous_loads(node.attrs["stride"][-1], lanes)
    k = channels * prod(taps)
    p = Problem(y.dtype, (lines[-1], per_group), y.shape[-1], k, inner, repeat, loads=loads, rows_of_b=True)
    cost, _ = _seconds(target, p)
    # Whoever reads whole vectors of channels wants them in blocks.
    blocking = 2.0 * upper(y.type.nbytes, 1 << 40) / CAST_BYTES_PER_SECOND if upper(y.shape[1]) >= lanes else 0.0
    why = "dense, pixels along the lanes"
    return LayoutChoice((given, DENSE), (DENSE,), cost * repeat + blocking, why)


def _blocked_seconds(node: Node, target: Target, nb: int, plain: bool) -> float:
    """Estimate of a convolution on blocked channels, in place or on gathered rows; ``plain``: x has no halo."""
    (_, w), y = node.inputs, node.output
    shape, extent = [upper(e) for e in w.shape], [upper(e) for e in y.shape]
    stride = node.attrs["stride"]
    images = y.shape[0] if isinstance(y.shape[0], int) else None
    c = gather.Convolution(
        y.dtype,
        images,
        (extent[2], extent[3]),
        shape[1],
        shape[2] * shape[3],
        shape[0],
        nb,
        (stride[0], stride[1]),
        plain and shape[2] * shape[3] == stride[0] * stride[1] == 1,
    )
    found = gather.choose(target, c)
    return found.seconds if found else gather.ordinary_seconds(target, c)


def _winograd(node: Node, target: Target, forms: Sequence[str]) -> list[LayoutChoice]:
    """Minimal filtering in each of ``forms``, where it applies."""
    (x, w), y = node.inputs, node.output
    dtype, lanes = y.dtype, target.lanes(y.dtype)
    attrs = node.attrs
    shape, padding = w.shape, attrs["padding"]
    fits = attrs["dilation"] == (1, 1) and attrs["groups"] == 1
    static = all(isinstance(e, int) and e > 0 for e in (*x.shape[1:], *y.shape[2:]))
    if not (fits and static and lanes > 1 and dtype.kind == "f" and dtype.bits >= 32):
        return []
    outputs, channels = (upper(e) for e in shape[:2])
    if min(p for pair in padding for p in pair) < 0:
        return []
    found = []
    for f in (winograd.FILTERINGS[form] for form in forms):
        phased = f.phases > 1  # then few channels are no loss
        if shape[2:] != f.kernel or attrs["stride"] != (f.stride, f.stride) or phased != (channels < lanes):
            continue
        rows, columns = (-(-upper(e) // line.tile) for e, line in zip(y.shape[2:], f.lines, strict=True))
        run, runs = (upper(e) for e in f.runs(y.shape[0], rows, columns))
        s = winograd.choose(target, dtype, f, channels, outputs, run, runs=runs)
        out = Layout(blocks=((1, lanes),))
        given = DENSE
        if not phased:
            needs = zip(x.shape[2:], padding, f.lines, strict=True)
            given = replace(out, halo=_frame(4, [tile_halo(upper(e), pair, line) for e, pair, line in needs]))
        packed = Layout(order=(0, 2, 3, 1), blocks=((0, lanes * s.product.nb),), form=f.form)
        cost = s.seconds * (_PHASES_MARGIN if phased else 1.0)
        found.append(LayoutChoice((given, packed), (out,), cost, str(s)))
    return found


def _dense(node: Node, target: Target, flops: float, rows: int) -> LayoutChoice:
    """Everything dense: copying columns and tails of short rows cost about half the FMA rate, and ``rows`` (output
    channels of a group) share one copied panel."""
    lanes = target.lanes(compute(node.output.dtype))
    last = upper(node.output.shape[-1])
    waste = -(-last // lanes) * lanes / max(last, 1)
    rate = target.clock_ghz * 1e9 * target.fma_ports * 2 * lanes / 2 * rows / (rows + 16)
    layouts = tuple(DENSE for _ in node.inputs)
    return LayoutChoice(layouts, (DENSE,), flops * waste / rate, "all dense")


def _conv_transpose(node: Node, target: Target, precision: str) -> list[LayoutChoice]:
    x, w = node.inputs
    y, groups = node.output, node.attrs["groups"]
    lanes = target.lanes(compute(y.dtype))
    shape = [upper(e) for e in w.shape]
    per_group, channels = shape[0] // groups, shape[1]
    parts = axis_phases(node.attrs, y.shape[2:], shape[2:])
    grouped = [runs(p) for p in parts]
    count = prod(len(p) for p in grouped)
    taps = prod(shape[2:]) / prod(node.attrs["stride"])
    choices = []
    if lanes > 1 and 0 < count <= MOST_PARTS and all(len(p) == 1 for p in grouped[:-2]):
        frame = tuple(transpose_halo(e, p) for e, p in zip(x.shape[2:], parts, strict=True))
        halo = _frame(x.type.rank, frame)
        given, out = Layout(blocks=((1, lanes),), halo=halo), Layout(blocks=((1, lanes),))
        rows = (parts[-2][0].count if len(parts) > 1 else 1, parts[-1][0].count)
        repeat = upper(y.shape[0]) * upper(product(y.shape[2:-2])) * prod(len(p) for p in parts[-2:])
        order = (1, 0, *range(2, len(shape)))
        if channels == 1 and shape[0] == groups and groups > 1:
            p = Problem(y.dtype, rows, shape[0], max(1, round(taps)), 1, repeat, 1, vector_a=True)
            cost, _ = _seconds(target, p)
            packed = Layout(blocks=((0, lanes),))
            choices.append(LayoutChoice((given, packed), (out,), cost * repeat, "depthwise: channels along the lanes"))
        elif groups == 1 or (per_group % lanes == 0 and channels % lanes == 0):
            fixed = None if groups == 1 else max(d for d in (4, 3, 2, 1) if (channels // lanes) % d == 0)
            k = max(1, round(per_group * taps))
            p = Problem(y.dtype, rows, channels, k, lanes, repeat * groups, fixed, parts=count)
            cost, nb = _seconds(target, p)
            packed = Layout(order=order, blocks=((0, lanes), (1, lanes * nb)))
            why = f"{prod(len(p) for p in parts)} phase(s), weights in panels of {nb} vectors"
            choices.append(LayoutChoice((given, packed), (out,), cost * repeat * groups, why))
    choices.append(_dense(node, target, 2.0 * upper(product(y.shape), 1 << 40) * per_group * prod(shape[2:]), channels))
    return choices


def _conv_weight_grad(node: Node, target: Target, precision: str) -> list[LayoutChoice]:
    x, dy = node.inputs
    y, groups = node.output, node.attrs["groups"]
    lanes = target.lanes(compute(y.dtype))
    shape = [upper(e) for e in y.shape]
    per_group, channels = shape[0] // groups, shape[1]
    k = upper(dy.shape[0]) * upper(product(dy.shape[2:]))
    halo = _frame(x.type.rank, node.attrs["padding"])
    grad = Layout(blocks=((1, lanes),))
    choices = []
    if lanes > 1 and channels == 1 and shape[0] == groups and groups > 1:
        given, repeat = Layout(blocks=((1, lanes),), halo=halo), prod(shape[2:-2])
        p = Problem(y.dtype, (shape[-2] if len(shape) > 3 else 1, shape[-1]), shape[0], k, 4, repeat, 1, vector_a=True)
        cost, _ = _seconds(target, p)
        choices.append(
            LayoutChoice(
                (given, grad), (Layout(blocks=((0, lanes),)),), cost * repeat, "depthwise: channels along the lanes"
            )
        )
    elif lanes > 1 and (groups == 1 or (per_group % lanes == 0 and channels % lanes == 0)):
        dense_x = channels < lanes and groups == 1
        rows = (channels, shape[-1]) if dense_x else (min(channels, lanes), 1)
        repeat = prod(shape[2:-1]) if dense_x else prod(shape[2:]) * -(-channels // lanes) * groups
        fixed = None if groups == 1 else max(d for d in (4, 3, 2, 1) if (per_group // lanes) % d == 0)
        cost, nb = _seconds(target, Problem(y.dtype, rows, per_group, k, 8, repeat, fixed))
        given = Layout(halo=halo) if dense_x else Layout(blocks=((1, lanes),), halo=halo)
        packed = Layout(blocks=((0, lanes * nb),) if dense_x else ((1, lanes), (0, lanes * nb)))
        choices.append(LayoutChoice((given, grad), (packed,), cost * repeat, f"result in panels of {nb} vectors"))
    # Dense gradients are read lane by lane.
    dense = _dense(node, target, 2.0 * upper(product(y.shape), 1 << 40) * k, channels)
    choices.append(LayoutChoice(dense.inputs, dense.outputs, dense.cost * 2, dense.reason))
    return choices


# -- matmul ---------------------------------------------------------------------------------------------
def _matmul(node: Node, target: Target, precision: str) -> list[LayoutChoice]:
    a, b = node.inputs
    y = node.output
    lanes = target.lanes(compute(y.dtype))
    transposed = node.attrs["transpose_b"]
    depth = upper(a.shape[-2] if node.attrs["transpose_a"] else a.shape[-1])
    rows = product(y.shape[:-1]) if b.type.rank == 2 else y.shape[-2]
    repeat = 1 if b.type.rank == 2 else upper(product(y.shape[:-2]))
    cost, nb = _seconds(target, Problem(y.dtype, (rows, 1), y.shape[-1], depth, depth, repeat))
    cost *= repeat
    choices = []
    if lanes > 1 and b.type.is_static:
        rank = b.type.rank
        n_axis, k_axis = (rank - 2, rank - 1) if transposed else (rank - 1, rank - 2)
        packed = Layout(order=(*range(rank - 2), n_axis, k_axis), blocks=((n_axis, lanes * nb),))
        if packed.order == tuple(range(rank)):
            packed = Layout(blocks=packed.blocks)
        choices.append(LayoutChoice((DENSE, packed), (DENSE,), cost, f"B in panels of {nb} vectors"))
    if precision == "float32-fast":
        choices += _strassen(node, target) + _fixed_point(node, target, cost)
    # A row-major B is read in place, a transposed one is packed by the kernel on every run.
    repack = upper(product(b.shape), 1 << 40) * (2.0 if transposed else 0.5) / (target.clock_ghz * 1e9)
    choices.append(LayoutChoice((DENSE, DENSE), (DENSE,), cost * 1.05 + repack, "all dense"))
    return choices


def _fixed_point(node: Node, target: Target, seconds: float) -> list[LayoutChoice]:
    """Weights in fixed point, where few rows wait for them; ``seconds``: estimate for float32 weights, near ones."""
    a, b = node.inputs
    y, transposed = node.output, node.attrs["transpose_b"]
    rows, outputs = product(y.shape[:-1]), y.shape[-1]
    if any(v.dtype != dtypes.float32 for v in (a, b, y)) or b.type.rank != 2 or node.attrs["transpose_a"]:
        return []
    if not (b.type.is_static and isinstance(rows, int) and isinstance(outputs, int)):
        return []
    depth = upper(a.shape[-1])
    gain = fixed_point.speedup(target, rows, depth, outputs, seconds)
    if not gain:
        return []
    # Estimates of other kernels have all weights near, so that only the gain compares.
    s = fixed_point.choose(target, rows, depth, outputs)
    packed = Layout(
        order=() if transposed else (1, 0),
        blocks=((0 if transposed else 1, s.lanes * s.nb),),
        form=fixed_point.FORM_TRANSPOSED if transposed else fixed_point.FORM,
    )
    why = f"{s.reason}, panels of {s.nb} vectors; est. {gain:.2f} times as fast as float32 weights"
    return [LayoutChoice((DENSE, packed), (DENSE,), seconds / gain, why)]


def _strassen(node: Node, target: Target) -> list[LayoutChoice]:
    """Strassen's algorithm, where it applies."""
    a, b = node.inputs
    y, transposed = node.output, node.attrs["transpose_b"]
    if any(v.dtype != dtypes.float32 for v in (a, b, y)) or b.type.rank != 2 or not b.type.is_static:
        return []
    outputs, depth = (upper(e) for e in (b.shape if transposed else b.shape[::-1]))
    rows, repeat = y.shape[-2], upper(product(y.shape[:-2]))
    lanes, axis, found = target.lanes(dtypes.float32), 0 if transposed else 1, []
    if lanes == 1 or node.attrs["transpose_a"]:
        return []
    if depth < _STRASSEN_TERMS or outputs < _STRASSEN_COLUMNS or upper(rows) < 32:
        return []
    for levels in _STRASSEN_LEVELS:
        cuts = 1 << levels
        known = isinstance(rows, int) or any(mod(rows, cuts * r) == 0 for r in range(32 // cuts, 97))
        if depth % cuts or outputs % (cuts * lanes) or not known:
            continue
        s = strassen.choose(strassen.Case(target, y.dtype, levels, rows, repeat, depth, outputs))
        form = strassen.NAMES[strassen.Form(levels, transposed)]
        packed = Layout(order=() if transposed else (1, 0), blocks=((axis, lanes * s.product.nb),), form=form)
        found.append(LayoutChoice((DENSE, packed), (DENSE,), s.seconds * _STRASSEN_MARGIN, str(s)))
    return found


def _strassen_conv(node: Node, target: Target) -> list[LayoutChoice]:
    """The same for 1x1 convolutions: rows are pixels."""
    (x, w), y, attrs = node.inputs, node.output, node.attrs
    lanes = target.lanes(dtypes.float32)
    if any(v.dtype != dtypes.float32 for v in (x, w, y)) or w.shape[2:] != (1, 1) or attrs["groups"] != 1:
        return []
    static = all(isinstance(e, int) and e > 0 for e in y.shape[1:])
    if any(p != (0, 0) for p in attrs["padding"]) or not static or lanes == 1:
        return []
    outputs, depth = (upper(e) for e in w.shape[:2])
    pixels, blocked, found = upper(product(y.shape[2:])), Layout(blocks=((1, lanes),)), []
    if depth < _STRASSEN_TERMS or outputs < _STRASSEN_CONV_COLUMNS or pixels < 32:
        return []
    for levels in _STRASSEN_LEVELS:
        cuts = 1 << levels
        if depth % (cuts * lanes) or outputs % (cuts * lanes):
            continue
        size = pixels, upper(y.shape[0]), depth, outputs
        case = strassen.Case(target, y.dtype, levels, *size, blocked=True, stride=prod(attrs["stride"]))
        s = strassen.choose(case)
        packed = Layout(blocks=((0, lanes * s.product.nb),), form=strassen.NAMES[strassen.Form(levels, True)])
        found.append(LayoutChoice((blocked, packed), (blocked,), s.seconds * _STRASSEN_CONV_MARGIN, str(s)))
    return found


_RULES = {"conv": _conv, "conv_transpose": _conv_transpose, "conv_weight_grad": _conv_weight_grad, "matmul": _matmul}
