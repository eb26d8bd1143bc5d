"""Runs tests with AddressSanitizer and UndefinedBehaviorSanitizer in libingot: `make test-sanitize`, or this file with pytest's arguments.

libingot and the Python binding are built into build/sanitize and tested in a virtual environment of their own, which sees all packages of
this one but has its own ingot. A run ends at the first finding of a sanitizer, which is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
BUILD, ENVIRONMENT, REPORTS = FOLDER / "build", FOLDER / "venv", FOLDER / "reports"
#: What reaches the runtime and every kernel without compiling a large model.
TESTS = ("tests/kernels", "tests/runtime")
#: GCC's names for what must be loaded before Python: the sanitizers find exceptions only if the C++ library is there too.
PRELOADED = ("libasan.so", "libubsan.so", "libstdc++.so")


def build() -> None:
    """Compiles libingot and the binding for tests: optimized as far as stack traces stay readable."""
    tools = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    jobs = os.environ.get("JOBS", "2")
    for command in (["cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DSKBUILD=ON", f"-DPython_EXECUTABLE={sys.executable}",
                     "-DINGOT_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"],
                    ["cmake", "--build", BUILD, "-j", jobs]):
        subprocess.run([str(part) for part in command], env=tools, check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENT), "platbase": str(ENVIRONMENT)}))
    if not (ENVIRONMENT / "bin" / "python").exists():
        venv.create(ENVIRONMENT, with_pip=False)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a line of a .pth is a path whose own .pth files are not read
    shutil.rmtree(site / "ingot", ignore_errors=True)
    shutil.copytree(ROOT / "python" / "ingot", site / "ingot", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["cmake", "--install", str(BUILD), "--prefix", str(site)], env=tools, check=True, stdout=subprocess.DEVNULL)


def environment() -> dict[str, str]:
    """The variables that sanitized code runs with."""
    def library(name: str) -> str:
        found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        return str(Path(found).resolve())  # libstdc++.so is a link

    # Python frees little at its end, so that leaks are not looked for. pytest keeps what is written to the terminal, and loses it in a crash.
    common = f"log_path={REPORTS / 'report'}"
    return {**os.environ, "LD_PRELOAD": " ".join(map(library, PRELOADED)), "ASAN_OPTIONS": f"detect_leaks=0:{common}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:{common}"}


def main(arguments: list[str]) -> int:
    """Builds, runs pytest, and prints what sanitizers found: pytest's exit code."""
    build()
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    python = str(ENVIRONMENT / "bin" / "python")
    check = "import sys, ingot; sys.exit(not ingot.__file__.startswith(sys.prefix))"
    subprocess.run([python, "-c", check], env=environment(), check=True)
    default = ["-n", os.environ.get("JOBS", "2"), "--dist", "loadgroup", "-m", "not extended", *TESTS]
    done = subprocess.run([python, "-m", "pytest", *(arguments or default)], cwd=ROOT, env=environment(), check=False)
    for report in sorted(REPORTS.iterdir()):
        print(report.read_text(errors="replace"), file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
