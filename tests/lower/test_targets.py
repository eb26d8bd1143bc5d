"""Targets by name: levels, extensions in any order, and errors that say what there is."""

from __future__ import annotations

import itertools

import pytest

import ingot
from ingot.errors import TargetError
from ingot.lower import targets

EXTENSIONS = {"x86-64-v2": (), "x86-64-v3": ("avx_vnni",), "x86-64-v4": ("vnni", "bf16", "avx_vnni", "amx"), "aarch64": ("dotprod", "i8mm", "bf16")}


@pytest.mark.parametrize("level", EXTENSIONS)
def test_any_extensions_of_a_level_in_any_order_are_one_target(level: str) -> None:
    names = set()
    for count in range(len(EXTENSIONS[level]) + 1):
        for chosen in itertools.permutations(EXTENSIONS[level], count):
            target = targets.find("+".join([f"cpu:{level}", *chosen]))
            assert set(target.name.split("+")[1:]) == set(chosen)
            assert targets.find(target.name) == target
            assert len(target.features) == len(targets.find(f"cpu:{level}").features) + count + 2 * ("amx" in chosen)  # three features
            names.add(target.name)
    assert len(names) == 2 ** len(EXTENSIONS[level])


@pytest.mark.parametrize(("name", "feature", "llvm"), [
    ("cpu:x86-64-v4+vnni", "avx512_vnni", "+avx512vnni"), ("cpu:x86-64-v4+bf16", "avx512_bf16", "+avx512bf16"),
    ("cpu:x86-64-v4+amx", "amx_int8", "+amx-int8"), ("cpu:x86-64-v3+avx_vnni", "avx_vnni", "+avxvnni"),
    ("cpu:aarch64+dotprod", "asimddp", "+dotprod"), ("cpu:aarch64+i8mm", "i8mm", "+i8mm"),
    ("cpu:aarch64+bf16", "bf16", "+bf16")])
def test_an_extension_requires_a_feature_of_the_machine_and_tells_llvm(name: str, feature: str, llvm: str) -> None:
    target = targets.find(name)
    assert target.has(feature) and feature in target.features
    assert llvm in target.llvm["mattr"]  # type: ignore[operator]
    assert not targets.find(name.partition("+")[0]).has(feature)


@pytest.mark.parametrize("level", EXTENSIONS)
def test_an_unknown_extension_is_refused_with_those_that_exist(level: str) -> None:
    known = ", ".join(EXTENSIONS[level]) or "none"
    with pytest.raises(TargetError, match=f"cpu:{level} has no extension 'warp'; it .*{known}"):
        targets.find(f"cpu:{level}+warp")


@pytest.mark.parametrize("name", ["gpu", "cpu:", "cpu:x86-64", "cpu+vnni", "cpu:aarch64-v2", ""])
def test_an_unknown_target_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(TargetError, match=r"cpu:x86-64-v2, cpu:x86-64-v3, cpu:x86-64-v4, cpu:aarch64"):
        targets.find(name)


def test_an_extension_that_only_a_higher_level_has_is_refused() -> None:
    with pytest.raises(TargetError, match="cpu:x86-64-v3 has no extension 'vnni'"):
        targets.find("cpu:x86-64-v3+vnni")


def test_this_machine_is_one_of_the_named_targets_and_the_runtime_finds_the_same_level() -> None:
    here = targets.find("cpu")
    assert targets.find(here.name) == here
    assert ingot.machine()["targets"][0] == here.name.partition("+")[0]
    assert set(here.features) <= set(ingot.machine()["features"])


def test_more_extensions_come_before_fewer_and_wider_vectors_before_narrower() -> None:
    names = ["cpu:x86-64-v4+vnni+bf16", "cpu:x86-64-v4+vnni", "cpu:x86-64-v4", "cpu:x86-64-v3+avx_vnni", "cpu:x86-64-v3", "cpu:x86-64-v2"]
    assert sorted(set(names), key=lambda n: targets.preference(targets.find(n))) == names
