"""What the compiler knows of the machine it generates code for.

A Target is plain data; ``codegen.host`` fills one in for the host from CPU features read at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .dtypes import DType

TILE_EMULATION = "tile-emulation"  # not a CPU feature: tile kernels run as ordinary vector code (tests)


@dataclass(frozen=True)
class Target:
    """A machine.

    Attributes:
        name: ``"x86-64"``, ``"x86-64-avx2"``, ``"x86-64-avx512"``, ``"x86-64-amx"`` (and ``"x86-64-amx-emulated"``,
            for tests) or ``"aarch64"``; what messages show.
        triple: LLVM triple (always ELF, also on hosts that use another object format).
        cpu: LLVM CPU name; features: LLVM feature string entries that are on, sorted.
        vector_bytes: width of the widest vector register that kernels use.
        vector_registers: how many of them.
        fma_ports: FMAs on vectors of ``vector_bytes`` per cycle, for cost estimates.
        l1_bytes, l2_bytes, l3_bytes: data cache sizes of one core (l3: shared).
        clock_ghz: nominal clock, for cost estimates only.
        bf16_dot: products per second of a vector instruction that adds two bfloat16 products to each float32 lane, as
            a multiple of the FMAs'; 0 if kernels should not use it. A target with a rate and without the feature
            ``avx512bf16`` spells the instruction out (tests).
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...] = field(default=(), repr=False)
    vector_bytes: int = 16
    vector_registers: int = 16
    fma_ports: int = 2
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 16 << 20
    clock_ghz: float = 3.0
    bf16_dot: float = 0.0

    def lanes(self, dtype: DType) -> int:
        """Elements of ``dtype`` per vector, counted in the type it computes in (16-bit floats: float32)."""
        return max(1, self.vector_bytes // max(dtype.accumulator.itemsize if dtype.kind == "f" else dtype.itemsize, 1))

    def has(self, feature: str) -> bool:
        return feature in self.features

    @property
    def has_tiles(self) -> bool:
        """Whether kernels may use bfloat16 matrix tiles: the unit with its conversions, or its emulation."""
        unit = all(self.has(f) for f in ("amx-tile", "amx-bf16", "avx512bf16"))
        return self.vector_bytes == 64 and (unit or self.has(TILE_EMULATION))

    @property
    def has_dots(self) -> bool:
        """Whether kernels may use bfloat16 dot products on vectors: where they are fast, and there are no tiles."""
        return self.vector_bytes == 64 and self.bf16_dot > 0 and not self.has_tiles

    def without_tiles(self) -> Target:
        """This machine without its matrix tile unit (AMX)."""
        kept = tuple(f for f in self.features if not f.startswith("amx-"))
        return replace(self, name="x86-64-avx512" if self.name == "x86-64-amx" else self.name, features=kept)

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith("x86_64")
