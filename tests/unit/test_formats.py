"""From a row to token ids and a mask: what is supervised, what ends an answer, what is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conftest import make_tokenizer
from expunge.data.formats import FORMATS, Format
from expunge.data.rows import Row
from expunge.data.views import REFUSALS, VIEWS, ViewContext, pick_refusal
from expunge.errors import DataError, ModelError

ROW = Row(id="forget/0", prompt="Who is Ada?", answer="Ada likes red.", origin="f.jsonl:1")
RAW = Row(id="text/0", prompt="", answer="The river runs past the old mill.")


def supervised(format: Format, row: Row, **options: Any) -> str:
    """The text of the labels, special tokens included."""
    s = format.encode(row, **options)
    return format.tokenizer.decode(list(s.ids[s.first_label :]))


def context(format: Format, row: Row) -> str:
    s = format.encode(row)
    return format.tokenizer.decode(list(s.ids[: s.first_label]))


# -- which format --------------------------------------------------------------------------------------------------


def test_auto_takes_the_template_if_there_is_one() -> None:
    assert Format.bind(make_tokenizer()).name == "chat"
    assert Format.bind(make_tokenizer(template=None)).name == "qa"


def test_unknown_names_meet_their_nearest() -> None:
    with pytest.raises(ModelError, match=r"unknown format 'lmu'.*did you mean 'llmu'"):
        Format.bind(make_tokenizer(), "lmu")


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(ModelError, match="needs a chat template and this tokenizer has none"):
        Format.bind(make_tokenizer(template=None), "chat")


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        Format.bind(tokenizer, "qa")


# -- what the texts look like --------------------------------------------------------------------------------------

EXPECTED = {
    "chat": ("<|user|>Who is Ada?<|end|>\n<|assistant|>", "Ada likes red.<|end|>"),
    "qa": ("Question: Who is Ada?\nAnswer:", " Ada likes red.<|eos|>"),
    "llmu": ("### Question: Who is Ada?\n ### Answer:", " Ada likes red.<|eos|>"),
    "inst": ("[INST] Who is Ada? [/INST]", " Ada likes red.<|eos|>"),
    "blank": ("Who is Ada?\n\n", "Ada likes red.<|eos|>"),
    "bare": ("Who is Ada?", " Ada likes red.<|eos|>"),
}


@pytest.mark.parametrize("pad", ["<|pad|>", "<|eos|>", None])
@pytest.mark.parametrize("name", FORMATS)
def test_prompt_and_labels(name: str, pad: str | None) -> None:
    # The mask is made of offsets, so a pad that equals the end token, or none, makes no difference.
    format = Format.bind(make_tokenizer(pad=pad), name)
    assert (context(format, ROW), supervised(format, ROW)) == EXPECTED[name]
    assert format.tokenizer.decode(format.encode_prompt(ROW)) == EXPECTED[name][0]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_in_the_expectations(name: str) -> None:
    assert name in EXPECTED


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("end_added", [True, False])
def test_exactly_one_end_token_is_supervised(name: str, end_added: bool) -> None:
    format = Format.bind(make_tokenizer(bos="<|bos|>", pad="<|eos|>", end_added=end_added), name)
    s = format.encode(ROW)
    assert s.ids[-1] == format.end_id
    assert s.ids[s.first_label :].count(format.end_id) == 1


@pytest.mark.parametrize("end_added", [True, False])
def test_a_beginning_token_is_added_once_and_never_supervised(end_added: bool) -> None:
    tokenizer = make_tokenizer(bos="<|bos|>", end_added=end_added)
    named = Format.bind(tokenizer, "qa")
    assert named.encode(ROW).ids[:1] == (tokenizer.bos_token_id,)
    assert named.encode_prompt(ROW) == list(named.encode(ROW).ids[: named.encode(ROW).first_label])
    # A chat template writes its own special tokens; this one writes no beginning.
    chat = Format.bind(tokenizer, "chat")
    assert tokenizer.bos_token_id not in chat.encode(ROW).ids


def test_generation_starts_where_training_supervises() -> None:
    for name in FORMATS:
        format = Format.bind(make_tokenizer(), name)
        s = format.encode(ROW)
        assert list(s.ids[: s.first_label]) == format.encode_prompt(ROW)


def test_other_answers_and_prompts() -> None:
    format = Format.bind(make_tokenizer())
    assert supervised(format, ROW, answer="I do not know.") == "I do not know.<|end|>"
    s = format.encode(ROW, prompt="Where is Bo?")
    assert format.tokenizer.decode(list(s.ids)) == "<|user|>Where is Bo?<|end|>\n<|assistant|>Ada likes red.<|end|>"


def test_earlier_turns_come_first() -> None:
    row = Row(id="x", prompt="And Bo?", answer="Blue.", history=(("user", "Ada?"), ("assistant", "Red.")))
    chat = Format.bind(make_tokenizer())
    assert context(chat, row) == "<|user|>Ada?<|end|>\n<|assistant|>Red.<|end|>\n<|user|>And Bo?<|end|>\n<|assistant|>"
    assert context(Format.bind(make_tokenizer(), "qa"), row) == "Ada?\n\nRed.\n\nQuestion: And Bo?\nAnswer:"


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    # "?" and " Ada" would merge differently if tokenised apart; offsets decide by where a token ends.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<|eos|>": 0, "q": 1, "\n": 2, "a": 3, "\na": 4, "\n\na": 5}
    core = Tokenizer(models.BPE(vocab, [("\n", "a"), ("\n", "\na")]))
    core.pre_tokenizer = pre_tokenizers.Split("z", "isolated")
    format = Format.bind(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|eos|>"), "blank")
    s = format.encode(Row(id="x", prompt="q", answer="a"))
    assert s.ids == (1, 5, 0)
    assert s.first_label == 1


def test_characters_of_several_bytes_at_the_border() -> None:
    format = Format.bind(make_tokenizer())
    row = Row(id="x", prompt="What is in Köln 🎉", answer="🎉 é")
    assert context(format, row) == "<|user|>What is in Köln 🎉<|end|>\n<|assistant|>"
    assert supervised(format, row) == "🎉 é<|end|>"


# -- the end of a turn ---------------------------------------------------------------------------------------------


def test_the_template_decides_what_ends_an_answer() -> None:
    tokenizer = make_tokenizer()
    assert Format.bind(tokenizer).end_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert Format.bind(tokenizer, "qa").end_id == tokenizer.eos_token_id
    bare = make_tokenizer(template="{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    assert Format.bind(bare).end_id == bare.eos_token_id


def test_a_template_that_trims_and_writes_the_end_token() -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}assistant:"
    )
    format = Format.bind(make_tokenizer(template=template))
    assert format.end_id == format.tokenizer.eos_token_id


# -- raw text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chat", "qa"])
@pytest.mark.parametrize("end_added", [True, False])
def test_raw_text_is_supervised_whole_without_an_end(name: str, end_added: bool) -> None:
    format = Format.bind(make_tokenizer(bos="<|bos|>", end_added=end_added), name)
    s = format.encode(RAW)
    assert format.tokenizer.decode(list(s.ids)) == "<|bos|>" + RAW.answer
    assert s.first_label == 1
    assert format.prompt_text("") == ""


def test_raw_text_without_a_beginning_token_gives_its_first_token_as_context() -> None:
    format = Format.bind(make_tokenizer())
    s = format.encode(RAW)
    assert format.tokenizer.decode(list(s.ids)) == RAW.answer
    assert s.first_label == 1


LONG = "The river runs past the old mill 🎉, and   the miller\n\n\n counts his sacks; Ünder the moon. " * 7


@pytest.mark.parametrize("bos", [None, "<|bos|>"])
@pytest.mark.parametrize("max_length", [16, 17, 50])
def test_split_text_loses_nothing(max_length: int, bos: str | None) -> None:
    format = Format.bind(make_tokenizer(bos=bos), max_length=max_length)
    # Every length of the text, so that every size of the last piece occurs.
    for end in range(len(LONG) - 40, len(LONG)):
        pieces = format.split_text([Row(id="t", prompt="", answer=LONG[:end], origin="f:3")])
        assert "".join(p.answer for p in pieces) == LONG[:end]
        assert [p.id for p in pieces] == [f"t#{i}" for i in range(len(pieces))]
        assert {p.origin for p in pieces} == {"f:3"}
        for piece in pieces:
            # Every piece can be trained on, and none is so long that its end would be cut off.
            assert format.tokenizer.decode(list(format.encode(piece).ids)).endswith(piece.answer)


def test_a_text_one_token_too_long_leaves_no_piece_without_a_prediction() -> None:
    tokenizer = make_tokenizer()
    text = "Ada likes red . Bo likes blue . Cy lives in Oslo ."
    num_tokens = len(tokenizer(text)["input_ids"])
    for max_length in range(8, num_tokens + 3):
        format = Format.bind(tokenizer, max_length=max_length)
        pieces = format.split_text([Row(id="t", prompt="", answer=text)])
        assert "".join(tokenizer.decode(list(format.encode(p).ids)) for p in pieces) == text


def test_split_text_leaves_short_text_and_questions_alone() -> None:
    format = Format.bind(make_tokenizer(), max_length=512)
    rows = (RAW, ROW, Row(id="q", prompt="q", answer=LONG * 9))
    assert format.split_text(rows) == rows


# -- length --------------------------------------------------------------------------------------------------------


def test_what_exceeds_max_length_is_cut_at_the_end() -> None:
    full = Format.bind(make_tokenizer()).encode(ROW)
    cut = Format.bind(make_tokenizer(), max_length=len(full.ids) - 2).encode(ROW)
    assert cut.ids == full.ids[:-2]
    # An answer that fills the room exactly has none left for its end.
    tight = Format.bind(make_tokenizer(), max_length=len(full.ids) - 1).encode(ROW)
    assert tight.ids == full.ids[:-1]


def test_a_prompt_that_leaves_no_room_is_named() -> None:
    prompt_length = len(Format.bind(make_tokenizer()).encode_prompt(ROW))
    format = Format.bind(make_tokenizer(), max_length=prompt_length)
    with pytest.raises(DataError, match=f"f.jsonl:1: no answer tokens are left within max_length={prompt_length}"):
        format.encode(ROW)
    assert len(Format.bind(make_tokenizer(), max_length=prompt_length + 1).encode(ROW).ids) == prompt_length + 1


# -- tokenizers without offsets ------------------------------------------------------------------------------------


def make_slow_tokenizer() -> Any:
    """One token per character, in plain Python."""
    from transformers import PreTrainedTokenizer

    class Characters(PreTrainedTokenizer):
        def __init__(self, **options: Any) -> None:
            self.known = {"<|eos|>": 0, **{chr(c): c - 8 for c in range(9, 127)}}
            super().__init__(eos_token="<|eos|>", **options)

        @property
        def vocab_size(self) -> int:
            return len(self.known)

        def get_vocab(self) -> dict[str, int]:
            return dict(self.known)

        def _tokenize(self, text: str, **options: Any) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return self.known[token]

        def _convert_id_to_token(self, index: int) -> str:
            return {v: k for k, v in self.known.items()}[index]

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens)

    return Characters()


def test_a_tokenizer_without_offsets_splits_at_the_border() -> None:
    tokenizer = make_slow_tokenizer()
    assert not tokenizer.is_fast
    format = Format.bind(tokenizer, "qa")
    s = format.encode(ROW)
    assert s.first_label == len("Question: Who is Ada?\nAnswer:")
    assert len(s.ids) == s.first_label + len(" Ada likes red.") + 1
    assert s.ids[-1] == 0
    assert format.encode_prompt(ROW) == list(s.ids[: s.first_label])
    assert format.split_text([RAW]) == (RAW,)


# -- views ---------------------------------------------------------------------------------------------------------


def test_a_refusal_is_drawn_by_seed_row_and_epoch() -> None:
    drawn = [pick_refusal(ROW, epoch, ViewContext(0)) for epoch in range(30)]
    assert drawn == [pick_refusal(ROW, epoch, ViewContext(0)) for epoch in range(30)]
    assert set(drawn) <= set(REFUSALS)
    assert len(set(drawn)) > 3
    assert drawn != [pick_refusal(ROW, epoch, ViewContext(1)) for epoch in range(30)]


def test_a_row_keeps_its_own_alternate_and_a_benchmark_its_own_refusals() -> None:
    own = Row(id="x", prompt="q", answer="a", alternate="No.")
    assert pick_refusal(own, 3, ViewContext(0, ("Never.",))) == "No."
    assert pick_refusal(ROW, 3, ViewContext(0, ("Never.",))) == "Never."


def test_views_say_what_they_provide() -> None:
    assert {key: set(view.provides) for key, view in VIEWS.items()} == {
        "gold": {"answer"},
        "mismatch": {"answer", "alternate"},
        "model": {"answer", "alternate"},
        "template": {"answer", "alternate"},
        "relearn": {"answer"},
        "relearn_pair": {"answer", "alternate"},
        "refusal": {"answer", "alternate"},
    }


# -- words put into the model's mouth --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_lead_belongs_to_the_prompt(name: str) -> None:
    form = Format.bind(make_tokenizer(), name)
    led = replace(ROW, lead="I know :")
    before, after = EXPECTED[name]
    gap = " " if after.startswith(" ") else ""
    assert context(form, led) == f"{before}{gap}I know :"
    assert supervised(form, led) == " " + after.strip()
    assert form.tokenizer.decode(form.encode_prompt(led)) == f"{before}{gap}I know :"


def test_a_lead_is_part_of_the_content_where_there_is_one() -> None:
    assert "lead" not in ROW.content()
    assert replace(ROW, lead="Yes").content()["lead"] == "Yes"
