"""Mini linker: one ELF64 relocatable object to a flat, position-independent code image.

Kernels are self-contained, so linking is short: place the code and its constants behind each other, resolve
the distances between them, refuse everything that would need a loader (imports, writable data, absolute
addresses). The image may be mapped at any address that is a multiple of ``base_alignment(machine)``: 64
bytes on x86-64, and 4096 on AArch64, where ADRP counts in 4 KiB pages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir.errors import IngotError

EM_X86_64 = 62
EM_AARCH64 = 183

_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 2, 4, 8, 9
_SHF_WRITE, _SHF_ALLOC, _SHF_EXEC, _SHF_TLS = 1, 2, 4, 0x400
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00
_SECTION = np.dtype(
    [("name", "<u4"), ("type", "<u4"), ("flags", "<u8"), ("addr", "<u8"), ("offset", "<u8"), ("size", "<u8"),
     ("link", "<u4"), ("info", "<u4"), ("align", "<u8"), ("entsize", "<u8")]
)  # fmt: skip
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])


class LinkError(IngotError):
    """An object file needs more than a flat image can give: an import, writable data, an unknown relocation.

    Always an internal error of a kernel generator; the message names the symbol.
    """


@dataclass(frozen=True)
class _Relocations:
    """Relocations of one type: image offsets of the places, image offsets of the targets (addend included)."""

    place: np.ndarray
    target: np.ndarray
    symbol: np.ndarray


def base_alignment(machine: int) -> int:
    """What the load address of an image must be a multiple of."""
    return 4096 if machine == EM_AARCH64 else 64


def link(obj: bytes, entry: str) -> tuple[bytes, int]:
    """(image, byte offset of function ``entry`` in it) of the relocatable object ``obj``.

    Raises LinkError for undefined symbols, writable data, an unknown relocation or a missing entry.
    """
    return _Object(obj).link(entry)


class _Object:
    """A parsed relocatable object."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
            raise LinkError("not a little-endian ELF64 object")
        kind, self.machine = struct.unpack_from("<HH", data, 16)
        if kind != 1 or self.machine not in (EM_X86_64, EM_AARCH64):
            raise LinkError(f"not a relocatable x86-64 or AArch64 object (type {kind}, machine {self.machine})")
        (table,) = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        self.data = data
        self.sections = np.frombuffer(data, _SECTION, count, table)
        self.section_names = [self._string(names, int(s["name"])) for s in self.sections]
        tables = np.flatnonzero(self.sections["type"] == _SHT_SYMTAB)
        if len(tables) != 1:
            raise LinkError(f"expected one symbol table, found {len(tables)}")
        symtab = self.sections[tables[0]]
        self.strings = int(symtab["link"])
        self.symbols = np.frombuffer(data, _SYMBOL, int(symtab["size"]) // _SYMBOL.itemsize, int(symtab["offset"]))

    def _string(self, section: int, offset: int) -> str:
        start = int(self.sections[section]["offset"]) + offset
        return self.data[start : self.data.index(b"\0", start)].decode()

    def symbol_name(self, index: int) -> str:
        symbol = self.symbols[index]
        if int(symbol["info"]) & 15 == 3:  # a section's own symbol has no name
            return self.section_names[int(symbol["shndx"])]
        return self._string(self.strings, int(symbol["name"]))

    def link(self, entry: str) -> tuple[bytes, int]:
        image, bases = self._place()
        symbol_address = self._symbol_addresses(bases)
        table = _X86_64 if self.machine == EM_X86_64 else _AARCH64
        for kind, relocations in self._relocations(bases, symbol_address):
            where = f"internal error: relocation type {kind} against {self._names(relocations.symbol)}"
            if kind not in table:
                raise LinkError(f"{where} cannot be linked statically")
            try:
                table[kind](image, relocations)
            except OverflowError as error:
                raise LinkError(f"{where}: {error}") from None
        functions = np.flatnonzero((self.symbols["info"] & 15 == 2) & (symbol_address >= 0))
        for index in functions:
            if self.symbol_name(int(index)) == entry:
                return image.tobytes(), int(symbol_address[index])
        raise LinkError(f"entry function {entry!r} is not defined; functions: {self._names(functions) or 'none'}")

    def _names(self, symbols: np.ndarray) -> str:
        return ", ".join(sorted({self.symbol_name(int(i)) for i in symbols}))

    def _place(self) -> tuple[np.ndarray, dict[int, int]]:
        """Image with the contents of all loaded sections, and the offset at which each one lies."""
        order: list[int] = []
        for i, section in enumerate(self.sections):
            flags, size, name = int(section["flags"]), int(section["size"]), self.section_names[i]
            if not flags & _SHF_ALLOC or not size or name.startswith(".eh_frame"):
                continue  # unwind tables: nothing unwinds through kernels
            if flags & (_SHF_WRITE | _SHF_TLS):
                named = np.flatnonzero((self.symbols["shndx"] == i) & (self.symbols["info"] & 15 != 3))
                raise LinkError(f"internal error: writable data {self._names(named) or name} in {name}")
            order.append(i)
        order.sort(key=lambda i: not int(self.sections[i]["flags"]) & _SHF_EXEC)  # stable: code first
        bases, end, data_seen = {}, 0, False
        for i in order:
            align = max(1, int(self.sections[i]["align"]))
            if align > base_alignment(self.machine):
                raise LinkError(f"section {self.section_names[i]} wants alignment {align}")
            data = not int(self.sections[i]["flags"]) & _SHF_EXEC
            if data and not data_seen:
                align, data_seen = max(align, 64), True  # no cache line holds both code and constants
            end = -(-end // align) * align
            bases[i] = end
            end += int(self.sections[i]["size"])
        image = np.zeros(-(-end // 64) * 64, np.uint8)
        for i, base in bases.items():
            section = self.sections[i]
            if int(section["type"]) != _SHT_NOBITS:
                size = int(section["size"])
                image[base : base + size] = np.frombuffer(self.data, np.uint8, size, int(section["offset"]))
        return image, bases

    def _symbol_addresses(self, bases: dict[int, int]) -> np.ndarray:
        """Image offset of every symbol, -1 for those outside the image."""
        base_of = np.full(len(self.sections), -1, np.int64)
        base_of[list(bases)] = list(bases.values())
        shndx = self.symbols["shndx"].astype(np.int64)
        undefined = np.flatnonzero((shndx == _SHN_UNDEF) & (self.symbols["name"] != 0))
        if len(undefined):
            raise LinkError(f"internal error: kernel code must import nothing, but refers to {self._names(undefined)}")
        inside = (shndx != _SHN_UNDEF) & (shndx < _SHN_LORESERVE)
        base = np.where(inside, base_of[np.where(inside, shndx, 0)], -1)
        return np.where(base >= 0, base + self.symbols["value"].astype(np.int64), -1)

    def _relocations(self, bases: dict[int, int], symbol_address: np.ndarray) -> list[tuple[int, _Relocations]]:
        parts, places = [], []
        for section in self.sections:
            info = int(section["info"])
            if int(section["type"]) == _SHT_REL and info in bases:
                raise LinkError("REL relocations are not used on 64-bit ELF targets")
            if int(section["type"]) == _SHT_RELA and info in bases:
                part = np.frombuffer(self.data, _RELA, int(section["size"]) // _RELA.itemsize, int(section["offset"]))
                parts.append(part)
                places.append(part["offset"].astype(np.int64) + bases[info])
        if not parts:
            return []
        table, place = np.concatenate(parts), np.concatenate(places)
        address = symbol_address[table["symbol"]]
        if (address < 0).any():
            names = self._names(table["symbol"][address < 0])
            raise LinkError(f"internal error: relocation against {names}, which is not part of the image")
        out = []
        for kind in np.unique(table["type"]):
            which = table["type"] == kind
            target = (address + table["addend"])[which]
            out.append((int(kind), _Relocations(place[which], target, table["symbol"][which])))
        return out


def _fits(values: np.ndarray, bits: int, step: int = 1) -> np.ndarray:
    """``values / step`` checked to be exact and to fit a signed field of ``bits`` bits."""
    if (values % step).any():
        raise OverflowError(f"distance is no multiple of {step}")
    values = values // step
    if (values < -(1 << (bits - 1))).any() or (values >= 1 << (bits - 1)).any():
        raise OverflowError(f"distance does not fit in {bits} bits")
    return values


def _words(image: np.ndarray, place: np.ndarray) -> np.ndarray:
    return image[place[:, None] + np.arange(4)].copy().view("<u4")[:, 0].astype(np.int64)


def _store(image: np.ndarray, place: np.ndarray, values: np.ndarray, size: int = 4) -> None:
    raw = np.ascontiguousarray(values.astype(f"<u{size}"))  # negative distances wrap, as they should
    image[place[:, None] + np.arange(size)] = raw.view(np.uint8).reshape(-1, size)


def _relative(bits: int) -> Callable[[np.ndarray, _Relocations], None]:
    def apply(image: np.ndarray, r: _Relocations) -> None:
        _store(image, r.place, _fits(r.target - r.place, bits), bits // 8)

    return apply


def _gotpcrelx(image: np.ndarray, r: _Relocations) -> None:
    """Loads of an address from the GOT become computations of it, as linkers do; there is no GOT."""
    _fits(r.target - r.place, 32)
    for place, target in zip(r.place.tolist(), r.target.tolist(), strict=True):
        opcode, modrm = int(image[place - 2]), int(image[place - 1])
        distance = target - place
        if opcode == 0x8B:  # mov sym@GOTPCREL(%rip), reg -> lea sym(%rip), reg
            image[place - 2] = 0x8D
        elif opcode == 0xFF and modrm == 0x15:  # call *sym@GOTPCREL(%rip) -> addr32 call sym
            image[place - 2 : place] = (0x67, 0xE8)
        elif opcode == 0xFF and modrm == 0x25:  # jmp *sym@GOTPCREL(%rip) -> jmp sym; nop
            image[place - 2] = 0xE9
            image[place + 3] = 0x90
            image[place - 1 : place + 3] = np.frombuffer(struct.pack("<i", distance + 1), np.uint8)
            continue
        else:
            raise OverflowError(f"GOT access by opcode {opcode:#x} cannot be relaxed; give the symbol internal linkage")
        image[place : place + 4] = np.frombuffer(struct.pack("<i", distance), np.uint8)


def _branch(shift: int, bits: int) -> Callable[[np.ndarray, _Relocations], None]:
    """AArch64 branches and literal addresses: a signed word count of ``bits`` bits at bit ``shift``."""

    def apply(image: np.ndarray, r: _Relocations) -> None:
        field = _fits(r.target - r.place, bits, 4) & ((1 << bits) - 1)
        mask = ((1 << bits) - 1) << shift
        _store(image, r.place, (_words(image, r.place) & ~mask) | (field << shift))

    return apply


def _adr(pages: bool) -> Callable[[np.ndarray, _Relocations], None]:
    def apply(image: np.ndarray, r: _Relocations) -> None:
        delta = (r.target >> 12) - (r.place >> 12) if pages else r.target - r.place
        field = _fits(delta, 21) & 0x1FFFFF
        word = _words(image, r.place) & ~((0x3 << 29) | (0x7FFFF << 5))
        _store(image, r.place, word | ((field & 3) << 29) | ((field >> 2) << 5))

    return apply


def _low12(size: int) -> Callable[[np.ndarray, _Relocations], None]:
    """The offset within its page, in units of the access size, in the 12-bit immediate field."""

    def apply(image: np.ndarray, r: _Relocations) -> None:
        low = r.target & 0xFFF
        if (low % size).any():
            raise OverflowError(f"target is not aligned to {size} bytes")
        _store(image, r.place, (_words(image, r.place) & ~(0xFFF << 10)) | ((low // size) << 10))

    return apply


def _got_low12(image: np.ndarray, r: _Relocations) -> None:
    """``ldr x, [page, :got_lo12:sym]`` becomes ``add x, page, :lo12:sym`` (and its ADRP the page of sym itself)."""
    word = _words(image, r.place)
    if ((word & 0xFFC00000) != 0xF9400000).any():
        raise OverflowError("GOT access by something other than LDR; give the symbol internal linkage")
    _store(image, r.place, 0x91000000 | ((r.target & 0xFFF) << 10) | (word & 0x3FF))


_X86_64: dict[int, Callable[[np.ndarray, _Relocations], None]] = {
    2: _relative(32),  # PC32
    4: _relative(32),  # PLT32
    24: _relative(64),  # PC64
    41: _gotpcrelx,  # GOTPCRELX
    42: _gotpcrelx,  # REX_GOTPCRELX
}
_AARCH64: dict[int, Callable[[np.ndarray, _Relocations], None]] = {
    260: _relative(64),  # PREL64
    261: _relative(32),  # PREL32
    273: _branch(5, 19),  # LD_PREL_LO19
    274: _adr(pages=False),  # ADR_PREL_LO21
    275: _adr(pages=True),  # ADR_PREL_PG_HI21
    277: _low12(1),  # ADD_ABS_LO12_NC
    278: _low12(1),  # LDST8_ABS_LO12_NC
    279: _branch(5, 14),  # TSTBR14
    280: _branch(5, 19),  # CONDBR19
    282: _branch(0, 26),  # JUMP26
    283: _branch(0, 26),  # CALL26
    284: _low12(2),  # LDST16_ABS_LO12_NC
    285: _low12(4),  # LDST32_ABS_LO12_NC
    286: _low12(8),  # LDST64_ABS_LO12_NC
    299: _low12(16),  # LDST128_ABS_LO12_NC
    311: _adr(pages=True),  # ADR_GOT_PAGE, together with:
    312: _got_low12,  # LD64_GOT_LO12_NC
}
