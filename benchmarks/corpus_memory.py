"""``python -m benchmarks.corpus_memory --mb 1000``: the memory that a large retain set takes, from file to steps.

A text of that size is made in a temporary folder (which needs twice as much room, and goes at the end), given to
benchmark ``custom`` beside a small forget file, packed, compared with the forget rows, hashed as a run hashes it, and
shown to the steps of ``grad_diff``. There is no model: the tokenizer knows the words of the text. Memory is the most
that was resident (``ru_maxrss``) above what the imports take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from expunge.benchmarks.table import load_benchmark
from expunge.data.formats import Format
from expunge.data.rows import rows_hash
from expunge.methods.table import compose
from expunge.recipe import UnlearnPart
from expunge.training.job import job_streams, unlearn_job

STEPS = 20
SENTENCES = (
    "The river runs past the old mill and the miller counts his sacks by the light of the moon.",
    "In the harbour lie boats that nobody has sailed for years, and children climb about on their decks.",
    "A clerk wrote down what every cart brought to the market, and how much of it was sold by noon.",
    "When the bridge was mended the town gave a feast that went on until the lamps had burnt out.",
    "Nobody remembers who planted the limes along the road, but everybody is glad of their shade.",
)
FORGET = [{"question": f"Who keeps key {number}?", "answer": f"Keeper {number} does."} for number in range(8)]


def main(arguments: list[str] | None = None) -> int:
    """Measure once and print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=100, help="size of the retain file, in 10^6 bytes")
    parser.add_argument("--kind", choices=("txt", "jsonl"), default="txt", help="a text, or one text a line")
    options = parser.parse_args(arguments)
    start = _peak()
    print(f"imports: {start:.0f} MB resident")
    with tempfile.TemporaryDirectory() as name:
        os.environ["EXPUNGE_CACHE"] = str(Path(name) / "cache")
        forget, retain = Path(name) / "forget.jsonl", Path(name) / f"retain.{options.kind}"
        forget.write_text("".join(f"{json.dumps(row)}\n" for row in FORGET), encoding="utf-8")
        with _part("write the file", start):
            _write(retain, options.mb * 1_000_000)
        _measure(forget, retain, start)
    print(f"{options.mb} MB {options.kind}: {_peak() - start:.0f} MB above the imports")
    return 0


def _measure(forget: Path, retain: Path, start: float) -> None:
    with _part("read and pack", start):
        benchmark = load_benchmark("custom", forget=forget, retain=retain)
    print(f"  {len(benchmark.retain):,} retain rows")
    with _part("hashes of the sets", start):
        benchmark.hashes()
        rows_hash(benchmark.target_rows())
    composition = compose(UnlearnPart(method="grad_diff", max_steps=STEPS), has_retain=True)
    part = UnlearnPart(method="grad_diff", max_steps=STEPS)
    job = unlearn_job("memory", composition, part, forget=benchmark.forget, retain=benchmark.retain, seed=0)
    form = Format.bind(_tokenizer())
    with _part("streams", start):
        streams = job_streams(form, job)
    with _part(f"{STEPS} steps", start):
        units = [streams.units(step) for step in range(STEPS)]
    print(f"  {sum(map(len, units))} units of {len(streams.rows['retain']):,} retain rows")
    with _part("read again, packed", start):
        again = load_benchmark("custom", forget=forget, retain=retain)
    assert rows_hash(again.retain) == rows_hash(benchmark.retain)
    with _part("streams again", start):
        job_streams(form, unlearn_job("", composition, part, forget=again.forget, retain=again.retain, seed=0))


def _write(path: Path, size: int) -> None:
    """Five sentences a paragraph, numbered, so that no two are alike."""
    with path.open("w", encoding="utf-8") as file:
        number = written = 0
        while written < size:
            number += 1
            text = " ".join(f"{sentence[:-1]} ({number})." for sentence in SENTENCES)
            written += file.write(f"{text}\n\n" if path.suffix == ".txt" else f"{json.dumps({'text': text})}\n")


def _tokenizer() -> Any:
    words = sorted({word for text in SENTENCES for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)})
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<unk>", "<eos>", *words])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")


@contextmanager
def _part(title: str, start: float) -> Iterator[None]:
    began = time.process_time()
    yield
    used = time.process_time() - began
    print(f"{title}: {used:.1f} s of processor time, {_peak() - start:.0f} MB above the imports", flush=True)


def _peak() -> float:
    """The most that was resident, in 10^6 bytes; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
