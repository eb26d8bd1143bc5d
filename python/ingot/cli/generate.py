"""``ingot generate``: text from a language model, a translator or a model of speech, as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ingot.cli import options, printing
from ingot.errors import InputError

#: Options that are passed on as they are: name, type, what it is.
_SAMPLING: tuple[tuple[str, Any, str], ...] = (
    ("temperature", float, "0 (default) takes the likeliest token, more is more random"),
    ("top-k", int, "only the K likeliest tokens"),
    ("top-p", float, "only the likeliest tokens whose probabilities add up to P"),
    ("min-p", float, "only tokens at least this share as likely as the likeliest"),
    ("repetition-penalty", float, "makes tokens of the text less likely; 1 is none"),
    ("presence-penalty", float, "subtracted from logits of generated tokens"),
    ("frequency-penalty", float, "subtracted for each time that a token was generated"),
    ("seed", int, "of the random numbers"),
)
#: Options of encoder-decoder models: name, what they are called there, type, what it is.
_SEARCH: tuple[tuple[str, str, Any, str], ...] = (
    ("beams", "num_beams", int, "beam search with N beams (default of these: what the model's settings say)"),
    ("length-penalty", "length_penalty", float, "of beam search: more favors longer texts"),
    ("return-sequences", "num_return_sequences", int, "how many texts of beam search to show, with their scores"),
    ("language", "language", str, "of speech, such as en (default: what the model hears)"),
    ("task", "task", str, "of speech: transcribe, or translate into English"),
)


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("generate", help="generate text with a compiled language model, translator or model of speech",
                                  description="Generates text with a model that was compiled from a Hugging Face directory: a language model goes on "
                                  "with a prompt, a translator reads it, Whisper listens to a sound. The text goes to stdout as it comes, times to "
                                  "stderr.")
    options.add_artifact(command)
    command.add_argument("--prompt", metavar="TEXT", help="what the text starts with; - reads it from stdin")
    command.add_argument("--tokens", metavar="1,2,3", help="token ids in place of a text")
    command.add_argument("--audio", type=Path, metavar="FILE", help="a WAV file to write down, of 16 kHz, with a model of speech")
    command.add_argument("--chat", action="store_true", help="the prompt is a user's message for the model's chat template")
    command.add_argument("--system", metavar="TEXT", help="with --chat: the system's message before it")
    command.add_argument("--max-new-tokens", type=options.positive, metavar="N",
                         help="the most tokens to generate (default: 128, or what an encoder-decoder model's settings say)")
    command.add_argument("--context", type=options.positive, metavar="N", help="the most tokens, prompt included (default: the artifact's bound)")
    command.add_argument("--stop", action="append", default=[], metavar="TEXT", help="the text ends before it")
    command.add_argument("--lookup", type=options.count, default=0, metavar="N", help="draft N tokens at a time from what the text holds already")
    command.add_argument("--json-schema", type=Path, metavar="FILE", help="the text is JSON of this schema")
    command.add_argument("--grammar", type=Path, metavar="FILE", help="the text follows this grammar (Lark's notation)")
    command.add_argument("--regex", metavar="PATTERN", help="the text matches it")
    for name, kind, text in _SAMPLING:
        command.add_argument(f"--{name}", type=kind, metavar=name[-1].upper(), help=text)
    for name, _, kind, text in _SEARCH:
        command.add_argument(f"--{name}", type=kind, metavar=name[-1].upper(), help=text)
    command.add_argument("--timestamps", action="store_true", help="of speech: show when each segment is said")
    command.add_argument("--json", type=Path, metavar="FILE", help="write tokens and times")
    options.add_machine(command)
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from ingot.runtime import Model

    model = Model.load(arguments.artifact, threads=arguments.threads, target=arguments.target)
    more = {key: getattr(arguments, key) for key in (name.replace("-", "_") for name, _, _ in _SAMPLING)}
    more |= {key: getattr(arguments, name.replace("-", "_")) for name, key, _, _ in _SEARCH}
    more = {key: value for key, value in more.items() if value is not None} | ({"timestamps": True} if arguments.timestamps else {})
    generation = model.generate(_prompt(arguments), max_new_tokens=arguments.max_new_tokens, stop=arguments.stop, lookup=arguments.lookup,
                                context=arguments.context, json_schema=_read(arguments.json_schema), grammar=_read(arguments.grammar),
                                regex=arguments.regex, **more)
    shown = bool(model.asset("tokenizer.json"))
    if (arguments.return_sequences or 1) > 1 or arguments.timestamps:
        generation.wait()
        for hypothesis in generation.sequences:
            print(f"{hypothesis.score:.4f}\t{_shown(hypothesis, shown)}")
        for segment in generation.segments:
            print(f"{segment.start:.2f}\t{segment.end:.2f}\t{_shown(segment, shown)}")
    else:
        for number, token in enumerate(generation):
            sys.stdout.write(token.text if shown else f"{',' if number else ''}{token.id}")
            sys.stdout.flush()
        print()
    stats = generation.stats
    print(f"{stats.prompt_tokens} tokens of prompt in {printing.duration(stats.time_to_first_token)} "
          f"({stats.prefill_tokens_per_second:.1f} tokens/s), {stats.generated_tokens} generated at {stats.decode_tokens_per_second:.1f} tokens/s "
          f"(p50 {printing.duration(stats.time_between_tokens(50))}, p95 {printing.duration(stats.time_between_tokens(95))}, "
          f"p99 {printing.duration(stats.time_between_tokens(99))}); caches {printing.size(stats.cache_bytes)}; "
          f"{'chosen by the model; ' if stats.chosen_by_model else ''}ended by {generation.finish_reason}",
          file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps({"tokens": generation.tokens, "text": generation.text, "finish_reason": generation.finish_reason,
                                              **stats.entry()}, indent=1) + "\n")
    return 0


def _shown(part: Any, text: bool) -> str:
    """What a text or a segment says, or its tokens."""
    return str(part.text) if text else ",".join(map(str, part.tokens))


def _prompt(arguments: argparse.Namespace) -> Any:
    if sum(given is not None for given in (arguments.prompt, arguments.tokens, arguments.audio)) != 1:
        raise InputError("give one of --prompt, --tokens and --audio")
    if arguments.audio is not None:
        from ingot.generate.wav import read_wav

        return read_wav(arguments.audio)
    if arguments.tokens is not None:
        try:
            return [int(t) for t in arguments.tokens.split(",")]
        except ValueError:
            raise InputError(f"--tokens '{arguments.tokens}' is not a list of numbers such as 1,2,3") from None
    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not arguments.chat:
        return text
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    return [*system, {"role": "user", "content": text}]


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
