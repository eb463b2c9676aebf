"""ReLearn's augmentation of a file: forget rows in, vague training rows out, whoever writes them."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from expunge.data.augment import require_questions, with_generic
from expunge.data.augment.prompts import STYLES, prompts_hash, read_prompts
from expunge.data.augment.written import NOT_CHECKED, NOT_WRITTEN, ROUNDS, Written, write_all, written_by_rules
from expunge.data.fields import record_from_row
from expunge.data.overlap import check_sets
from expunge.data.rows import Row
from expunge.data.sources import read_rows
from expunge.errors import DataError, ModelError, RecipeError
from expunge.evaluation.judges.settings import read_options
from expunge.llm.endpoint import Caller, Endpoint
from expunge.llm.options import EndpointOptions
from expunge.pipeline.writers import Chat, ChatWriter
from expunge.progress import say

RULES = "rules"
"""The offline writer: forms of questions and a bank of sentences; no model."""
MISSING_SHARE = 0.1
"""Above this share of answers that a writer failed to give, the file is not written."""
KEY_ENV = "EXPUNGE_API_KEY"
"""The variable that holds the key for an address, unless another is named with ``key_env``."""
OPENAI = "openai"
"""The address and the key that the environment names for OpenAI's own clients, which belong together."""
OPENAI_ENV = ("OPENAI_BASE_URL", "OPENAI_API_KEY")
_CALLER = Caller("writer", "augment", "the forget questions and their answers")


@dataclass(frozen=True)
class Augmented:
    """What was written."""

    out: Path
    rows: int
    writer: str
    summary: Mapping[str, Any]
    """Counts: questions, answers, completions or pairs, generic rows, and what was dropped and why."""


def augment_file(
    forget: str | Path,
    *,
    out: str | Path,
    llm: str = RULES,
    model: str | None = None,
    pairs: bool = False,
    completions: bool = True,
    generic: str | Path | None = None,
    ratio: float = 1.0,
    rounds: int = ROUNDS,
    prompts: str | Path | None = None,
    endpoint: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None] | None = None,
) -> Augmented:
    """Write ReLearn's training rows for a file of questions to forget.

    Args:
        forget: the file.
        out: JSON lines; with an address, the same command goes on where it stopped.
        llm: ``rules``; an address of OpenAI's kind (``https://host/v1``); ``openai`` for the address and key in
            ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``; or any model that ``expunge.load`` takes.
        model: what the model is called at the address.
        pairs: preference rows for ``relearn_dpo`` in place of rows to learn.
        completions: add the second half of every answer as the continuation of its first.
        generic: a file of general questions, mixed in; not for pairs.
        ratio: how many of them, for each written row.
        rounds: attempts at an answer that a model wrote, until it passes the checks.
        prompts: folder with prompts of your own (``vague.txt`` ...).
        endpoint: further settings of the address: ``concurrency``, ``tries``, ``timeout``, ``key_env``, ``cache`` ...
        model_settings: settings of a local model, as in a recipe's ``model`` part.
        seed: what the rules and the mixing draw follows from it; a server draws as it likes.
        transport: for tests: how calls travel.
        sleep: for tests: how pauses are waited out.

    Returns:
        What was written, and the counts.

    Raises:
        UserError: anything in the input that is wrong, before any call; or a writer that wrote nothing at all.
    """
    out = Path(out).expanduser()
    _check_numbers(ratio, rounds)
    if pairs and generic is not None:
        raise RecipeError(
            "augment: pairs take no general questions, whose answers would be rejected; give those to --retain"
        )
    _check_out(out, {"the forget file": forget, "--generic": generic, "--prompts": prompts})
    texts = read_prompts(prompts)
    rows = read_rows(forget, set_name="forget")
    require_questions(rows)
    others = read_rows(generic, set_name="generic") if generic is not None else ()
    for line in check_sets({"forget": rows, "generic": others}):
        say(f"warning: {line}")
    for line in _idle(llm, pairs=pairs, completions=completions, generic=generic, ratio=ratio, rounds=rounds):
        say(f"note: {line}")
    counts: dict[str, Any] = {}
    kept = False
    if llm == RULES:
        if prompts is not None or endpoint or model:
            raise RecipeError("augment: the rules read no prompts and call nobody; name a model with --llm")
        name, found = "rules: forms of questions and a bank of sentences, no model", written_by_rules(rows, seed=seed)
    else:
        chat = _chat(llm, model, dict(endpoint or {}), model_settings or {}, out, transport, sleep)
        kept = isinstance(chat, Endpoint)
        name, found = chat.name, write_all(rows, ChatWriter(chat, texts), rounds=rounds)
        counts = {
            "unwritten_variants": found.unwritten_variants,
            "useless_variants": found.useless_variants,
            "dropped": dict(found.dropped),
        }
    written = found.pairs() if pairs else found.rows(completions=completions)
    _complain(found, name, len(rows), kept=kept)
    mixed = with_generic(written, others, ratio=ratio, seed=seed)
    summary = {
        "writer": name,
        "questions": len(rows),
        "written": len(written),
        "generic": len(mixed) - len(written),
        **counts,
    }
    _write(out, mixed, len(written), name, texts if llm != RULES else None)
    return Augmented(out, len(mixed), name, summary)


