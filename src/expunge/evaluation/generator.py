"""The generation pass: greedy or sampled answers in batches, sorted by length and padded.

Rows that are done leave the batch: whenever a quarter of them are, the others go on by themselves with their cache.
What all prompts of a batch begin with is encoded once, and what scoring has shown of an answer is not generated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache

from expunge.errors import ResourceError
from expunge.evaluation.answer_cache import CACHE_BYTES, all_roomy, answer_cache, bytes_of_a_token
from expunge.models.allocator import kept_memory
from expunge.models.gated import gates_of
from expunge.models.load import LoadedModel
from expunge.parallel import gathered, my_share
from expunge.progress import Bar, say

Ids = tuple[int, ...]
BENDING = (
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "bad_words_ids", "min_length",
    "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "sequence_bias", "exponential_decay_length_penalty", "guidance_scale", "watermarking_config", "stop_strings",
)  # fmt: skip
"""Settings that a model may come with and that make ``generate`` take another token than the likeliest."""
LEAVING_SHARE = 4
"""Rows leave when one in so many has ended: the step costs by row, leaving costs a copy of what is remembered."""
SHORTEST_PREFIX = 8
"""A common beginning of fewer tokens is not worth a pass of its own."""


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

    def __init__(self, draws: Tensor, temperature: float, step: int) -> None:
        self.draws = draws
        self.temperature = temperature
        self.step = step

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        shares = (scores.float() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        at = self.draws[:, self.step, None].to(shares.device) * shares[:, -1:]
        self.step += 1
        chosen = torch.searchsorted(shares, at).clamp(max=shares.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Asked:
    """A prompt, and how its answer is known to begin."""

    prompt: Ids
    known: Ids = ()

    @property
    def ids(self) -> Ids:
        return self.prompt + self.known


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
    waiting = [_Asked(p, () if gated else begins) for p, begins in begun.items() if p not in answers]
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
    for batch in batches:
        try:
            texts = _generate_batch(loaded, batch, ending, sampling)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ResourceError(
                f"out of memory while generating; lower evaluate.generation_batch (now {batch_size})"
            ) from error
        made |= {asked.prompt: text for asked, text in zip(batch, texts, strict=True)}
        if update:
            update(len(made), total)
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


def _batches(loaded: LoadedModel, waiting: list[_Asked], batch_size: int, max_new_tokens: int) -> list[list[_Asked]]:
    """Rows of like length together, so that little is padded, and no more than there is memory for."""
    each = bytes_of_a_token(loaded.model)
    batches: list[list[_Asked]] = []
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


@dataclass
class _Going:
    """The rows of a batch that have not ended, and what the model remembers of them."""

    rows: list[int]
    """Their places in the batch."""
    ids: Tensor
    """``(B, T)`` prompts, padded behind what all of them begin with, and what was answered so far."""
    mask: Tensor
    begins: Tensor
    """``(B,)`` where answers begin."""
    cache: Any = None

    @classmethod
    def start(cls, loaded: LoadedModel, batch: list[_Asked], max_new_tokens: int) -> _Going:
        """All rows, nothing generated."""
        device = next(loaded.model.parameters()).device
        longest = max(len(asked.ids) for asked in batch)
        cache = answer_cache(loaded.model, longest + max_new_tokens)
        shared = _encode_shared(loaded, batch, cache)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, asked in enumerate(batch):
            rest = asked.ids[shared:]
            for part, tokens in ((slice(shared), asked.ids[:shared]), (slice(longest - len(rest), None), rest)):
                ids[row, part] = torch.tensor(tokens, dtype=torch.long)
                mask[row, part] = 1
        begins = torch.tensor([longest - len(asked.known) for asked in batch], device=device)
        return cls(list(range(len(batch))), ids.to(device), mask.to(device), begins, cache)

    def keep(self, output: Any, going: list[int]) -> _Going:
        """Those of ``going``, after a pass that gave ``output``."""
        ids: Tensor = output.sequences
        cache = output.past_key_values
        if isinstance(cache, Cache):
            cache.batch_select_indices(torch.tensor(going, device=ids.device))
        else:
            cache = None  # what is remembered in another way is computed anew
        answered = self.mask.new_ones(len(going), ids.shape[1] - self.mask.shape[1])
        mask = torch.cat([self.mask[going], answered], dim=1)
        return _Going([self.rows[i] for i in going], ids[going], mask, self.begins[going], cache)


def _encode_shared(loaded: LoadedModel, batch: list[_Asked], cache: DynamicCache | None) -> int:
    """Encode what all prompts begin with into every row of the cache, in one row; returns how many tokens that is.

    Rows are then padded behind it. So it is left to models that go by position ids, as a packed tree needs, and whose
    layers have no window, which would count the padding.
    """
    shortest = min(len(asked.prompt) for asked in batch) - 1
    columns = zip(*(asked.prompt[:shortest] for asked in batch), strict=True)
    shared = next((at for at, tokens in enumerate(columns) if len(set(tokens)) > 1), shortest)
    if cache is None or not all_roomy(cache) or not loaded.packed or gates_of(loaded.model):
        return 0
    if len(batch) == 1 or shared < SHORTEST_PREFIX:
        return 0
    ids = torch.tensor([batch[0].prompt[:shared]], device=next(loaded.model.parameters()).device)
    loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(batch))
    return shared


def _generate_batch(loaded: LoadedModel, batch: list[_Asked], ending: _Ending, sampling: Sampling | None) -> list[str]:
    draws = sampling.draws([asked.prompt for asked in batch], ending.max_new_tokens) if sampling else None
    texts = [""] * len(batch)
    going = _Going.start(loaded, batch, ending.max_new_tokens)
    while True:
        step = going.ids.shape[1] - int(going.begins.max())
        chooses = [_Draw(draws[going.rows], sampling.temperature, step)] if sampling and draws is not None else []
        # A gated model must see its prompts in one pass; a state-space model's memory cannot be taken apart.
        together = len(going.rows) == 1 or gates_of(loaded.model) is not None or loaded.model._is_stateful
        done = _Done(ending, going.begins, together)
        output = _answer(loaded, going, ending.max_new_tokens - step, chooses, done)
        kept = []
        for i, row in enumerate(going.rows):
            texts[row], ended = ending.reached(output.sequences[i, going.begins[i] :].tolist())
            if not ended:
                kept.append(i)
        if not kept:
            return texts
        going = going.keep(output, kept)


def _answer(
    loaded: LoadedModel, going: _Going, max_new_tokens: int, chooses: SequenceOf[LogitsProcessor], done: _Done
) -> Any:
    """Go on with these rows until enough of them have ended, or all where none may leave."""
    return loaded.model.generate(
        input_ids=going.ids,
        attention_mask=going.mask,
        past_key_values=going.cache,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList(chooses),
        stopping_criteria=StoppingCriteriaList([done]),
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=list(done.ending.ends),
        return_dict_in_generate=True,
    )
