"""ingot.hpp: states of a session from C++."""

from __future__ import annotations

import subprocess
from pathlib import Path

import onnx
import pytest

import ingot
from ingot.runtime import _native

MODEL = """
<ir_version: 10, opset_import: ["" : 24]>
g (float[batch, n, 2] new, int64[batch] count, int64[batch] length, float[batch, steps, 2] past_0)
  => (float[batch, 2] total, int64[batch] next_length, float[batch, steps, 2] present_0)
{
  present_0 = TensorScatter<axis=1>(past_0, new, length)
  axes = Constant<value = int64[1] {1}>()
  total = ReduceSum<keepdims=0>(present_0, axes)
  next_length = Add(length, count)
}
"""

PROGRAM = r"""
#include <cassert>
#include <cstdio>
#include <ingot/ingot.hpp>

namespace {

float feed(ingot::Session& session, float value, int64_t rows = 1) {
  std::vector<float> elements(static_cast<size_t>(rows) * 2, value);
  std::vector<int64_t> ones(static_cast<size_t>(rows), 1);
  const std::vector<int64_t> shape = {rows, 1, 2};
  const std::vector<int64_t> batch = {rows};
  session.set_input("new", ingot::tensor(std::span(elements), shape));
  session.set_input("count", ingot::tensor(std::span(ones), batch));
  session.run();
  return session.output<float>("total")[0];
}

}  // namespace

int main(int, char** argv) {
  const ingot::Model model(argv[1]);
  const DLDevice device = model.device();
  for (const ingot::StateInfo& state : model.states())
    std::printf("%s %d %zu\n", std::string(state.name).c_str(), state.kind, state.shape.size());
  std::printf("device %d:%d\n", device.device_type, device.device_id);

  ingot::Session session(model);
  session.set_dimension("batch", 2);
  session.set_dimension("steps", 4);
  session.select_rows(1, 1);
  const float first = feed(session, 3);
  session.select_rows(0, 0);
  session.copy_row(1, 0);
  session.save_states(argv[2]);
  const float both = feed(session, 4, 2);
  ingot::Session fork = session.fork();
  const float forked = feed(fork, 5, 2);
  session.truncate(1);
  const float cut = feed(session, 1, 2);
  std::printf("sums %g %g %g %g\n", first, both, forked, cut);

  std::vector<int64_t> lengths(2);
  session.read_state("length", std::span(lengths));
  session.load_states(argv[2]);
  const int64_t loaded = ingot::elements<int64_t>(session.state("length"))[0];
  std::vector<int64_t> none = {0, 0};
  session.write_state("length", std::span(none));
  std::printf("lengths %ld %ld %ld\n", lengths[0], loaded, ingot::elements<int64_t>(session.state("length"))[1]);
  session.reset();
  session.set_stream(nullptr);
  session.set_output_device("total", device);
  session.synchronize();
  std::printf("again %g, stream %p\n", feed(session, 2, 2), session.stream());
  try {
    session.state("past");
  } catch (const ingot::Error& error) {
    std::printf("%s\n", error.what());
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.ingot"
    ingot.compile(onnx.parser.parse_model(MODEL), path, samples=0, states={"past_0": "present_0", "length": "next_length"}, bounds={"steps": 8})
    return path


def test_states_are_used_from_cpp(artifact: Path, tmp_path: Path) -> None:
    package = Path(_native.__file__).resolve().parents[1]
    (tmp_path / "states.cpp").write_text(PROGRAM)
    program = tmp_path / "states"
    subprocess.run(["c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{package / 'include'}", str(tmp_path / "states.cpp"),
                    str(package / "lib" / "libingot.so"), f"-Wl,-rpath,{package / 'lib'}", "-o", str(program)], check=True)
    done = subprocess.run([str(program), str(artifact), str(tmp_path / "states.bin")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        *(f"{state.name} {['carry', 'cache', 'ring'].index(state.kind)} {len(state.shape)}" for state in ingot.load(artifact).states),
        "device 1:0",
        "sums 3 7 12 4",
        "lengths 2 1 0",
        "again 2, stream (nil)",
        "there is no state 'past'; the model has 'past_0' 'length'",
    ]
