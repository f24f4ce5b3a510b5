"""From input shapes to the values of a program's symbolic dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.dims import Dim, DimExpr, Extent, evaluate, symbols
from ..ir.errors import InputError
from ..ir.plan import Port

Shape = tuple[int, ...]


class Signature:
    """The input ports of a program as equations for its symbols.

    A symbol can be found where an input extent is ``a * N + b`` with nothing else in it; every other
    extent is then checked.
    """

    def __init__(self, ports: Sequence[Port]) -> None:
        self.ports = list(ports)
        # name -> (dim, input, axis, a, b); the plainest occurrence wins.
        self._solve: dict[str, tuple[Dim, int, int, int, int]] = {}
        for i, port in enumerate(self.ports):
            for axis, extent in enumerate(port.type.shape):
                found = _affine(extent)
                if found is None:
                    continue
                dim, a, b = found
                known = self._solve.get(dim.name)
                if known is None or (a, b) == (1, 0) != known[3:]:
                    self._solve[dim.name] = (dim, i, axis, a, b)

    def knows(self, extent: Extent) -> bool:
        """Whether every symbol of ``extent`` follows from the input shapes."""
        return all(dim.name in self._solve for dim in symbols(extent))

    def bind(self, shapes: Sequence[Shape]) -> dict[str, int]:
        """Values of all symbols for these input shapes; InputError naming input, expected and got."""
        for port, shape in zip(self.ports, shapes, strict=True):
            if len(shape) != port.type.rank:
                raise InputError(f"{_name(port)}: expected {port.type}, got {len(shape)} axes: {_show(shape)}")
        env: dict[str, int] = {}
        for name, (dim, i, axis, a, b) in self._solve.items():
            got = shapes[i][axis]
            value, rest = divmod(got - b, a)
            where = f"{_name(self.ports[i])}: expected {self.ports[i].type}, got {_show(shapes[i])}"
            if rest:
                raise InputError(f"{where}: axis {axis} must be {self.ports[i].type.shape[axis]} for a whole {name}")
            if value < dim.min or (dim.max is not None and value > dim.max):
                top = "any" if dim.max is None else dim.max
                raise InputError(f"{where}: {name} = {value} is outside its declared range [{dim.min}, {top}]")
            env[name] = value
        for port, shape in zip(self.ports, shapes, strict=True):
            for axis, (extent, got) in enumerate(zip(port.type.shape, shape, strict=True)):
                wanted = evaluate(extent, env) if isinstance(extent, DimExpr) else extent
                if wanted != got:
                    raise InputError(
                        f"{_name(port)}: expected {port.type}, got {_show(shape)}: axis {axis} must be {wanted}"
                        + self._because(extent, env)
                    )
        return env

    def _because(self, extent: Extent, env: Mapping[str, int]) -> str:
        parts = []
        for dim in sorted(symbols(extent), key=lambda d: d.name):
            _, i, axis, _, _ = self._solve[dim.name]
            parts.append(f"{dim.name} = {env[dim.name]} from axis {axis} of {_name(self.ports[i])}")
        return f" ({', '.join(parts)})" if parts else ""


def _affine(extent: Extent) -> tuple[Dim, int, int] | None:
    """(dim, a, b) if ``extent`` is a * dim + b with a > 0."""
    if not isinstance(extent, DimExpr):
        return None
    dim, a, b = None, 0, 0
    for mono, coef in extent.terms:
        if not mono:
            b = coef
        elif dim is None and len(mono) == 1 and mono[0][1] == 1 and isinstance(mono[0][0], Dim):
            dim, a = mono[0][0], coef
        else:
            return None
    return None if dim is None or a <= 0 else (dim, a, b)


def _name(port: Port) -> str:
    return f"{port.role} {port.name!r}"


def _show(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
