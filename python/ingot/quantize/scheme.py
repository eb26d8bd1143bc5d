"""What ``--quantize`` names: a format of codes, how many weights share a scale, and what products are computed in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ingot.errors import CompileError
from ingot.lower.cpu.quantized_weights import INT4, INT8, MXFP4, NF4, Format, is_group


@dataclass(frozen=True)
class Scheme:
    """How the weights of products are quantized.

    Attributes:
        name: A key of :data:`SCHEMES`.
        kind: The codes, as the kernel knows them.
        group: How many k share a scale; 0 is a whole output channel.
        asymmetric: Each group has a zero point too.
        powers: Scales are powers of two, uint8 s for 2^(s - 127).
        integers: Products round activations to int8, row by row and group by group, and multiply integers; else they are computed in float32.
    """

    name: str
    kind: Format
    group: int
    asymmetric: bool = False
    powers: bool = False
    integers: bool = True

    @property
    def text(self) -> str:
        """The scheme as it is written, in full."""
        return f"{self.name}:{f'g{self.group}' if self.group else 'row'}:{self.compute}"

    @property
    def compute(self) -> str:
        """The arithmetic of products: ``int8`` or ``float``."""
        return "int8" if self.integers else "float"

    @property
    def scale_dtype(self) -> str:
        """The type of scales. Groups of 4-bit codes have bfloat16: codes are chosen for the rounded scale, so that it costs next to nothing."""
        return "uint8" if self.powers else "bfloat16" if self.group else "float32"


#: The schemes with their defaults. int8 has groups for the activations, whose rows share a scale otherwise: their outliers cost the MiniLM encoder
#: four fifths of what it loses (cosine 0.9976, and 0.9995 with groups of 64). Groups of 32 are those of MatMulNBits and of the Microscaling
#: standard, 64 are QLoRA's; NF4's numbers are not multiples of one another, so that integers would round them once more.
SCHEMES: dict[str, Scheme] = {s.name: s for s in (
    Scheme("int8", INT8, 64),
    Scheme("int4", INT4, 32),
    Scheme("uint4", INT4, 32, asymmetric=True),
    Scheme("nf4", NF4, 64, integers=False),
    Scheme("mxfp4", MXFP4, 32, powers=True),
)}
_COMPUTE = {"int8": True, "float": False}


def parse_kept(text: str | None) -> bool | None:
    """Whether products of weights that are quantized in the model are to round activations to int8, if a text is ``kept:int8`` or ``kept:float``.

    None is for a text that is a scheme, and for none. A CompileError says if another arithmetic is asked for.
    """
    name, _, compute = (text or "").strip().partition(":")
    if name != "kept":
        return None
    if compute not in _COMPUTE:
        raise CompileError(f"quantization '{text}': weights that are quantized in the model take an arithmetic, kept:int8 or kept:float")
    return _COMPUTE[compute]


def parse_scheme(text: str) -> Scheme:
    """The scheme that a text such as ``int8``, ``int4:g128``, ``uint4:row`` or ``int4:g32:float`` names.

    Raises:
        CompileError: There is no such scheme; the message lists those that exist.
    """
    name, *options = text.strip().split(":")
    if name not in SCHEMES:
        raise CompileError(f"there is no quantization '{text}'; they are {', '.join(SCHEMES)}, with a group as in int4:g128 or int4:row, "
                           "and an arithmetic as in int8:float; kept:int8 and kept:float are for weights that are quantized in the model")
    found = SCHEMES[name]
    group, integers = found.group, found.integers
    for option in options:
        if option in _COMPUTE:
            integers = _COMPUTE[option]
        elif option == "row" or re.fullmatch(r"g\d+", option):
            group = 0 if option == "row" else int(option[1:])
            if option == "g0" or not is_group(group):
                raise CompileError(f"quantization '{text}': a group is a power of two of at least 16, such as g32 or g128, or row for a whole "
                                   f"output channel, not {option}")
        else:
            raise CompileError(f"quantization '{text}': '{option}' is neither a group (g16, g32, g64, g128, …, row) nor an arithmetic (int8, float)")
    if found.powers and group != found.group:
        raise CompileError(f"quantization '{text}': groups of {name} are of {found.group} by its standard; write {name}")
    return Scheme(found.name, found.kind, group, found.asymmetric, found.powers, integers)
