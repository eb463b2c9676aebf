"""The generation pass: greedy or sampled answers in batches, sorted by length and padded.

Rows that are done leave the batch: whenever a quarter of them are, the others go on with their cache, and rows that
wait take the places.
What all prompts of a batch begin with is encoded once, and what scoring has shown of an answer is not generated again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from expunge.errors import ResourceError
from expunge.evaluation.answer_cache import CACHE_BYTES, bytes_of_a_token
from expunge.evaluation.in_flight import Asked, Ids, InFlight
from expunge.models.allocator import kept_memory
from expunge.models.gated import gates_of
from expunge.models.load import LoadedModel
from expunge.parallel import gathered, my_share
from expunge.progress import Bar, say

BENDING = (
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "bad_words_ids", "min_length",
    "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "sequence_bias", "exponential_decay_length_penalty", "guidance_scale", "watermarking_config", "stop_strings",
)  # fmt: skip
"""Settings that a model may come with and that make ``generate`` take another token than the likeliest."""
LEAVING_SHARE = 4
"""Rows leave when one in so many has ended: the step costs by row, leaving costs a copy of what is remembered."""


@dataclass(frozen=True)
class Sampling:
    """Answers are drawn, not the likeliest ones taken: a function of seed and prompt, whatever shares its batch."""

    seed: int = 0
    temperature: float = 1.0
    """Above 0; 1 is the model's own distribution."""

    def draws(self, prompts: SequenceOf[SequenceOf[int]], max_new_tokens: int) -> Tensor:
        """``(B, max_new_tokens)`` numbers in (0, 1], those of a prompt always the same."""
        drawn = [np.random.default_rng([self.seed, *p]).random(max_new_tokens, dtype=np.float32) for p in prompts]
        return 1 - torch.from_numpy(np.stack(drawn))


class _Draw(LogitsProcessor):
    """Leaves one token a row and step: where its share of the distribution holds the row's number in (0, 1]."""

    def __init__(self, draws: Tensor, temperature: float, steps: Tensor) -> None:
        self.draws = draws
        self.temperature = temperature
        self.steps = steps
        """``(B,)`` how many tokens each answer has."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        shares = (scores.float() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        drawn = self.draws.gather(1, self.steps.clamp(max=self.draws.shape[1] - 1)[:, None])
        at = drawn.to(shares.device) * shares[:, -1:]
        self.steps = self.steps + 1
        chosen = torch.searchsorted(shares, at).clamp(max=shares.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)  # type: ignore[return-value]


@torch.no_grad()
@kept_memory()
def generate_answers(
    loaded: LoadedModel,
    prompts: SequenceOf[SequenceOf[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    sampling: Sampling | None = None,
    stop: SequenceOf[str] = (),
    known: Mapping[Ids, Ids] | None = None,
    update: Bar | None = None,
) -> list[str]:
    """Continuations of tokenised prompts, greedy unless sampled, cut at the end of the answer.

    Args:
        loaded: the model; where it is guarded, prompts and answers that its guard stops become the guard's refusal.
        prompts: token ids; equal prompts are answered once.
        max_new_tokens: longest answer.
        batch_size: most rows that are decoded together; of long rows fewer, see ``CACHE_BYTES``.
        sampling: draws the answers; None takes the likeliest token each time.
        stop: texts that end an answer; they and what follows are cut off.
        known: how greedy answers begin, by prompt, where :func:`~expunge.evaluation.scorer.greedy_beginnings` has
            shown it: saves time and changes nothing. Drawn answers begin in their own way.
        update: progress, in prompts.

    Returns:
        Decoded answers without special tokens, stripped, in the order of ``prompts``. In a process group each process
        generates some of them, and all return all of them.

    Raises:
        ResourceError: out of memory.
    """
    model = loaded.model
    was_training = model.training
    model.eval()
    ending = _Ending.of(loaded, stop, max_new_tokens)
    unique = {tuple(p) for p in prompts}
    answers = _refused_prompts(loaded, unique)
    shown = known if known and not sampling and _takes_the_likeliest(model) else {}
    begun = {p: shown.get(p, ()) for p in unique - answers.keys()}
    answers |= _finished(begun, ending)
    # The gates of a gated model look at the end of what it is given, which must be its prompt's.
    gated = gates_of(model) is not None
    waiting = [Asked(p, () if gated else begins) for p, begins in begun.items() if p not in answers]
    cut = _batches(loaded, waiting, batch_size, max_new_tokens)
    # All but the last are full, unless their memory was.
    if (fewest := min(map(len, cut[:-1]), default=batch_size)) < batch_size:
        say(
            f"note: answers are generated {fewest} and more at a time instead of {batch_size}: the keys and values of "
            f"more of these texts would not fit into {CACHE_BYTES / 1e9:.1f} GB"
        )
    batches = my_share(cut)
    total = sum(map(len, batches))
    made: dict[Ids, str] = {}
    try:
        for asked, text in _written(loaded, batches, ending, sampling, batch_size):
            made[asked.prompt] = text
            if update:
                update(len(made), total)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(
            f"out of memory while generating; lower evaluate.generation_batch (now {batch_size})"
        ) from error
    answers |= gathered(made)
    model.train(was_training)
    if guard := loaded.guard:
        answers = {p: guard.refusal(text) or text for p, text in answers.items()}
    return [answers[tuple(p)] for p in prompts]


def _refused_prompts(loaded: LoadedModel, prompts: Iterable[Ids]) -> dict[Ids, str]:
    """What the model's guard answers in its stead, by prompt; nothing for a model without one."""
    if loaded.guard is None:
        return {}
    found = {p: loaded.guard.refusal(loaded.tokenizer.decode(p, skip_special_tokens=True)) for p in prompts}
    return {p: refusal for p, refusal in found.items() if refusal is not None}


