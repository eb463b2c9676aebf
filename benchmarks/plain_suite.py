"""The plain way to evaluate: a padded pass for each metric and each wrong answer, then generation in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.plain_forward import Answer, forward
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.evaluation.evaluate import NOT_GENERATED
from expunge.evaluation.metrics import rouge_columns
from expunge.evaluation.metrics.membership_scores import min_k
from expunge.evaluation.metrics.memorization import extraction_strength
from expunge.models.load import LoadedModel

BATCH = 32
Columns = dict[str, np.ndarray]
Read = Callable[[Answer, Sequence[TokenSequence]], list[float]]


class PlainSuite:
    """TOFU's metrics over probe sets, each by itself."""

    def __init__(self, loaded: LoadedModel, new_tokens: int) -> None:
        self.loaded = loaded
        self.new_tokens = new_tokens
        self.seconds = {"teacher-forced": 0.0, "generation": 0.0}
        self.texts: dict[str, list[str]] = {}
        loaded.model.set_attn_implementation("sdpa")
        loaded.model.eval()

    @torch.no_grad()
    def run(self, probes: Mapping[str, Sequence[Row]]) -> dict[str, Columns]:
        """Columns by set, called as expunge calls them."""
        return {name: self._set(name, rows) for name, rows in probes.items() if rows}

    def _set(self, name: str, rows: Sequence[Row]) -> Columns:
        encode = self.loaded.format.encode
        gold = [encode(row) for row in rows]
        columns: Columns = {}
        with self._timed("teacher-forced"):
            if name in ("forget", *NOT_GENERATED):
                columns["mia_min_k"] = self._pass(gold, self._min_k)
            if name in NOT_GENERATED:
                return columns
            columns["avg_loss"] = self._pass(gold, _losses)
            if name == "forget":
                columns["extraction_strength"] = self._pass(gold, self._extraction)
            if all(row.paraphrased_answer for row in rows):
                told = [encode(row, answer=row.paraphrased_answer) for row in rows]
                columns["paraphrase_avg_loss"] = self._pass(told, _losses)
            if num_wrong := min(len(row.perturbed_answers) for row in rows):
                wrong = [
                    self._pass([encode(row, answer=row.perturbed_answers[i]) for row in rows], _losses)
                    for i in range(num_wrong)
                ]
                columns["perturbed_avg_loss"] = np.stack(wrong, axis=1)
        with self._timed("generation"):
            self.texts[name] = self._generate(rows)
        return columns | rouge_columns(self.texts[name], [row.answer for row in rows])

    def _pass(self, sequences: Sequence[TokenSequence], read: Read) -> np.ndarray:
        """``(n,)`` from one pass over a set."""
        found: list[float] = []
        for start in range(0, len(sequences), BATCH):
            members = sequences[start : start + BATCH]
            found += read(forward(self.loaded.model, members, pad_id=self.loaded.tokenizer.pad_token_id), members)
        return np.array(found)

    def _min_k(self, answer: Answer, members: Sequence[TokenSequence]) -> list[float]:
        spoken = answer.logits.float().log_softmax(-1)
        labels = answer.targets.clamp(min=0)
        logps = spoken.gather(-1, labels[..., None])[..., 0]
        return [min_k(values) for values in self._own(answer, members, logps)]

    def _extraction(self, answer: Answer, members: Sequence[TokenSequence]) -> list[float]:
        correct = answer.logits.argmax(-1) == answer.targets
        return [extraction_strength(values) for values in self._own(answer, members, correct)]

    def _own(self, answer: Answer, members: Sequence[TokenSequence], values: torch.Tensor) -> Iterator[np.ndarray]:
        """Each answer's values without that of a token that ends it."""
        for row, s in enumerate(members):
            kept = values[row][answer.labelled[row]].cpu().numpy()
            yield kept[:-1] if s.ids[-1] == self.loaded.format.end_id else kept

    def _generate(self, rows: Sequence[Row]) -> list[str]:
        """Greedy answers in batches as the rows come, padded on the left."""
        prompts = [self.loaded.format.encode_prompt(row) for row in rows]
        texts: list[str] = []
        for start in range(0, len(prompts), BATCH):
            texts += self._answers(prompts[start : start + BATCH])
        return texts

    def _answers(self, prompts: Sequence[list[int]]) -> list[str]:
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        device = next(model.parameters()).device
        settings: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "top_k"))
        made = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted({self.loaded.format.end_id, tokenizer.eos_token_id}),
            **settings,
        )
        return [text.strip() for text in tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)]

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started


def _losses(answer: Answer, members: Sequence[TokenSequence]) -> list[float]:
    """Mean loss of each answer."""
    return (-answer.logps / answer.lengths).tolist()
