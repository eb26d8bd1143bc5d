"""Links a relocatable ELF object into a position-independent code image (docs/format.md, "Code").

Done here so that neither compiling nor loading needs a linker, for whichever machine the code is. Generated objects use a
handful of relocation types, which are tables below; anything else is an error.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from typing import Any

from elftools.elf.elffile import ELFFile

from ingot.errors import InternalError

PAGE = 65536
_ALLOC, _EXEC, _WRITE = 0x2, 0x4, 0x1

#: Imports that are pointer variables in the object (docs/format.md): their slot is the variable.
_POINTER_VARIABLES = ("__TVMBackendAllocWorkspace", "__TVMBackendFreeWorkspace", "__TVMBackendParallelLaunch", "__TVMBackendParallelBarrier")

#: What the symbols of generated functions start with, so that one called `exp` is not what a call of C's `exp` reaches.
FUNCTION_PREFIX = "ingot."


@dataclass
class Image:
    """A linked image: ``text`` and ``data`` to be mapped one after the other, and what to fill in (offsets into the image)."""

    text: bytes
    data: bytes
    bss_size: int
    imports: list[tuple[str, int]] = field(default_factory=list)
    relocations: list[tuple[int, int]] = field(default_factory=list)
    functions: dict[str, int] = field(default_factory=dict)

    def entry(self, segment: int) -> dict[str, Any]:
        """The manifest's description of the code."""
        return {"segment": segment, "text_size": len(self.text), "data_size": len(self.data), "bss_size": self.bss_size,
                "imports": [{"name": name, "slot": slot} for name, slot in self.imports],
                "relocations": [list(r) for r in self.relocations], "functions": self.functions}

    def pieces(self) -> list[bytes]:
        """What the segment holds."""
        return [self.text, self.data]


def _align(value: int, to: int) -> int:
    return (value + to - 1) // to * to


class _Linker:
    def __init__(self, elf: ELFFile) -> None:
        self.elf = elf
        self.machine = elf.header["e_machine"]
        self.symbols: list[Any] = list(elf.get_section_by_name(".symtab").iter_symbols())  # type: ignore[union-attr]
        self.address: dict[int, int] = {}
        self.slots: dict[str, int] = {}
        self.stubs: dict[str, int] = {}

    def link(self) -> Image:
        kept = [(i, s) for i, s in enumerate(self.elf.iter_sections())
                if s["sh_flags"] & _ALLOC and s["sh_size"] and not s.name.startswith((".eh_frame", ".note"))]
        relocations = [(s["sh_info"], list(s.iter_relocations())  # type: ignore[attr-defined]
                       ) for s in self.elf.iter_sections()
                       if s["sh_type"] == "SHT_RELA" and s["sh_info"] in {i for i, _ in kept}]
        text_sections = [(i, s) for i, s in kept if not s["sh_flags"] & _WRITE]
        data_sections = [(i, s) for i, s in kept if s["sh_flags"] & _WRITE and s["sh_type"] != "SHT_NOBITS"]
        bss_sections = [(i, s) for i, s in kept if s["sh_flags"] & _WRITE and s["sh_type"] == "SHT_NOBITS"]

        end = self._place(text_sections, 0)
        stub_size = len(_STUB[self.machine][0])
        called, addressed = self._imported(relocations)
        for name in called:
            self.stubs[name] = end = _align(end, 16)
            end += stub_size
        text_size = _align(end, PAGE)
        end = text_size
        for name in [*called, *(n for n in addressed if n not in called)]:
            self.slots[name] = end
            end += 8
        got = {key: end + 8 * i for i, key in enumerate(self._got_keys(relocations))}
        end += 8 * len(got)
        end = self._place(data_sections, end)
        data_end = _align(end, 8)
        bss_end = self._place(bss_sections, data_end)

        image = bytearray(data_end)
        for index, section in text_sections + data_sections:
            start = self.address[index]
            image[start:start + section["sh_size"]] = section.data()
        result = Image(b"", b"", bss_end - data_end)
        for name, slot in self.slots.items():
            result.imports.append((name, slot))
        for name, stub in self.stubs.items():
            code, patch = _STUB[self.machine]
            image[stub:stub + len(code)] = patch(code, stub, self.slots[name])
        result.relocations += [(slot, self._named_address(key)) for key, slot in got.items()]
        for index, entries in relocations:
            for entry in entries:
                self._relocate(image, self.address[index] + entry["r_offset"], entry, got, result)
        for symbol in self.symbols:
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_info"]["bind"] == "STB_GLOBAL" and symbol["st_shndx"] != "SHN_UNDEF":
                result.functions[symbol.name.removeprefix(FUNCTION_PREFIX)] = self._address(symbol)
        result.text, result.data = bytes(image[:text_size]), bytes(image[text_size:])
        return result

    def _place(self, sections: list[tuple[int, Any]], end: int) -> int:
        for index, section in sections:
            end = _align(end, max(1, section["sh_addralign"]))
            self.address[index] = end
            end += section["sh_size"]
        return end

    def _imported(self, relocations: list[tuple[int, list[Any]]]) -> tuple[list[str], list[str]]:
        called: dict[str, None] = {}
        addressed: dict[str, None] = {}
        for _, entries in relocations:
            for entry in entries:
                symbol = self.symbols[entry["r_info_sym"]]
                if symbol.name in _POINTER_VARIABLES:
                    addressed[symbol.name] = None
                elif symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
                    (called if entry["r_info_type"] in _CALLS[self.machine] else addressed)[symbol.name] = None
        return list(called), list(addressed)

    def _got_keys(self, relocations: list[tuple[int, list[Any]]]) -> list[str]:
        keys: dict[str, None] = {}
        for _, entries in relocations:
            for entry in entries:
                symbol = self.symbols[entry["r_info_sym"]]
                if entry["r_info_type"] in _GOT[self.machine] and symbol["st_shndx"] != "SHN_UNDEF":
                    if not symbol.name:
                        raise InternalError("generated code addresses an unnamed symbol through a table")
                    keys[symbol.name] = None
        return list(keys)

    def _named_address(self, name: str) -> int:
        return self._address(next(s for s in self.symbols if s.name == name))

    def _address(self, symbol: Any) -> int:
        if symbol.name in _POINTER_VARIABLES:
            return self.slots[symbol.name]
        offset = 0 if symbol["st_info"]["type"] == "STT_SECTION" else symbol["st_value"]
        return self.address[symbol["st_shndx"]] + int(offset)

    def _relocate(self, image: bytearray, place: int, entry: Any, got: dict[str, int], result: Image) -> None:
        symbol = self.symbols[entry["r_info_sym"]]
        kind, addend = entry["r_info_type"], entry["r_addend"]
        undefined = symbol["st_shndx"] == "SHN_UNDEF"
        if kind in _GOT[self.machine]:
            slot = self.slots[symbol.name] if undefined else got[symbol.name]
            _GOT[self.machine][kind](image, place, slot, addend)
            return
        if undefined and kind not in _CALLS[self.machine]:
            raise InternalError(f"generated code takes the address of '{symbol.name}' by relocation {kind}")
        target = self.stubs[symbol.name] if undefined else self._address(symbol)
        if kind == _ABS64[self.machine]:
            result.relocations.append((place, target + addend))
            return
        patch = _DIRECT[self.machine].get(kind)
        if patch is None:
            raise InternalError(f"generated code has relocation type {kind} ({self.machine}), which the linker does not know")
        patch(image, place, target, addend)


