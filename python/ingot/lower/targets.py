"""The targets that Ingot compiles for: names, what they require of a machine, and how LLVM is told."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ingot.errors import TargetError

#: What each x86-64 level adds, in Linux's names (/proc/cpuinfo); x86-64 psABI, section 3.1.1.
_LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64-v2": ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"),
    "x86-64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
#: Extensions beyond the levels that generated code can use: Linux's name → LLVM's.
_EXTENSIONS: dict[str, dict[str, str]] = {
    "x86_64": {"avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx_vnni": "avxvnni"},
    "aarch64": {"asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"},
}
_ALWAYS_AARCH64 = ("fp", "asimd")


@dataclass(frozen=True)
class Target:
    """Something to compile for.

    ``features`` are Linux's names of what a machine must have; ``vector_bytes`` and ``registers`` describe its vector unit;
    ``threads`` is the number of threads that schedules divide work for at the least.
    """

    name: str
    arch: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    llvm: dict[str, object] = field(hash=False)

    def lanes(self, dtype_bytes: int) -> int:
        """How many elements a vector register holds."""
        return self.vector_bytes // dtype_bytes


def _x86(level: str, extensions: tuple[str, ...] = (), name: str | None = None) -> Target:
    levels = list(_LEVELS)
    required = tuple(f for known in levels[: levels.index(level) + 1] for f in _LEVELS[known])
    attributes = [f"+{_EXTENSIONS['x86_64'][e]}" for e in extensions]
    if level == "x86-64-v4":
        attributes.append("-prefer-256-bit")  # LLVM's generic tuning for v4 avoids the registers that schedules count on
    llvm: dict[str, object] = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": level}
    if attributes:
        llvm["mattr"] = attributes
    wide = {"x86-64-v2": (16, 16), "x86-64-v3": (32, 16), "x86-64-v4": (64, 32)}[level]
    return Target(name or f"cpu:{level}", "x86_64", required + extensions, *wide, llvm)


def _aarch64(extensions: tuple[str, ...] = (), name: str = "cpu:aarch64") -> Target:
    attributes = ["+neon", *(f"+{_EXTENSIONS['aarch64'][e]}" for e in extensions)]
    llvm: dict[str, object] = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic", "mattr": attributes}
    return Target(name, "aarch64", _ALWAYS_AARCH64 + extensions, 16, 32, llvm)


def _host() -> Target:
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    features = _host_features()
    extensions = tuple(e for e in _EXTENSIONS.get(arch, {}) if e in features)
    suffix = "".join(f"+{e.replace('avx512_', '')}" for e in extensions)
    if arch == "aarch64":
        return _aarch64(extensions, f"cpu:aarch64{suffix}")
    if arch != "x86_64":
        raise TargetError(f"Ingot generates code for x86_64 and aarch64; this machine is {arch}")
    best = "x86-64-v2"
    for level, required in _LEVELS.items():
        if not features.issuperset(required):
            break
        best = level
    if best != "x86-64-v4":
        extensions = tuple(e for e in extensions if not e.startswith("avx512"))
        suffix = "".join(f"+{e}" for e in extensions)
    return _x86(best, extensions, f"cpu:{best}{suffix}")


def _host_features() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


_TARGETS: dict[str, Callable[[], Target]] = {
    "cpu": _host,
    "cpu:x86-64-v2": lambda: _x86("x86-64-v2"),
    "cpu:x86-64-v3": lambda: _x86("x86-64-v3"),
    "cpu:x86-64-v4": lambda: _x86("x86-64-v4"),
    "cpu:aarch64": _aarch64,
}


def find(name: str) -> Target:
    """The target of a name given to ``--target``; ``cpu`` is this machine."""
    if name not in _TARGETS:
        raise TargetError(f"there is no target '{name}'; the targets are {', '.join(_TARGETS)}")
    return _TARGETS[name]()


def preference(target: Target) -> tuple[int, int]:
    """Sorts targets so that the best for a machine comes first."""
    return (-target.vector_bytes, -len(target.features))
