"""``ingot doctor``: what this machine can do, and what is installed."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import re
import shutil
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ingot.cli import printing

#: Distributions by the name that people know them by.
_PACKAGES = {"ingot": "ingot", "numpy": "numpy", "tvm": "apache-tvm", "onnx": "onnx", "torch": "torch", "transformers": "transformers",
             "onnxruntime": "onnxruntime", "openvino": "openvino"}


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("doctor", help="show instruction sets, caches, bandwidth, peak, versions and CUDA",
                                  description="Shows what this machine can do (measured in about three seconds) and what is installed.")
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from ingot.runtime import machine

    found = {"machine": machine(), "measured": measure(), "versions": versions(), "cuda": cuda()}
    if arguments.json:
        printing.as_json(found)
    else:
        _print(found)
    return 0


def measure() -> list[dict[str, float]]:
    """Read bandwidth in GB/s, and the peaks of fused multiply-adds (f32), of bfloat16 and of byte products in 10^9 operations a second.

    They are measured with one thread and with one for each core.
    """
    from ingot.runtime import machine, measure_bandwidth, measure_bf16, measure_fma, measure_int8

    cores = int(machine().get("cores") or 1)
    return [{"threads": threads, "bandwidth_gb_s": measure_bandwidth(threads).best, "fma_gflop_s": measure_fma(threads).best,
             "bf16_gflop_s": measure_bf16(threads).best, "int8_gop_s": measure_int8(threads).best}
            for threads in dict.fromkeys((1, cores))]


def versions() -> dict[str, str | None]:
    """Versions of what matters, without importing any of it; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def described(machine: Mapping[str, Any]) -> dict[str, str]:
    """What :func:`ingot.runtime.machine` says, as names and values for a person."""
    return {name.replace("_", " "): _caches(value) if name == "caches" else " ".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in machine.items()}


def cuda() -> dict[str, Any]:
    """Whether CUDA code can be compiled here (nvcc) and run here (the driver), and the cuBLASLt that products may be left to."""
    nvcc = shutil.which("nvcc") or next((str(p) for p in [Path("/usr/local/cuda/bin/nvcc")] if p.exists()), None)
    release = re.search(r"release ([\d.]+)", _output([nvcc, "--version"])) if nvcc else None
    version = Path("/proc/driver/nvidia/version")
    driver = re.search(r"(\d+\.\d+[\d.]*)", version.read_text(encoding="ascii", errors="replace")) if version.exists() else None
    return {"nvcc": nvcc, "nvcc_version": release[1] if release else None, "can_compile": release is not None,
            "driver": driver[1] if driver else None, "can_run": driver is not None, "cublaslt": cublaslt()}


def cublaslt() -> str | None:
    """The file and the version of the cuBLASLt that libingot_cuda would load in this process; None without one, or where INGOT_CUBLASLT is 0."""
    named = os.environ.get("INGOT_CUBLASLT")
    for candidate in () if named == "0" else (named,) if named else ("libcublasLt.so.13", "libcublasLt.so.12"):
        try:
            version = ctypes.CDLL(candidate).cublasLtGetVersion
        except (OSError, AttributeError):
            continue
        version.restype = ctypes.c_size_t
        number = int(version())
        return f"{candidate} ({number // 10000}.{number // 100 % 100}.{number % 100})"
    return None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except OSError:
        return ""


def _print(found: Mapping[str, Any]) -> None:
    print("machine")
    for name, text in described(found["machine"]).items():
        print(textwrap.fill(f"{name:<14}{text}", 120, initial_indent="  ", subsequent_indent=" " * 16))
    printing.heading("measured")
    printing.table(["threads", "read bandwidth", "fused multiply-add, f32", "bfloat16 products", "byte products"],
                   [(m["threads"], f"{m['bandwidth_gb_s']:.1f} GB/s", f"{m['fma_gflop_s']:.0f} GFLOP/s", f"{m['bf16_gflop_s']:.0f} GFLOP/s",
                     f"{m['int8_gop_s']:.0f} Gop/s")
                    for m in found["measured"]], right=[0, 1, 2, 3, 4])
    printing.heading("versions")
    printing.fields({name: version or "not installed" for name, version in found["versions"].items()})
    printing.heading("CUDA")
    cuda_ = found["cuda"]
    without = "left out by INGOT_CUBLASLT" if os.environ.get("INGOT_CUBLASLT") == "0" else "not found"
    printing.fields({"compile": f"yes: nvcc {cuda_['nvcc_version']} ({cuda_['nvcc']})" if cuda_["can_compile"] else "no: nvcc was not found",
                     "run": f"yes: driver {cuda_['driver']}" if cuda_["can_run"] else "no: there is no NVIDIA driver",
                     "cuBLASLt": cuda_["cublaslt"] or without})


def _caches(caches: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"L{c['level']} {str(c['type']).lower()} {c['bytes'] // 1024} KiB" for c in caches)