def _put(image: bytearray, place: int, fmt: str, value: int) -> None:
    struct.pack_into(fmt, image, place, value)


def _x86_pc32(image: bytearray, place: int, target: int, addend: int) -> None:
    _put(image, place, "<i", target + addend - place)


def _x86_pc64(image: bytearray, place: int, target: int, addend: int) -> None:
    _put(image, place, "<q", target + addend - place)


def _arm_or(image: bytearray, place: int, bits: int) -> None:
    _put(image, place, "<I", struct.unpack_from("<I", image, place)[0] | bits)


def _arm_branch(image: bytearray, place: int, target: int, addend: int) -> None:
    _arm_or(image, place, ((target + addend - place) >> 2) & 0x3FFFFFF)


def _arm_page(image: bytearray, place: int, target: int, addend: int) -> None:
    pages = ((target + addend) >> 12) - (place >> 12)
    _arm_or(image, place, ((pages & 3) << 29) | (((pages >> 2) & 0x7FFFF) << 5))


def _arm_low12(scale: int) -> Any:
    def patch(image: bytearray, place: int, target: int, addend: int) -> None:
        _arm_or(image, place, (((target + addend) & 0xFFF) >> scale) << 10)

    return patch


def _arm_prel32(image: bytearray, place: int, target: int, addend: int) -> None:
    _put(image, place, "<i", target + addend - place)


def _x86_stub(code: bytes, stub: int, slot: int) -> bytes:
    return code[:2] + struct.pack("<i", slot - (stub + 6)) + code[6:]


def _arm_stub(code: bytes, stub: int, slot: int) -> bytes:
    image = bytearray(code)
    pages = (slot >> 12) - (stub >> 12)
    _arm_or(image, 0, ((pages & 3) << 29) | (((pages >> 2) & 0x7FFFF) << 5))
    _arm_or(image, 4, ((slot & 0xFFF) >> 3) << 10)
    return bytes(image)


# Relocation numbers: System V ABI AMD64 supplement, table 4.9; ELF for the Arm 64-bit Architecture, section 5.7.
_X86, _ARM = "EM_X86_64", "EM_AARCH64"
_ABS64 = {_X86: 1, _ARM: 257}
_CALLS: dict[str, tuple[int, ...]] = {_X86: (4,), _ARM: (282, 283)}
_GOT: dict[str, dict[int, Any]] = {
    _X86: {9: _x86_pc32, 41: _x86_pc32, 42: _x86_pc32},
    _ARM: {311: _arm_page, 312: _arm_low12(3)},
}
_DIRECT: dict[str, dict[int, Any]] = {
    _X86: {2: _x86_pc32, 4: _x86_pc32, 24: _x86_pc64},
    _ARM: {
        261: _arm_prel32, 275: _arm_page, 276: _arm_page, 277: _arm_low12(0), 278: _arm_low12(0), 282: _arm_branch, 283: _arm_branch,
        284: _arm_low12(1), 285: _arm_low12(2), 286: _arm_low12(3), 299: _arm_low12(4),
    },
}
#: The code that jumps through an import's slot: `jmp *slot(%rip)`; `adrp x16, slot; ldr x16, [x16, :lo12:slot]; br x16`.
_STUB: dict[str, tuple[bytes, Any]] = {
    _X86: (bytes.fromhex("ff2500000000") + b"\xcc\xcc", _x86_stub),
    _ARM: (struct.pack("<III", 0x90000010, 0xF9400210, 0xD61F0200), _arm_stub),
}


def link(obj: bytes) -> Image:
    """Links a relocatable object of generated code.

    Raises:
        InternalError: The object holds something that generated code never does.
    """
    elf = ELFFile(io.BytesIO(obj))
    if elf.header["e_machine"] not in _STUB:
        raise InternalError(f"no linker for {elf.header['e_machine']}")
    return _Linker(elf).link()
