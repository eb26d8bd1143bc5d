"""What the runtime itself costs: its size, loading BERT-base, memory beside the weights, and the overhead of one run from C and from Python.

``python -m benchmarks.footprint``, from the root of the repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import ingot
from tests.cache import zoo_case

_LOAD = r"""
import re, sys, time
from pathlib import Path
import numpy as np
import ingot

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

before = peak()
ingot.load(sys.argv[1])  # maps the file into the page cache
times = []
for _ in range(9):
    start = time.perf_counter()
    model = ingot.load(sys.argv[1])
    times.append(time.perf_counter() - start)
with np.load(sys.argv[2]) as inputs:
    model.run(dict(inputs))
weights = sum(t["nbytes"] for t in model.manifest["weights"]["tensors"])
print(f"BERT-base: warm load {sorted(times)[4] * 1e3:.2f} ms; weights {weights / 1e6:.0f} MB, peak memory of a process that loads and runs it "
      f"{peak():.0f} MB (Python and NumPy alone {before:.0f} MB)")
"""


def main() -> None:
    """Prints each figure."""
    library = ingot.include_dir().parent / "lib" / "libingot.so"
    print(f"libingot.so: {library.stat().st_size / 1e6:.2f} MB")
    case = zoo_case("bert_base")
    subprocess.run([sys.executable, "-c", _LOAD, str(case.artifact), str(case.folder / "inputs-1.npz")], check=True)
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.ingot"
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        ingot.compile(model, empty, samples=0)
        program = Path(folder) / "overhead"
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-std=gnu11", f"-I{ingot.include_dir()}", str(Path(__file__).with_name("overhead.c")),
                        "-o", str(program), f"-L{library.parent}", "-lingot", f"-Wl,-rpath,{library.parent}"], check=True)
        found = subprocess.run([str(program), str(empty)], check=True, capture_output=True, text=True).stdout.strip()
        print(f"one run of an empty model from C: {found} us (median)")
        with ingot.load(empty, threads=1).session() as session:
            inputs = {"x": np.zeros(1, np.float32)}
            times = []
            for _ in range(20000):
                start = time.perf_counter()
                session.run(inputs)
                times.append(time.perf_counter() - start)
        print(f"one run of an empty model from Python: {sorted(times)[len(times) // 2] * 1e6:.2f} us (median)")


if __name__ == "__main__":
    main()
