"""``ingot.compile``: a model in, one .ingot file out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot import _version
from ingot.errors import CompileError, IngotError, InternalError, PrecisionWarning
from ingot.sources import Source, load_source

if TYPE_CHECKING:
    import onnx

    from ingot.artifact.samples import Sample
    from ingot.importer.module import Imported
    from ingot.lower.cpu.choices import Choices
    from ingot.lower.targets import Target
    from ingot.passes.quantize import Quantization
    from ingot.quantize.runner import Runner
    from ingot.tune import Tuner

#: Called as a compile goes: the stage, the part of it that is done (0 to 1, or None if unknown), and what is at hand.
Progress = Callable[[str, "float | None", str], None]

#: A number in as many digits as one can have: stands in the manifest for what is known only when the artifact has run.
_LONGEST = -1.2345678901234567e-300


@dataclass
class CompileReport:
    """What a compile did.

    Attributes:
        path: The artifact.
        size: Its size in bytes.
        targets: The targets in it, best first.
        timings: Seconds that each stage took.
        log: What each pass did, a line each.
        quantization: What ``quantize`` did, as the manifest has it (docs/format.md); None without it.
    """

    path: Path
    size: int = 0
    targets: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    quantization: dict[str, Any] | None = None


def compile(
    model: Any,
    output: str | os.PathLike[str],
    *,
    target: str | Sequence[str] = "cpu",
    precision: str | None = None,
    quantize: str | None = None,
    quantize_include: Sequence[str] = (),
    quantize_exclude: Sequence[str] = (),
    calibration: Iterable[Mapping[str, Any] | str] | None = None,
    quantize_method: str | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    bounds: Mapping[str, int] | None = None,
    samples: int | None = None,
    inputs: Any = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    name: str | None = None,
    constants: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    context: int | None = None,
    cache: str | None = None,
    window: int | None = None,
    sinks: int | None = None,
    tune: bool = False,
    tune_file: str | os.PathLike[str] | None = None,
    tune_threads: int | None = None,
    progress: Progress | None = None,
) -> CompileReport:
    """Compiles a model ahead of time into one file.

    Args:
        model: A path to an ``.onnx`` file, an ``onnx.ModelProto``, a path to a Hugging Face directory, or a ``torch.nn.Module``.
        output: The file to write. It appears only when it is whole.
        target: One target or several (:mod:`ingot.lower.targets`); ``cpu`` is this machine, ``cuda:sm_90`` a GPU, for which nvcc is needed.
        precision: What to compute in: ``f32``; ``bf16`` or ``f16``, which keep the weights of matrix products and convolutions in 16 bits and
            add up in float32 (bf16 also multiplies in bfloat16 where the CPU does; on a GPU what lies between products has 16 bits too);
            ``tf32``, which rounds what a GPU multiplies to 10 bits of fraction; None keeps the model's own types. Whatever is given, a
            float64 model is computed in float32; with None it is computed in float64, and a :class:`~ingot.errors.PrecisionWarning` says so.
        quantize: How to quantize the constant weights of matrix products: ``int8``, ``int4``, ``uint4``, ``nf4`` or ``mxfp4``, with a group as in
            ``int4:g128`` and an arithmetic as in ``int8:float`` (docs/quantization.md); with ``calibration`` ``int8`` quantizes convolutions
            too. What is lost goes into the artifact. ``kept:int8`` and ``kept:float`` quantize nothing and give the arithmetic of weights that
            are quantized in the model.
        quantize_include: Patterns of names of ONNX nodes or weights, such as ``*/mlp/*``: only these are quantized.
        quantize_exclude: Patterns of those that are not.
        calibration: Real inputs by name, some tens or hundreds of cases, on which the model is run: what ``quantize_method`` looks at. A decoder's
            directory also takes texts.
        quantize_method: ``nearest``, ``gptq``, ``awq``, ``awq+gptq``, ``smoothquant``, … (docs/quantization.md); by default GPTQ with ``calibration``
            and the nearest code without.
        shapes: For inputs by name, extents or symbol names that replace the declared ones.
        bounds: For symbolic dimensions by name, the largest extent: memory is then planned once, for the bounds.
        samples: How many reference samples to store for ``ingot verify``; by default one, but none of a language model's directory, whose framework
            would have to hold the whole model in memory. One that has any does not choose tokens itself (docs/architecture.md, "GPUs").
        inputs: For a ``torch.nn.Module``: example inputs, a tuple or a dict of tensors.
        dynamic_shapes: For a ``torch.nn.Module``: as ``torch.export`` takes them; by default batch and sequence are symbolic.
        input_names: For a ``torch.nn.Module``: names of its inputs.
        output_names: For a ``torch.nn.Module``: names of its outputs.
        name: The model's name in the artifact; by default that of its file or class.
        constants: For inputs by name, arrays that become part of the model, which then lacks those inputs.
        states: What a session remembers from run to run: outputs by the inputs that they become. By default pairs whose names say so (``past_0`` and
            ``present_0``); an empty mapping keeps all of them as inputs and outputs.
        context: For a language model's directory: the most tokens that its caches can hold; by default as many as it was trained for, and any
            number with ``window``.
        cache: For a language model's directory: the type of its caches, ``f32`` (default), ``f16``, ``bf16``, ``int8``, or for GPUs ``fp8``.
        window: For a language model's directory: how many tokens its layers see at most (those with a shorter window keep that). Their caches are
            rings, and texts may be of any length.
        sinks: How many of a text's first tokens stay in sight beside ``window``, as in StreamingLLM; by default none.
        tune: Measure the best candidates for each matrix product and convolution on this machine, and remember what was fastest.
        tune_file: A file of tuning results. With ``tune``, where they are remembered, by default ``ingot/tuning.json`` in the user's cache folder;
            without, results to use as they are, measuring nothing. If neither is given, no earlier result decides anything.
        tune_threads: Threads to measure with; by default one for each core.
        progress: Called as stages advance.

    Raises:
        TargetError: There is no such target, or one is to be tuned that this machine cannot run.
        CompileError: The model is malformed or asks for something that does not exist.
        UnsupportedError: The model uses something that Ingot does not implement.
        FileError: A file is missing.
    """
    from ingot.importer.model import import_model
    from ingot.importer.single import single_precision, uses_float64
    from ingot.lower import targets
    from ingot.passes.settings import PRECISIONS
    from ingot.quantize.method import parse_method
    from ingot.quantize.scheme import parse_kept, parse_scheme

    kept = parse_kept(quantize)
    scheme = parse_scheme(quantize) if quantize is not None and kept is None else None
    if scheme is None and (quantize_include or quantize_exclude or calibration is not None or quantize_method is not None):
        raise CompileError("quantize_include, quantize_exclude, calibration and quantize_method are options of quantize, which "
                           f"{'was not given' if quantize is None else f'quantizes nothing as {quantize}'}")
    method = parse_method(quantize_method, calibration is not None)
    if precision is not None and precision not in PRECISIONS:
        raise CompileError(f"there is no precision '{precision}'; they are {', '.join(PRECISIONS)}")
    wanted = sorted({targets.find(t) for t in ([target] if isinstance(target, str) else target)}, key=targets.preference)
    if not wanted:
        raise CompileError("no target was given")
    tuner = _tuner(tune, tune_file, tune_threads, wanted)
    report = CompileReport(Path(output), targets=[t.name for t in wanted])
    stages = _Stages(report, progress)
    with tempfile.TemporaryDirectory(prefix="ingot-") as folder:
        with stages("export"):
            # On a GPU, a language model chooses tokens itself. Samples are of logits: tokens would differ where rounding decides.
            load = partial(load_source, model, Path(folder), inputs, dynamic_shapes, input_names, output_names, context, window=window, sinks=sinks,
                           chooses=any(t.is_cuda for t in wanted) and not samples)
            source = load(cache, cpus=[t.name for t in wanted if not t.is_cuda])
        if uses_float64(source.model):
            if precision is None:
                warnings.warn(f"{source.label}: the model computes in float64, more slowly than in float32; --precision f32 computes in float32",
                              PrecisionWarning, stacklevel=2)
            else:
                source.model = single_precision(source.model)

        def imported_from(model: onnx.ModelProto) -> Imported:
            made = import_model(model, source=source.label, base_dir=source.folder, shapes=shapes, constants=constants,
                                states=states if states is not None else source.states)
            made.bounds.update({**source.bounds, **_checked_bounds(bounds, made)})
            return made

        with stages("import"):
            imported = imported_from(source.model)
        with stages("samples"):
            cases = _samples(source, imported, source.samples if samples is None else samples, Path(folder), report)
        quantization = None
        if kept is not None:
            from ingot.importer.quantized import with_arithmetic

            with_arithmetic([w for weights in imported.weights_of().values() for w in weights], kept)
        if scheme is not None:
            from ingot.passes.products import Selection
            from ingot.quantizing import Request
            from ingot.quantizing import quantize as quantized

            def runnable() -> tuple[Source, Runner]:
                """This machine's CPU runs it, which lacks some types of caches. Nodes have the same names with others."""
                from ingot.export.decoder import GPU_CACHE_TYPES

                run = load(None) if cache in GPU_CACHE_TYPES else source
                return run, _runner(run, imported, Path(folder))

            selection = Selection(tuple(quantize_include), tuple(quantize_exclude))
            imported, quantization = quantized(Request(scheme, method, selection, calibration, constants or {}), source, imported, imported_from,
                                               runnable, Path(folder), stages)
        built = _build(imported, wanted, precision or "f32", stages, report, tuner)
        with stages("write weights"):
            report.size = _write(report.path, name or source.name, source, imported, built, cases, stages, quantization, report)
    return report


class _Stages:
    """Times stages and tells about them."""

    def __init__(self, report: CompileReport, progress: Progress | None) -> None:
        self._report = report
        self._progress = progress or (lambda stage, fraction, detail: None)
        self._current = ""

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._current = stage
        self._progress(stage, 0.0, "")
        start = time.perf_counter()
        try:
            yield
        except (IngotError, MemoryError, OSError):
            raise
        except Exception as error:  # of TVM, say: what it says is kept, and whoever catches Ingot's errors catches it
            what = str(error).strip().partition("\n")[0]
            raise InternalError(f"a defect of Ingot, please report it with the model: {stage}: {type(error).__name__}: {what}") from error
        finally:
            self._report.timings[stage] = self._report.timings.get(stage, 0.0) + time.perf_counter() - start
        self._progress(stage, 1.0, "")

    def advance(self, fraction: float | None, detail: str) -> None:
        """Tells how far the current stage is."""
        self._progress(self._current, fraction, detail)


def _runner(source: Source, imported: Imported, folder: Path) -> Runner:
    """What runs the model on calibration data."""
    from ingot.export.decoder.pieces import DOMAIN
    from ingot.importer.model import import_model
    from ingot.lower import targets
    from ingot.quantize.runner import Itself, Onnxruntime

    if not any(node.domain == DOMAIN for node in source.model.graph.node):
        return Onnxruntime(source.model, source.folder)

    def build(model: onnx.ModelProto, path: Path) -> None:
        quiet = CompileReport(path)
        stages = _Stages(quiet, None)
        whole = import_model(model, source=source.label, base_dir=source.folder, states=source.states)
        whole.bounds.update(imported.bounds)
        _write(path, "calibration", None, whole, _build(whole, [targets.find("cpu")], "f32", stages, quiet), ([], ""), stages)

    # Which tokens a model chooses says nothing of what was lost.
    return Itself(source.model, [*(source.states or {}).values(), "tokens"], build, folder / "calibration.ingot")


def _checked_bounds(bounds: Mapping[str, int] | None, imported: Imported) -> dict[str, int]:
    names = [s.name for s in imported.symbols]
    for name, bound in (bounds or {}).items():
        if name not in names:
            raise CompileError(f"there is no symbolic dimension '{name}' to bound; they are {', '.join(names) or 'none'}")
        if bound < 1:
            raise CompileError(f"the bound of '{name}' is {bound}; it must be at least 1")
    return dict(bounds or {})


def _samples(source: Source, imported: Imported, count: int, folder: Path, report: CompileReport) -> tuple[list[Sample], str]:
    from ingot.artifact.reference import make_samples

    if count == 0:
        return [], ""
    cases, reference, note = make_samples(source.model, source.folder, imported, count, folder, source.reference, source.reference_name,
                                          source.examples)
    if note:
        report.log.append(f"samples: {note}")
    return cases, reference


@dataclass
class _Built:
    """One target's code and program."""

    target: Any
    image: Any
    program: dict[str, Any]


def _tuner(tune: bool, tune_file: str | os.PathLike[str] | None, tune_threads: int | None, wanted: Sequence[Target]) -> Tuner | None:
    if not tune and tune_file is None:
        return None
    from ingot.tune import Tuner, default_file

    tuner = Tuner(Path(tune_file) if tune_file is not None else default_file(), tune, tune_threads)
    tuner.check(wanted)
    return tuner


def _tuned(tuner: Tuner, imported: Imported, target: Target, precision: str, stages: _Stages, report: CompileReport) -> Choices:
    """The tuner's choices for a model."""
    from ingot.passes.pipeline import optimize
    from ingot.passes.settings import Settings
    from ingot.tune import Recorder

    def build(trials: Imported, choices: Choices, path: Path) -> None:
        quiet = CompileReport(path)
        built = _build(trials, [target], precision, _Stages(quiet, None), quiet, choices=choices)
        _write(path, "trials", None, trials, built, ([], ""), _Stages(quiet, None))

    recorder = Recorder.of(target)
    optimize(imported, Settings(target, precision, recorder))
    return tuner.choices(target, recorder.problems, build, stages.advance, lambda line: report.log.append(f"{target.name}: tune: {line}"))


def _build(imported: Imported, wanted: Sequence[Target], precision: str, stages: _Stages, report: CompileReport, tuner: Tuner | None = None,
           choices: Choices | None = None) -> tuple[list[_Built], list[Any]]:
    from tvm import tirx

    from ingot.artifact.link import link
    from ingot.lower.cpu.codegen import generate
    from ingot.lower.cpu.schedule import schedule
    from ingot.lower.cuda import codegen as cuda_code
    from ingot.lower.cuda import nvcc
    from ingot.lower.cuda import schedule as cuda
    from ingot.lower.cuda.registry import on_host
    from ingot.lower.program import ProgramBuilder, WeightTable
    from ingot.passes.pipeline import optimize
    from ingot.passes.settings import Settings

    if any(t.is_cuda for t in wanted):
        nvcc.find_nvcc()  # or say so before the work
    weights = WeightTable()
    built = []
    for number, target in enumerate(wanted):
        if tuner is not None and not target.is_cuda:
            with stages("tune"):
                choices = _tuned(tuner, imported, target, precision, stages, report)
        with stages("optimize"):
            lines: list[str] = []
            optimized = optimize(imported, Settings(target, precision, choices), lines.append)
            report.log += [f"{target.name}: {line}" for line in lines]
        with stages("lower"):
            functions = {gv.name_hint: f for gv, f in optimized.mod.functions.items() if isinstance(f, tirx.PrimFunc)}
            if target.is_cuda:
                cuda.refuse_strings(imported, functions.values())
            scheduled: dict[str, Any] = {}
            for index, (name, function) in enumerate(functions.items()):
                stages.advance(index / len(functions), name)
                scheduled[name] = cuda.schedule(function) if target.is_cuda else schedule(function, target)
            program = ProgramBuilder(optimized, imported, scheduled, weights, on_host if target.is_cuda else None).build()
        with stages("generate code"):
            stages.advance(number / len(wanted), f"{len(scheduled)} functions for {target.name}")
            image: Any = (cuda_code.generate(scheduled, target) if target.is_cuda
                          else link(generate({name: s.function for name, s in scheduled.items()}, target)))
        report.log.append(f"{target.name}: {len(scheduled)} functions, {sum(map(len, image.pieces()))} bytes of code")
        built.append(_Built(target, image, program))
    return built, weights.weights


def _write(path: Path, name: str, source: Source | None, imported: Imported, built: tuple[list[_Built], list[Any]],
           samples: tuple[list[Sample], str], stages: _Stages, quantization: Quantization | None = None,
           report: CompileReport | None = None) -> int:
    from ingot.artifact import write
    from ingot.quantize.loss import measure, placeholder, tolerance

    targets, weights = built
    cases, reference = samples
    layout = write.Layout()
    manifest: dict[str, Any] = {
        "format": write.VERSION,
        "producer": {"ingot": _version.__version__, "tvm": _installed("apache-tvm"), "onnx": _installed("onnx")},
        "model": {"name": name, **(source.metadata if source is not None else {}), **imported.metadata},
        "dims": [{"name": s.name, "max": imported.bounds.get(s.name)} for s in imported.symbols],
        "inputs": [write.tensor_entry(s) for s in imported.inputs],
        "outputs": [write.tensor_entry(s) for s in imported.outputs],
        **imported.state_entries(write.tensor_entry),
        "weights": {"segment": len(targets) + 1, "tensors": [layout.weight(w) for w in weights]},
        "targets": [write.target_entry(b.target, b.image, b.program, segment) for segment, b in enumerate(targets, 1)],
    }
    if cases:
        manifest["samples"] = {"segment": len(targets) + 2, "reference": reference, "cases": layout.samples(cases)}
    assets = {} if source is None else source.assets
    if source is not None and source.generation is not None:
        manifest["generation"] = dict(source.generation)
    if assets:
        manifest["assets"] = {"segment": len(targets) + 2 + bool(cases), "files": [layout.asset(n, p) for n, p in assets.items()]}
    if quantization is not None:
        manifest["quantization"] = {**quantization.entry(), "loss": placeholder(cases, quantization.examples)}
        if cases:
            manifest["samples"] |= {"tolerance": _LONGEST, "tolerance_source": "estimated"}
    with write.replacing(path) as file:
        writer = write.Writer(file, len(write.encode(manifest)), len(targets) + 1 + bool(cases) + bool(assets))
        for b in targets:
            with writer.segment(write.CODE) as put:
                for piece in b.image.pieces():
                    put(piece)
        with writer.segment(write.WEIGHTS) as put:
            for index, (weight, entry) in enumerate(zip(weights, manifest["weights"]["tensors"], strict=True)):
                stages.advance(index / len(weights), weight.name)
                write.put_weight(put, weight, entry)
        if cases:
            with writer.segment(write.SAMPLES) as put:
                write.put_samples(put, cases)
        if assets:
            with writer.segment(write.ASSETS) as put:
                for asset in assets.values():
                    put(asset.read_bytes())
        size = writer.finish(manifest)
        if quantization is not None:
            file.flush()
            # The file has no name yet that lasts; this one is of the open file.
            loss = measure(Path(f"/proc/self/fd/{file.fileno()}"), cases, quantization.examples) \
                if cases or quantization.examples else None
            manifest["quantization"]["loss"] = loss
            if cases:
                found, origin = tolerance(loss, quantization.layers, quantization.scheme.integers)
                manifest["samples"] |= {"tolerance": found, "tolerance_source": origin}
            if report is not None:
                report.quantization = manifest["quantization"]
            writer.finish(manifest)
        return size


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
