"""What ``--quantize`` takes."""

from __future__ import annotations

import pytest

from ingot.errors import CompileError
from ingot.quantize.scheme import SCHEMES, parse_scheme


@pytest.mark.parametrize(("text", "full"), [
    ("int8", "int8:g64:int8"), ("int8:row", "int8:row:int8"), ("int8:float", "int8:g64:float"), ("int4", "int4:g32:int8"),
    ("int4:g128", "int4:g128:int8"), ("uint4:row", "uint4:row:int8"), ("nf4", "nf4:g64:float"), ("nf4:int8", "nf4:g64:int8"),
    ("mxfp4:float", "mxfp4:g32:float"), ("int4:float:g16", "int4:g16:float"), ("mxfp4:g32", "mxfp4:g32:int8")])
def test_a_scheme_has_defaults_and_options_in_any_order(text: str, full: str) -> None:
    found = parse_scheme(text)
    assert found.text == full
    assert parse_scheme(full) == found


def test_an_unknown_scheme_is_refused_with_those_that_exist() -> None:
    with pytest.raises(CompileError) as error:
        parse_scheme("int5")
    assert all(name in str(error.value) for name in SCHEMES)


@pytest.mark.parametrize("group", ["g0", "g8", "g48"])
def test_a_group_is_a_power_of_two_of_at_least_16(group: str) -> None:
    with pytest.raises(CompileError, match="power of two of at least 16"):
        parse_scheme(f"int4:{group}")


def test_an_unknown_option_and_a_group_against_the_standard_are_refused() -> None:
    with pytest.raises(CompileError, match="'fast' is neither a group"):
        parse_scheme("int4:fast")
    with pytest.raises(CompileError, match="groups of mxfp4 are of 32"):
        parse_scheme("mxfp4:g64")
