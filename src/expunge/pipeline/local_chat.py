"""A model in this process as a chat model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from expunge.data.rows import Row
from expunge.evaluation.generator import generate_answers
from expunge.llm.endpoint import Parse, Question, read_reply
from expunge.models.load import LoadedModel
from expunge.progress import Bar

T = TypeVar("T")
_AT_ONCE = 16


class LocalChat:
    """Greedy replies of a loaded model, in its own chat format.

    Small models rarely keep to a JSON form: a reply without an object is taken for the text that was asked for.

    Args:
        loaded: the model.
        name: how it is called in the record.
        max_new_tokens: longest reply.
    """

    def __init__(self, loaded: LoadedModel, *, name: str, max_new_tokens: int = 192) -> None:
        self.name = f"local model {name}"
        self._loaded, self._max_new_tokens = loaded, max_new_tokens

    def ask(self, questions: Sequence[Question], parse: Parse[T], *, update: Bar | None = None) -> list[T | None]:
        """Parsed answers in order; None where there is no readable one."""
        prompts = [self._prompt(question) for question in questions]
        out: list[T | None] = []
        for start in range(0, len(prompts), _AT_ONCE):
            texts = generate_answers(
                self._loaded, prompts[start : start + _AT_ONCE], max_new_tokens=self._max_new_tokens
            )
            out += [self._read(text, parse) for text in texts]
            if update:
                update(len(out), len(prompts))
        return out

    def _prompt(self, question: Question) -> list[int]:
        text = f"{question.task}\n\n{json.dumps(dict(question.fields), ensure_ascii=False)}"
        return self._loaded.format.encode_prompt(Row(id="ask", prompt=text, answer=""), prompt=text)

    @staticmethod
    def _read(text: str, parse: Parse[T]) -> T | None:
        found = read_reply(text, parse)
        return parse({"text": text}) if found is None and "{" not in text else found
