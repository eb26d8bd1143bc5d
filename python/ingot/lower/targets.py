"""The targets that Ingot compiles for: names, what they require of a machine, and how LLVM is told."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ingot.errors import TargetError


@dataclass(frozen=True)
class _Level:
    """What every machine of a level has: ``features`` in Linux's names (/proc/cpuinfo), those of the levels below it included."""

    arch: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    mcpu: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Extension:
    """An instruction set beyond the levels that generated code or kernels can use: its name after a ``+``, Linux's names and LLVM's."""

    name: str
    features: tuple[str, ...]
    llvm: tuple[str, ...]
    levels: tuple[str, ...]


# x86-64 psABI, section 3.1.1.
_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

#: Of each architecture the least first.
_LEVELS = {
    "x86-64-v2": _Level("x86_64", _V2, 16, 16, "x86-64-v2"),
    "x86-64-v3": _Level("x86_64", _V3, 32, 16, "x86-64-v3"),
    # LLVM's generic tuning for v4 avoids the registers that schedules count on.
    "x86-64-v4": _Level("x86_64", _V4, 64, 32, "x86-64-v4", ("-prefer-256-bit",)),
    "aarch64": _Level("aarch64", ("fp", "asimd"), 16, 32, "generic", ("+neon",)),
}
#: Names list their extensions in this order.
_EXTENSIONS = (
    _Extension("vnni", ("avx512_vnni",), ("avx512vnni",), ("x86-64-v4",)),
    _Extension("bf16", ("avx512_bf16",), ("avx512bf16",), ("x86-64-v4",)),
    _Extension("avx_vnni", ("avx_vnni",), ("avxvnni",), ("x86-64-v3", "x86-64-v4")),
    # Matrices in registers of 16 rows of 64 bytes; every CPU that has tiles so far multiplies both types.
    _Extension("amx", ("amx_tile", "amx_int8", "amx_bf16"), ("amx-tile", "amx-int8", "amx-bf16"), ("x86-64-v4",)),
    _Extension("dotprod", ("asimddp",), ("dotprod",), ("aarch64",)),
    _Extension("i8mm", ("i8mm",), ("i8mm",), ("aarch64",)),
    _Extension("bf16", ("bf16",), ("bf16",), ("aarch64",)),
)

#: Instructions that a vendor's CPUs have and that take longer than what they are to replace: ``cpu`` leaves them out. vdpbf16ps measured 50 GFLOP/s
#: on a core of Emerald Rapids on which multiply-adds of float32 measured 208: there bfloat16 weights are widened instead.
_SLOW = {("GenuineIntel", "avx512_bf16")}

#: The GPU architectures that can be named: compute capability 8.0 is 80.
CUDA_ARCHITECTURES = (80, 86, 89, 90)
WARP_BYTES = 128  # 32 threads of 4 bytes


@dataclass(frozen=True)
class Target:
    """Something to compile for.

    ``features`` are Linux's names of what a machine must have, or a GPU's architectures (``sm_80``); ``vector_bytes`` and
    ``registers`` describe the vector unit; ``llvm`` is TVM's description for LLVM, which operators are legalized for. ``architectures`` are the
    GPU architectures that get code of their own, oldest first: compute capability 9.0 is 90.
    """

    name: str
    arch: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    llvm: dict[str, object] = field(hash=False)
    architectures: tuple[int, ...] = ()

    @property
    def is_cuda(self) -> bool:
        """Whether code is for GPUs."""
        return self.arch == "cuda"

    def lanes(self, dtype_bytes: int) -> int:
        """How many elements a vector register holds."""
        return self.vector_bytes // dtype_bytes

    def has(self, feature: str) -> bool:
        """Whether code may use a feature, by Linux's name: ``has("avx512_vnni")``, ``has("asimddp")``."""
        return feature in self.features


