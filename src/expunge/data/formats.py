"""How a question and its answer become one text, and that text token ids with a mask.

A chat model uses its own template. A model without one uses a named format; which one is stored with the model, so that
training, scoring and generation can never disagree. The mask comes from character offsets: a token belongs to the
answer if it ends after the prompt does. Pad ids play no part in it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.data.lazy import CutRows, LazyRows
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.errors import DataError, ModelError, unknown

# name -> (before the question, between question and answer); the answer follows after one space or directly.
NAMED_FORMATS: dict[str, tuple[str, str, str]] = {
    "qa": ("Question: ", "\nAnswer:", " "),
    "llmu": ("### Question: ", "\n ### Answer:", " "),
    "inst": ("[INST] ", " [/INST]", " "),
    "blank": ("", "\n\n", ""),
    "bare": ("", "", " "),
}
FORMATS = ("chat", *NAMED_FORMATS)

_MARK = "expunge-answer-mark"
_COUNTED = 256
"""Texts that are tokenised together to count their tokens."""


@dataclass(frozen=True)
class Format:
    """A chat format bound to a tokenizer."""

    name: str
    """``chat`` (the tokenizer's own template) or a key of ``NAMED_FORMATS``."""
    tokenizer: Any
    max_length: int
    end_id: int
    """The token that ends an answer: supervised once, and generation stops at it."""

    @classmethod
    def bind(cls, tokenizer: Any, name: str = "auto", max_length: int = 512) -> Format:
        """Choose a format for a tokenizer: its chat template if it has one, else ``qa``.

        Raises:
            ModelError: for an unknown name, for ``chat`` without a template, or a tokenizer without an end token.
        """
        if name == "auto":
            name = "chat" if getattr(tokenizer, "chat_template", None) else "qa"
        if name not in FORMATS:
            raise ModelError(unknown("format", name, ["auto", *FORMATS]))
        if name == "chat" and not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                f"format 'chat' needs a chat template and this tokenizer has none; use one of {FORMATS[1:]}"
            )
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token and save it")
        end_id = _turn_end(tokenizer) if name == "chat" else tokenizer.eos_token_id
        return cls(name, tokenizer, max_length, end_id)

    def prompt_text(self, prompt: str, history: Iterable[tuple[str, str]] = ()) -> str:
        """The text up to where the answer begins; empty for raw text."""
        if not prompt and not history:
            return ""
        if self.name == "chat":
            messages = [{"role": role, "content": content} for role, content in history]
            messages.append({"role": "user", "content": prompt})
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, between, _ = NAMED_FORMATS[self.name]
        turns = [content for _, content in history]
        return "\n\n".join([*turns, f"{before}{prompt}{between}"])

    def encode(self, row: Row, answer: str | None = None, prompt: str | None = None) -> TokenSequence:
        """Token ids and mask of a row, with another answer or prompt where given.

        An answer is followed by one supervised end token; raw text is not. What exceeds ``max_length`` is cut off.

        Raises:
            DataError: if no token of the answer is left to supervise.
        """
        prompt_text = self._opening(row, prompt)
        answer = row.answer if answer is None else answer
        ids, first = self._tokenize(prompt_text, answer, self._gap(prompt_text, row.lead) if answer else "")
        if prompt_text and len(ids) < self.max_length:
            ids.append(self.end_id)
        ids = ids[: self.max_length]
        first = max(first, 1)
        if first >= len(ids):
            where = row.origin or row.id
            raise DataError(
                f"{where}: no answer tokens are left within max_length={self.max_length}; "
                "raise max_length or shorten the row"
            )
        return TokenSequence(tuple(ids), first)

    def encode_prompt(self, row: Row, prompt: str | None = None) -> list[int]:
        """Token ids that generation starts from."""
        return self._tokenize(self._opening(row, prompt), "", "")[0]

    def _opening(self, row: Row, prompt: str | None) -> str:
        """Everything before the answer: the prompt, and the words that the answer is made to begin with."""
        text = self.prompt_text(row.prompt if prompt is None else prompt, row.history)
        return text + self._gap(text, "") + row.lead if row.lead else text

    def _gap(self, prompt_text: str, lead: str) -> str:
        """What stands between the answer and what is before it."""
        if lead:
            return " "
        return NAMED_FORMATS[self.name][2] if self.name != "chat" and prompt_text else ""

    def _tokenize(self, prompt_text: str, answer: str, gap: str) -> tuple[list[int], int]:
        """Ids of prompt and answer together, and the index of the first token that reaches into the answer."""
        # A template writes its own special tokens as text; named formats leave the beginning token to the tokenizer.
        special = not (self.name == "chat" and prompt_text)
        text = prompt_text + gap + answer
        if not self._is_fast:
            head = self.tokenizer(prompt_text, add_special_tokens=special)["input_ids"]
            tail = self.tokenizer(gap + answer, add_special_tokens=False)["input_ids"]
            head = self._without_end(head, special)
            return head + tail, len(head)
        encoded = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ids = self._without_end(encoded["input_ids"], special)
        ends = [end for _, end in encoded["offset_mapping"][: len(ids)]]
        border = len(prompt_text)
        first = next((i for i, end in enumerate(ends) if end > border), len(ids))
        return ids, first

    def _without_end(self, ids: list[int], special: bool) -> list[int]:
        """Drop an end token that some tokenizers add among their special ones; ours is added exactly once."""
        ids = list(ids)
        while special and ids and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()
        return ids

    def split_text(self, rows: Iterable[Row]) -> Sequence[Row]:
        """Cut raw-text rows that exceed ``max_length`` into several rows, at token borders of the original text.

        Of a set too large for memory only the number of pieces of each row is found now; it is cut when it is read.
        """
        if isinstance(rows, LazyRows):
            return CutRows(rows, self._cut, rows.counts(self._cut_key(), self._counts)) if self._is_fast else rows
        return tuple(piece for row in rows for piece in self._cut(row))

    @property
    def _is_fast(self) -> bool:
        """Whether the tokenizer tells where in the text its tokens stand, without which nothing is cut."""
        return bool(getattr(self.tokenizer, "is_fast", False))

    def _cut(self, row: Row) -> tuple[Row, ...]:
        pieces = [row.answer] if row.prompt or row.history else self._pieces(row.answer)
        if len(pieces) == 1:
            return (row,)
        return tuple(
            Row(id=f"{row.id}#{part}", prompt="", answer=piece, made=row.made, origin=row.origin)
            for part, piece in enumerate(pieces)
        )

    def _counts(self, rows: Iterable[Row]) -> Iterator[int]:
        """Into how many pieces each row is cut; many are tokenised together, and those that fit are not looked at."""
        stream = iter(rows)
        while batch := list(itertools.islice(stream, _COUNTED)):
            texts = ["" if row.prompt or row.history else row.answer for row in batch]
            tokens = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            for row, ids in zip(batch, tokens, strict=True):
                yield 1 if len(ids) < self.max_length else len(self._cut(row))

    def _cut_key(self) -> str:
        """What tells cuts apart: the tokenizer and the length."""
        core = self.tokenizer.backend_tokenizer.to_str()
        return hashlib.sha256(f"{self.max_length} {core}".encode()).hexdigest()[:16]

    def _pieces(self, text: str) -> list[str]:
        if not self._is_fast:
            return [text]
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) < self.max_length:  # one place is left for a beginning token
            return [text]
        count = math.ceil(len(offsets) / (self.max_length - 2))
        # Even pieces: a last one of a single token would have nothing to predict.
        places = {offsets[len(offsets) * part // count][0] for part in range(1, count)}
        cuts = sorted(places - {0, len(text)})
        if not cuts:
            return [text]
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
        # A piece may tokenise differently alone, or take in a whole character that the count had split.
        return [small for piece in pieces for small in self._pieces(piece)]


def _turn_end(tokenizer: Any) -> int:
    """The first special token that the template writes after an assistant's answer, else the tokenizer's end token."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    _, found, tail = text.rpartition(_MARK)
    if found and tail:
        # Some templates end a turn with a token that is special without being named so (Phi-3's <|end|>).
        marked = {i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
        special = marked | set(tokenizer.all_special_ids)
        for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
            if token in special:
                return token
    return tokenizer.eos_token_id
