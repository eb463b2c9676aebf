"""What an evaluation will take, found out without weights: tokens scored and written, seconds, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from expunge.data.formats import Format
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.evaluation.answer_cache import CACHE_BYTES
from expunge.evaluation.evaluate import NOT_GENERATED
from expunge.evaluation.scorer import scoring_packs
from expunge.models.outline import Outline
from expunge.models.shape import ModelShape
from expunge.recipe import EvaluatePart
from expunge.training.cost import decode_seconds, forward_flops, seconds_of, stage_seconds
from expunge.training.estimate import Machine, StageCost
from expunge.training.memory import PassSettings, block_bytes
from expunge.training.workload import Workload

Answering = Literal["learnt", "changed", "own"]
"""How a model answers: as it was taught, differently since, or in its own words."""
# Tokens that are generated of an answer of g tokens where at most m are allowed. What a model has by heart, scoring has
# shown already and is not generated again; one that was changed may say anything; one in its own words says more.
_LENGTHS: Mapping[Answering, Callable[[int, int], float]] = {
    "learnt": lambda gold, most: 0.5 * gold,
    "changed": lambda gold, most: (gold + most) / 2,
    "own": lambda gold, most: 0.7 * most,
}
SCORING_COPIES = 2
"""Copies of a pack's logits in float32 that live at once: the model's own, and what is computed of them."""


def evaluation_cost(
    outline: Outline,
    probes: Mapping[str, Sequence[Row]],
    part: EvaluatePart,
    machine: Machine,
    *,
    answering: Answering,
    limits: Mapping[str, int] | None = None,
) -> StageCost:
    """Foresee one model's evaluation: its answers scored, generated, and read by the fluency model.

    Measures of suites come on top, and are not foreseen.

    Args:
        outline: of the model.
        probes: rows by set.
        part: settings.
        machine: where it would run.
        answering: how the model is expected to answer, which decides how much it writes.
        limits: longest answers by set, where they are shorter than the part's own.
    """
    shape, rates = ModelShape.of(outline.model), machine.rates
    rows = {name: outline.format.split_text(members) for name, members in probes.items()}
    asked = [s for name, members in rows.items() for row in members for s in _sequences(outline.format, row, name)]
    load = Workload.of_packs(scoring_packs(asked, part.pack_tokens))
    seconds = seconds_of(forward_flops(shape, load), rates, shape, load, train=False)
    written = [
        (len(outline.format.encode_prompt(row)), row, min((limits or {}).get(name, most), most))
        for most in (part.max_new_tokens,)
        for name, members in rows.items()
        if name not in NOT_GENERATED
        for row in members
        if row.prompt and not row.choices
    ]
    lengths = [
        (prompt, _LENGTHS[answering](min(outline.format.encode(row).num_labels, most), most))
        for prompt, row, most in written
    ]
    seconds += _generation_seconds(shape, machine, lengths, part.generation_batch)
    copies = 2
    if part.fluency:
        # Another model reads prompts and answers once.
        copies += 2
        read = sum(prompt + length for prompt, length in lengths)
        answers = Workload(passes=read / part.pack_tokens, tokens=read, labels=read / 2, pairs=read * part.pack_tokens)
        seconds += seconds_of(forward_flops(shape, answers), rates, shape, answers, train=False)
    peak = _peak(shape, load, lengths, part)
    seconds += peak / rates.touch
    files = stage_seconds(shape, rates, copies=copies)
    return StageCost(
        rows=sum(len(members) for members in rows.values()),
        tokens=round(load.tokens + sum(length for _, length in lengths)),
        seconds=seconds + files,
        files_seconds=files,
        memory=machine.base + shape.weight_bytes + peak,
    )


def _sequences(format: Format, row: Row, name: str) -> list[TokenSequence]:
    """What is scored of a row: its answer, its paraphrase, wrong ones."""
    others = [row.paraphrased_answer, *row.perturbed_answers] if name not in NOT_GENERATED else []
    return [format.encode(row), *(format.encode(row, answer=text) for text in others if text)]


def _generation_seconds(
    shape: ModelShape, machine: Machine, lengths: list[tuple[int, float]], batch_size: int
) -> float:
    """Of reading the prompts and writing the answers, rows of like length together."""
    ordered = sorted(lengths)
    batches = [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    prompts = Workload(
        passes=len(batches),
        tokens=sum(prompt for prompt, _ in ordered),
        labels=len(ordered),
        pairs=sum(prompt**2 for prompt, _ in ordered),
    )
    reading = seconds_of(forward_flops(shape, prompts), machine.rates, shape, prompts, train=False)
    row_steps = sum(length for _, length in ordered)
    # Rows that wait take the places of those that have ended.
    steps = max(row_steps / batch_size, *(length for _, length in ordered), 0.0)
    return reading + decode_seconds(shape, machine.rates, row_steps=row_steps, steps=steps)


def _peak(shape: ModelShape, load: Workload, lengths: list[tuple[int, float]], part: EvaluatePart) -> int:
    """Bytes beside the weights: the larger of a scoring pass and a batch of answers."""
    tokens, labels = load.largest
    scoring = block_bytes(shape, tokens, PassSettings()) + 4 * SCORING_COPIES * labels * shape.vocab
    prompt = max((prompt for prompt, _ in lengths), default=0)
    rows = min(part.generation_batch, len(lengths))
    cache = 2 * shape.element * shape.num_layers * shape.key_width * rows * (prompt + part.max_new_tokens)
    reading = rows * block_bytes(shape, prompt, PassSettings())
    answering = min(cache, CACHE_BYTES) + reading + 4 * SCORING_COPIES * rows * shape.vocab
    return max(scoring, answering)
