"""The generation pass: greedy answers in batches, sorted by length and padded on the left."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import torch

from expunge.errors import ResourceError
from expunge.models.load import LoadedModel
from expunge.progress import Bar


@torch.no_grad()
def generate_answers(
    loaded: LoadedModel,
    prompts: SequenceOf[SequenceOf[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    update: Bar | None = None,
) -> list[str]:
    """Greedy continuations of tokenised prompts, cut at the end of the answer.

    Args:
        loaded: the model.
        prompts: token ids; equal prompts are answered once.
        max_new_tokens: longest answer.
        batch_size: rows that are decoded together.
        update: progress, in prompts.

    Returns:
        Decoded answers without special tokens, stripped, in the order of ``prompts``.

    Raises:
        ResourceError: out of memory.
    """
    model = loaded.model
    was_training = model.training
    model.eval()
    # Rows of like length stand together, so that little is padded.
    unique = sorted({tuple(p) for p in prompts}, key=lambda ids: (len(ids), ids))
    answers: dict[tuple[int, ...], str] = {}
    for start in range(0, len(unique), batch_size):
        batch = unique[start : start + batch_size]
        try:
            answers.update(zip(batch, _generate_batch(loaded, batch, max_new_tokens), strict=True))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ResourceError(
                f"out of memory while generating; lower evaluate.generation_batch (now {batch_size})"
            ) from error
        if update:
            update(len(answers), len(unique))
    model.train(was_training)
    return [answers[tuple(p)] for p in prompts]


def _generate_batch(loaded: LoadedModel, batch: list[tuple[int, ...]], max_new_tokens: int) -> list[str]:
    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    device = next(loaded.model.parameters()).device
    output = loaded.model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=sorted({loaded.format.end_id, loaded.tokenizer.eos_token_id}),
    )
    return [text.strip() for text in loaded.tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)]
