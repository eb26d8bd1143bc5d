"""``ingot inspect``: what is in an artifact. Nothing of it runs."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Mapping
from typing import Any

from ingot.cli import options, printing, quantization
from ingot.cli.program import Function, functions_of, names_of
from ingot.errors import TargetError


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("inspect", help="show inputs, outputs, targets, sizes, memory and the kernel of each node",
                                  description="Shows what is in an artifact, of any target, without running it.")
    options.add_artifact(command)
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.add_argument("--dims", action="append", type=options.assignments, metavar="batch=8,...",
                         help="extents of symbolic dimensions to plan memory for (default: their bounds)")
    command.add_argument("--target", metavar="NAME", help="whose steps to show (default: the best for this machine, else the first)")
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    found = describe(arguments.artifact, options.merged(arguments.dims), arguments.target)
    if arguments.json:
        printing.as_json(found)
    else:
        _print(found)
    return 0


def describe(path: str, dims: Mapping[str, int], target: str | None = None) -> dict[str, Any]:
    """Everything that ``ingot inspect`` shows, as JSON values."""
    from ingot.runtime import Artifact

    artifact = Artifact.open(path)
    manifest = artifact.manifest
    options.known_dims(dict(dims), manifest["dims"])
    targets = {t["name"]: t for t in manifest["targets"]}
    if target is not None and target not in targets:
        raise TargetError(f"{path}: there is no target '{target}'; the artifact has {', '.join(targets)}")
    best = artifact.best_target
    shown = targets[target or best or next(iter(targets))]
    weights = manifest.get("weights", {}).get("tensors", [])
    samples = manifest.get("samples") or {}
    return {
        "file": path, "size": os.path.getsize(path), "format": manifest["format"], "model": manifest["model"], "producer": manifest["producer"],
        "inputs": manifest["inputs"], "outputs": manifest["outputs"], "states": manifest.get("states", []), "dims": manifest["dims"],
        "weights": {"tensors": len(weights), "bytes": sum(w["nbytes"] for w in weights)},
        "samples": {"cases": len(samples.get("cases", [])), "reference": samples.get("reference")},
        "targets": [{"name": t["name"], "arch": t["arch"], "features": t["features"], "functions": len(t["code"].get("functions", {})),
                     "code_bytes": t["code"].get("text_size", 0) + t["code"].get("data_size", 0) + t["code"].get("size", 0),
                     "architectures": t["code"].get("architectures"), "ptx": t["code"].get("ptx"), "segment": t["code"].get("segment")}
                    for t in manifest["targets"]],
        "quantization": manifest.get("quantization"),
        "best_target": best,
        "memory": _memory(path, dims, manifest, best),
        "shown_target": shown["name"],
        "rows": shown["program"].get("rows"),
        "steps": _steps(shown["program"], shown["code"].get("functions", {})),
    }


def _memory(path: str, given: Mapping[str, int], manifest: Mapping[str, Any], best: str | None) -> dict[str, Any] | None:
    """The plan's size at the given or bounded extents; None where they or a machine to plan for are missing."""
    from ingot.runtime import Model

    dims = {d["name"]: given.get(d["name"], d["max"]) for d in manifest["dims"]}
    if best is None or any(extent is None for extent in dims.values()):
        return None
    return {"dims": dims, "bytes": Model.load(path).memory(**dims)}