def _takes_the_likeliest(model: Any) -> bool:
    """Whether greedy generation by this model follows its scores alone."""
    settings = getattr(model, "generation_config", None)
    return not any(getattr(settings, name, None) for name in BENDING)


def _finished(begun: Mapping[Ids, Ids], ending: _Ending) -> dict[Ids, str]:
    """The answers that are known to their end, by prompt."""
    found = {p: ending.reached(begins) for p, begins in begun.items()}
    return {p: text for p, (text, ended) in found.items() if ended}


def _batches(loaded: LoadedModel, waiting: list[Asked], batch_size: int, max_new_tokens: int) -> list[list[Asked]]:
    """Rows of like length together, so that little is padded, and no more than there is memory for."""
    each = bytes_of_a_token(loaded.model)
    batches: list[list[Asked]] = []
    for asked in sorted(waiting, key=lambda a: (len(a.ids), a.ids)):
        rows = len(batches[-1]) + 1 if batches else 1
        full = rows > batch_size or rows * (len(asked.ids) + max_new_tokens) * each > CACHE_BYTES
        if not batches or full:
            batches.append([])
        batches[-1].append(asked)
    return batches


@dataclass(frozen=True)
class _Ending:
    """What ends an answer: an end token, a stop text, its length."""

    ends: tuple[int, ...]
    read: Callable[[SequenceOf[int]], str]
    """The text of an answer's tokens."""
    stop: SequenceOf[str]
    max_new_tokens: int

    @classmethod
    def of(cls, loaded: LoadedModel, stop: SequenceOf[str], max_new_tokens: int) -> _Ending:
        """That of a model's answers."""
        ends = tuple(sorted({loaded.format.end_id, loaded.tokenizer.eos_token_id}))
        return cls(ends, partial(loaded.tokenizer.decode, skip_special_tokens=True), stop, max_new_tokens)

    def reached(self, answer: SequenceOf[int]) -> tuple[str, bool]:
        """The text of an answer, and whether it has ended; what stands behind its end is padding."""
        answer = answer[: self.max_new_tokens]
        length = next((at + 1 for at, token in enumerate(answer) if token in self.ends), self.max_new_tokens)
        text, stopped = self.cut(answer[:length])
        return text, stopped or len(answer) >= length

    def cut(self, answer: SequenceOf[int]) -> tuple[str, bool]:
        """The text up to the first stop text, stripped, and whether there was one."""
        text = self.read(answer)
        found = [at for at in (text.find(end) for end in self.stop) if at >= 0]
        return text[: min(found)].strip() if found else text.strip(), bool(found)