def find(name: str) -> Target:
    """The target of a name given to ``--target``.

    ``cpu`` is this machine with all that it has. ``cpu:LEVEL`` is a level, and ``cpu:LEVEL+EXTENSION+EXTENSION`` also requires extensions, in any
    order; the target's own name has them in one order, so that a machine's target has one name. ``cuda:sm_90`` is a GPU architecture,
    ``cuda:sm_80+sm_90`` several, and ``cuda`` all of :data:`CUDA_ARCHITECTURES`; newer GPUs run code for the newest of them.

    Raises:
        TargetError: There is no such level, or it has no such extension; the message lists what there is.
    """
    if name == "cpu":
        return _host()
    prefix, _, rest = name.partition(":")
    if prefix == "cuda":
        return _cuda(name, rest)
    level, *wanted = rest.split("+")
    if prefix != "cpu" or level not in _LEVELS:
        known = ", ".join(f"cpu:{n}" for n in _LEVELS)
        raise TargetError(f"there is no target '{name}'; the targets are cpu (this machine), {known}, those with extensions such as "
                          "cpu:x86-64-v4+vnni, and for GPUs cuda and cuda:sm_80+sm_90")
    offered = _extensions(level)
    for extension in wanted:
        if extension not in (e.name for e in offered):
            known = ", ".join(e.name for e in offered)
            raise TargetError(f"target '{name}': cpu:{level} has no extension '{extension}'; {f'it can have {known}' if known else 'it has none'}")
    return _build(level, (e for e in offered if e.name in wanted))


def preference(target: Target) -> tuple[int, int, int]:
    """Sorts targets so that the best for a machine comes first."""
    return (-len(target.architectures), -target.vector_bytes, -len(target.features))


def _cuda(name: str, rest: str) -> Target:
    known = {f"sm_{a}": a for a in CUDA_ARCHITECTURES}
    wanted = rest.split("+") if rest else [*known] if name == "cuda" else [""]
    for architecture in wanted:
        if architecture not in known:
            raise TargetError(f"target '{name}': there is no code for '{architecture}'; there is for {', '.join(known)}, one or several as in "
                              "cuda:sm_80+sm_90, and cuda is all of them")
    architectures = tuple(sorted({known[a] for a in wanted}))
    # Operators become loops as for any CPU; nothing of the CPU is left in them.
    llvm = _build("x86-64-v2", ()).llvm
    names = tuple(f"sm_{a}" for a in architectures)
    return Target(f"cuda:{'+'.join(names)}", "cuda", names, WARP_BYTES, 255, llvm, architectures)


def _extensions(level: str) -> tuple[_Extension, ...]:
    return tuple(e for e in _EXTENSIONS if level in e.levels)


def _build(name: str, extensions: Iterable[_Extension]) -> Target:
    level, chosen = _LEVELS[name], tuple(extensions)
    llvm: dict[str, object] = {"kind": "llvm", "mtriple": f"{level.arch}-linux-gnu", "mcpu": level.mcpu}
    attributes = [*(f"+{attribute}" for e in chosen for attribute in e.llvm), *level.attributes]
    if attributes:
        llvm["mattr"] = attributes
    return Target("+".join([f"cpu:{name}", *(e.name for e in chosen)]), level.arch, (*level.features, *(f for e in chosen for f in e.features)),
                  level.vector_bytes, level.registers, llvm)


def _host() -> Target:
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    vendor, features = _host_cpu()
    levels = [name for name, level in _LEVELS.items() if level.arch == arch]
    if not levels:
        raise TargetError(f"Ingot generates code for x86_64 and aarch64; this machine is {arch}")
    best = next((name for name in reversed(levels) if features.issuperset(_LEVELS[name].features)), levels[0])
    return _build(best, (e for e in _extensions(best) if features.issuperset(e.features) and not any((vendor, f) in _SLOW for f in e.features)))


def _host_cpu() -> tuple[str, frozenset[str]]:
    """The vendor of this machine's CPU, "" where Linux names none, and its features."""
    described: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        described.setdefault(key.strip(), value.strip())
    return described.get("vendor_id", ""), frozenset(described.get("flags", described.get("Features", "")).split())