def _steps(program: Mapping[str, Any], code: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = names_of(program)
    found = []
    for name, function in zip(names, functions_of(program), strict=True):
        for index, step in enumerate(function.steps):
            found.append({"function": name, "step": index, "op": step["op"], "runs": function.runs(step, names), "kernel": step.get("kernel"),
                          "outputs": function.outputs(step), "node": step.get("node", ""), **_placed(function, step, code)})
    return found


def _placed(function: Function, step: Mapping[str, Any], code: Mapping[str, Any]) -> dict[str, Any]:
    """Of a step in a program for a GPU: that it runs on the CPU, or how its kernels are launched."""
    if step.get("host"):
        return {"host": True}
    entry = code.get(step.get("function", ""))
    return {"launches": function.launches(step, entry)} if isinstance(entry, Mapping) else {}


def _runs(step: Mapping[str, Any]) -> str:
    """What a step runs, for the table."""
    if step.get("host"):
        return f"{step['runs']} (on the CPU)"
    if "launches" not in step:
        return str(step["runs"])
    return f"{step['runs']}; " + ", ".join(_launch(launch) for launch in step["launches"])


def _launch(launch: Mapping[str, Any]) -> str:
    """A launch in few words: blocks, threads of each, registers of a thread, shared memory of a block."""
    grid, block = (" x ".join(str(e) for e in launch[side] if str(e) != "1") or "1" for side in ("grid", "block"))
    return f"{grid if grid.isdigit() else f'({grid})'} blocks of {block}" + "".join(
        f", {launch[key]} {what}" for key, what in (("registers", "registers"), ("spills", "bytes spilled"), ("shared", "bytes shared"))
        if launch.get(key))


def _print(found: Mapping[str, Any]) -> None:
    model = found["model"]
    print(f"{found['file']}: {model.get('name', '')}, {printing.size(found['size'])}, format {found['format']}")
    printing.fields({
        "from": ", ".join(_provenance(model)),
        "made by": ", ".join(f"{k} {v}" for k, v in found["producer"].items()),
        "weights": f"{printing.size(found['weights']['bytes'])} in {found['weights']['tensors']} tensors",
        "samples": f"{found['samples']['cases']}, by {found['samples']['reference']}" if found["samples"]["cases"] else "none"})
    for side in ("inputs", "outputs"):
        printing.heading(side)
        printing.table(["name", "dtype", "shape"], [(t["name"], t["dtype"], printing.shape(t["shape"])) for t in found[side]])
    if found["states"]:
        printing.heading("states")
        printing.table(["name", "dtype", "shape", "kind"], [(t["name"], t["dtype"], printing.shape(t["shape"]),
                                                             "ring" if t.get("ring") else t["kind"]) for t in found["states"]])
    if found["dims"]:
        printing.heading("symbolic dimensions")
        printing.table(["name", "largest", ""], [(d["name"], "any" if d["max"] is None else d["max"],
                                                  "large ones in pieces" if d["name"] == found["rows"] else "") for d in found["dims"]])
    printing.heading("targets")
    printing.table(["name", "code", "functions", ""], [
        (t["name"], printing.size(t["code_bytes"]), t["functions"], "loads on this machine" if t["name"] == found["best_target"] else "")
        for t in found["targets"]], right=[1, 2])
    for t in found["targets"]:
        print(textwrap.fill(_needs(t), 120, initial_indent="  ", subsequent_indent="    "))
    if not found["best_target"]:
        print("  none of them can run on this machine")
    if found["quantization"]:
        printing.heading("quantization")
        quantization.summary(found["quantization"])
        quantization.layers(found["quantization"])
    printing.heading("memory of one session")
    memory = found["memory"]
    if memory:
        at = ", ".join(f"{name}={extent}" for name, extent in memory["dims"].items())
        print(f"  {printing.size(memory['bytes'])}" + (f" at {at}" if at else ""))
    else:
        unbounded = ",".join(f"{d['name']}=8" for d in found["dims"] if d["max"] is None)
        print(f"  depends on the extents: --dims {unbounded}" if found["best_target"] else "  is planned on a machine that can run the model")
    printing.heading(f"steps of {found['shown_target']}")
    several = len({s["function"] for s in found["steps"]}) > 1
    printing.table(["step", "runs", "gives", "from"], [
        (f"{s['function']} {s['step']}" if several else s["step"], _runs(s), " ".join(s["outputs"]), s["node"]) for s in found["steps"]])


def _needs(target: Mapping[str, Any]) -> str:
    """What a target needs of a machine."""
    if target["arch"] != "cuda":
        return f"{target['name']} needs {target['arch']}: {' '.join(target['features'])}"
    newer = f", and PTX for GPUs newer than sm_{target['ptx']}" if target["ptx"] else ""
    return f"{target['name']} needs an NVIDIA GPU: it has code for {', '.join(f'sm_{a}' for a in target['architectures'])}{newer}"


def _provenance(model: Mapping[str, Any]) -> list[str]:
    """Where a model came from, in a few words: framework, class or file, exporter, operator sets."""
    framework = " ".join(str(model[k]) for k in ("framework", "framework_version") if model.get(k))
    named = [str(model[k]) for k in ("class", "file", "producer") if model.get(k)]
    opsets = model.get("opset") or {}
    versions = [f"opset {version}" + (f" of {domain}" if domain else "") for domain, version in opsets.items()] if isinstance(opsets, Mapping) else []
    return [part for part in (framework, *named, *versions) if part]