class _Done(StoppingCriteria):
    """Ends the rows whose answer has ended, and the pass when enough of its rows have.

    transformers' own stop strings also look at the prompt: one that begins there would end a row that has none.

    Args:
        ending: what ends an answer.
        begins: ``(B,)`` where answers begin.
        together: whether all rows stay until the last has ended.
    """

    def __init__(self, ending: _Ending, begins: Tensor, together: bool) -> None:
        self.ending, self.begins, self.together = ending, begins, together
        self.ends = torch.tensor(ending.ends, device=begins.device)
        self.done = torch.zeros_like(begins, dtype=torch.bool)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        full = input_ids.shape[1] - self.begins >= self.ending.max_new_tokens
        self.done = self.done | full | torch.isin(input_ids[:, -1], self.ends)
        if self.ending.stop:
            for row in (~self.done).nonzero()[:, 0].tolist():
                self.done[row] = self.ending.cut(input_ids[row, self.begins[row] :].tolist())[1]
        if not self.together and LEAVING_SHARE * int(self.done.sum()) >= len(self.done):
            return torch.ones_like(self.done)  # type: ignore[return-value]
        return self.done.clone()  # type: ignore[return-value]


def _written(
    loaded: LoadedModel, batches: list[list[Asked]], ending: _Ending, sampling: Sampling | None, batch_size: int
) -> Iterator[tuple[Asked, str]]:
    """Every row's answer as soon as it has ended.

    Where rows leave a batch, those of later batches take their places, if the model's memory allows it.
    """
    waiting = deque(batches)
    others: deque[Asked] = deque()
    while waiting or others:
        batch = waiting.popleft() if waiting else _joining(loaded, None, others, ending, batch_size)
        going = InFlight.start(loaded, batch, ending.max_new_tokens)
        if waiting and going.takes_others(loaded) and all(len(asked.ids) > 1 for rows in waiting for asked in rows):
            others.extend(asked for rows in waiting for asked in rows)
            waiting.clear()
        while going.rows:
            output = _answer(loaded, going, ending, sampling)
            kept = []
            for i, (asked, answer) in enumerate(zip(going.rows, going.answers(output.sequences), strict=True)):
                text, ended = ending.reached(answer)
                if ended:
                    yield asked, text
                else:
                    kept.append(i)
            if not kept:
                break
            going = going.keep(output, kept)
            if joining := _joining(loaded, going, others, ending, batch_size):
                going = going.joined(loaded, joining, ending.max_new_tokens)


def _joining(
    loaded: LoadedModel, going: InFlight | None, others: deque[Asked], ending: _Ending, batch_size: int
) -> list[Asked]:
    """Those that there are places and memory for, taken from ``others``; at least one where nobody is going."""
    each = bytes_of_a_token(loaded.model)
    rows = len(going.rows) if going else 0
    width = int(going.mask.sum(1).max()) if going else 0
    taken: list[Asked] = []
    while others and rows + len(taken) < batch_size:
        width = max(width, len(others[0].ids))
        needed = (rows + len(taken) + 1) * (width + ending.max_new_tokens) * each
        if needed > CACHE_BYTES and (taken or going):
            break
        taken.append(others.popleft())
    return taken


def _answer(loaded: LoadedModel, going: InFlight, ending: _Ending, sampling: Sampling | None) -> Any:
    """Go on with these rows until enough of them have ended, or all where none may leave."""
    chooses = []
    if sampling:
        draws = sampling.draws([asked.prompt for asked in going.rows], ending.max_new_tokens)
        chooses.append(_Draw(draws, sampling.temperature, going.written.cpu()))
    # A gated model must see its prompts in one pass; a state-space model's memory cannot be taken apart.
    together = len(going.rows) == 1 or gates_of(loaded.model) is not None or loaded.model._is_stateful
    return loaded.model.generate(
        input_ids=going.ids,
        attention_mask=going.mask,
        past_key_values=going.cache,
        use_cache=True,
        max_new_tokens=ending.max_new_tokens - int(going.written.min()),
        logits_processor=LogitsProcessorList(chooses),
        stopping_criteria=StoppingCriteriaList([_Done(ending, going.begins, together)]),
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=list(ending.ends),
        return_dict_in_generate=True,
    )