def _chat(
    llm: str,
    model: str | None,
    settings: dict[str, Any],
    model_settings: Mapping[str, Any],
    out: Path,
    transport: httpx.BaseTransport | None,
    sleep: Callable[[float], None] | None,
) -> Chat:
    if llm == OPENAI:
        url, key = (os.environ.get(name, "") for name in OPENAI_ENV)
        if not url or not key:
            raise RecipeError(f"augment: --llm {OPENAI} needs {' and '.join(OPENAI_ENV)} in the environment")
        llm = url
        settings.setdefault("key_env", OPENAI_ENV[1])
    if not llm.startswith(("http://", "https://")):
        if model or settings:
            raise RecipeError(
                f"augment: {llm!r} is no address, so it takes no model name and no settings of an endpoint"
            )
        return _local(llm, model_settings)
    if not model:
        raise RecipeError("augment: give the name that the model has at the address, with --model")
    if strays := {"url", "model"} & set(settings):
        raise RecipeError(f"augment: {strays.pop()!r} is no setting of the endpoint; give --llm and --model")
    settings.setdefault("cache", str(out.with_name(f"{out.name}.replies")))
    settings.setdefault("temperature", 0.7)
    if "key_env" not in settings and os.environ.get(KEY_ENV):
        settings["key_env"] = KEY_ENV
    options, problems = read_options(EndpointOptions, {"url": llm, "model": model, **settings})
    if problems or not isinstance(settings["cache"], str):
        raise RecipeError(f"augment: the endpoint's settings{'; '.join(problems) or '.cache: must be a folder'}")
    more = {"sleep": sleep} if sleep else {}
    return Endpoint(options, caller=_CALLER, told=set(), transport=transport, **more)


def _local(source: str, settings: Mapping[str, Any]) -> Chat:
    from expunge.models.load import load_model
    from expunge.pipeline.local_chat import LocalChat

    return LocalChat(load_model(source, **settings), name=source)


def _complain(found: Written, name: str, questions: int, *, kept: bool) -> None:
    """Say what is missing; where that is much and the writer's fault, write nothing."""
    passed, dropped = len(found.answers), sum(found.dropped.values())
    reasons = ", ".join(f"{reason} x{count}" for reason, count in found.dropped.items()) or "nothing came back"
    failed = found.dropped.get(NOT_WRITTEN, 0) + found.dropped.get(NOT_CHECKED, 0)
    again = ". What came back is kept: the same command asks only for the rest" if kept else ""
    for missing, of, what in (
        (found.unwritten_variants, len(STYLES) * questions, "variants"),
        (failed, passed + dropped, "answers"),
    ):
        if missing > MISSING_SHARE * of:
            raise ModelError(f"augment: {name} failed for {missing} of {of} {what}; nothing is written{again}")
    if not passed:
        raise ModelError(f"augment: {name} wrote no answer that passed: {reasons}")
    if dropped:
        say(f"warning: {dropped} of {passed + dropped} questions stay without a vague answer: {reasons}")
    if missing := found.unwritten_variants + found.useless_variants:
        say(f"note: {missing} variants are missing: not written, no other question, or telling of the answer")


def _idle(
    llm: str, *, pairs: bool, completions: bool, generic: object, ratio: float, rounds: int
) -> Iterator[str]:  # fmt: skip
    """A line for each setting that changes nothing."""
    if llm == RULES and rounds != ROUNDS:
        yield "rounds have no effect: the rules write nothing that fails"
    if pairs and not completions:
        yield "no-completions has no effect: pairs have none"
    if generic is None and ratio != 1.0:
        yield "ratio has no effect without --generic"


def _check_numbers(ratio: float, rounds: int) -> None:
    if not (math.isfinite(ratio) and ratio >= 0):
        raise RecipeError(f"augment: ratio must be at least 0, got {ratio}")
    if rounds < 1:
        raise RecipeError(f"augment: rounds must be at least 1, got {rounds}")


def _check_out(out: Path, inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse a place that cannot be written, or that holds what is read, before anything is paid for."""
    if out.suffix not in (".jsonl", ".ndjson"):
        raise DataError(f"{out}: rows are written as JSON lines; give a name that ends in .jsonl")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give the file to write")
    for what, path in inputs.items():
        if path is not None and Path(path).expanduser().resolve() == out.resolve():
            raise DataError(f"{out}: is {what} itself, which would be lost; give another --out")
    # Folders are made when there is something to put into them.
    place = next(parent for parent in (out.parent, *out.parent.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from None


def _write(out: Path, rows: Sequence[Row], num_written: int, writer: str, prompts: Mapping[str, str] | None) -> None:
    """One object a row, each with the row that it was written for and by whom; all of them or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    by = {"writer": writer} | ({"prompts": prompts_hash(prompts)[:16]} if prompts else {})
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for number, row in enumerate(rows):
                record = record_from_row(row)
                if number < num_written:
                    about = {"source": row.origin or row.id.split("/relearn/")[0], "style": row.kind}
                    record |= {name: value for name, value in (about | by).items() if value}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
