"""What the innermost loops of generated code are made of, at each level: also where this machine cannot run them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import ingot
from tests.levels.artifacts import compiled
from tests.levels.models import ARM, V4

#: For each target its objdump, the machine that objdump is told, and additions to whole registers of sums, whose group is the register; of a
#: machine with AT&T's syntax it is the last operand. x86-64-v2 has no multiply-add.
FULL_WIDTH = {
    "cpu:x86-64-v2": ("objdump", "i386:x86-64", r"addps .*(%xmm\d+)$", 4),
    "cpu:x86-64-v3": ("objdump", "i386:x86-64", r"vfmadd231ps .*(%ymm\d+)$", 8),
    V4: ("objdump", "i386:x86-64", r"vfmadd231ps .*(%zmm\d+)$", 16),
    "cpu:aarch64": ("aarch64-linux-gnu-objdump", "aarch64", r"fmla (v\d+)\.4s", 4),
    ARM: ("aarch64-linux-gnu-objdump", "aarch64", r"fmla (v\d+)\.4s", 4),
}
STORE = r"v?movu?a?[ps]s %[xyz]mm\d+,.*\(|st[rpu]+ [qsd]\d"
SCALAR = r"v?(mul|add)ss|vfmadd\d+ss|f(madd|mul|add) s"


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    text: str

    @property
    def jump(self) -> int | None:
        """Where it jumps to, if it does."""
        found = re.match(r"(?:j\w+|b|b\.\w+|cbn?z|tbn?z) (?:.*\s)?0x([0-9a-f]+)$", self.text)
        return int(found[1], 16) if found else None


def disassembled(artifact: Path, target: str, folder: Path) -> list[Instruction]:
    """The code that an artifact has for a target."""
    tool, machine, _, _ = FULL_WIDTH[target]
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    opened = ingot.Artifact.open(artifact)
    code = next(t["code"] for t in opened.manifest["targets"] if t["name"] == target)
    (folder / "text").write_bytes(bytes(opened.segment(code["segment"])[: code["text_size"]]))
    printed = subprocess.run([tool, "-D", "-b", "binary", "-m", machine, "--no-show-raw-insn", str(folder / "text")], capture_output=True, text=True,
                             check=True).stdout
    lines = re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", printed, re.MULTILINE)
    return [Instruction(int(address, 16), re.sub(r"\s+", " ", text.split("//")[0]).strip()) for address, text in lines]


def innermost_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The stretches that a jump at their end repeats, without those that hold another; loops that only fetch to caches are none."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    ends: dict[int, int] = {}
    for i, instruction in enumerate(code):
        start = index.get(instruction.jump) if instruction.jump is not None else None
        fetches = start is not None and i - start < 12 and any(f.text.startswith(("prefetch", "prfm")) for f in code[start:i])
        if start is not None and start < i and not fetches:
            ends.setdefault(i, start)
    inner = [(start, end) for end, start in ends.items() if not any(start <= s and e <= end and (s, e) != (start, end) for e, s in ends.items())]
    return [code[start : end + 1] for start, end in inner]


@pytest.mark.parametrize("target", FULL_WIDTH)
def test_matrix_products_multiply_whole_registers_and_keep_their_sums_in_them(target: str, tmp_path: Path) -> None:
    case = compiled("matmul")
    rows, columns = next(re.findall(r"tile (\d+)x(\d+)", step["kernel"])[0] for step in case.steps[target] if "tile" in step.get("kernel", ""))
    _, _, addition, lanes = FULL_WIDTH[target]
    loops = innermost_loops(disassembled(case.path, target, tmp_path))
    sums = [{found[1] for i in loop if (found := re.match(addition, i.text))} for loop in loops]
    of_tile = [loop for loop, registers in zip(loops, sums, strict=True) if len(registers) == int(rows) * int(columns) // lanes]
    assert of_tile, f"no loop adds to {rows} rows of {columns} sums: {[len(s) for s in sums]} registers"
    for loop in of_tile:
        assert not [i.text for i in loop if re.match(STORE, i.text)], "sums leave their registers"
        assert not [i.text for i in loop if re.match(SCALAR, i.text)], "arithmetic on single numbers"


def test_products_of_winograd_and_convolutions_use_512_bits(tmp_path: Path) -> None:
    loops = innermost_loops(disassembled(compiled("conv_winograd").path, V4, tmp_path))
    products = [i.text for loop in loops for i in loop if re.match(r"vfmadd\d+ps", i.text)]
    assert products and all("%zmm" in text for text in products)
