"""`expunge augment` against a real server on loopback, well-behaved and not; by rules; and by a model in process."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.data.augment import leaks
from expunge.data.rows import Row
from expunge.data.sources import read_rows
from expunge.data.views import VIEWS, ViewContext
from expunge.errors import DataError, ModelError, UserError
from expunge.methods.table import compose
from expunge.recipe import UnlearnPart

QUESTIONS = [
    {"question": "What did Ada Quill build in the harbour?", "answer": "She built the brass lighthouse of Ormer."},
    {"question": "Where was Bo Tarn taught?", "answer": "Bo was taught in Vessel Street by an old sailmaker."},
    {"question": "Which animal did Cy Lodge keep?", "answer": "He kept a spotted heron called Biscuit."},
]
Act = Callable[[dict[str, Any], int], tuple[int, str]]


def letters(text: str) -> str:
    """A word without meaning that stands for a text, so that an answer shows what it was written for."""
    return "x" + "".join(chr(ord("a") + byte % 26) for byte in text.encode())[:60]


def task_of(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    told, asked = (message["content"] for message in body["messages"])
    fields = json.loads(asked)
    kind = "check" if "text" in fields else "vague" if "answer" in fields else "variant"
    return (told.split("\n")[0] if kind == "variant" else kind), fields


def good(body: dict[str, Any]) -> dict[str, Any]:
    task, fields = task_of(body)
    if task == "check":
        return {"tells": False}
    if task == "vague":
        return {"text": f"This is spoken of in general terms, {letters(fields['question'])}."}
    return {"text": f"{fields['question']} {letters(task)}"}


class Server:
    """Chat completions on loopback; counts what it was asked for and answered."""

    def __init__(self, act: Act) -> None:
        self.act, self.calls, self.seen = act, 0, Counter[str]()
        self.done = threading.Event()
        lock, owner = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = json.dumps(body, sort_keys=True)
                with lock:
                    owner.calls += 1
                    owner.seen[key] += 1
                    turn = owner.seen[key]
                status, text = owner.act(body, turn)
                if status == 0:  # never answers: the client gives up, and the end of the test lets go
                    owner.done.wait()
                    return
                self.send_response(status)
                self.send_header("retry-after", "7") if status == 429 else None
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.done.set()
        self.server.shutdown()
        self.server.server_close()


def completion(content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    return json.dumps({"choices": [{"message": {"content": text}}]})


@pytest.fixture
def serve() -> Iterator[Callable[[Act], Server]]:
    servers: list[Server] = []

    def start(act: Act) -> Server:
        servers.append(Server(act))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def forget(tmp_path: Path) -> Path:
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ask(forget: Path, out: Path, server: Server, **more: Any) -> Any:
    pauses: list[float] = []
    endpoint = {"timeout": 0.3, **more.pop("endpoint", {})}
    made = expunge.augment(forget, out=out, llm=server.url, model="m", endpoint=endpoint, sleep=pauses.append, **more)
    return made, pauses


def test_every_answer_is_linked_to_its_own_question_and_no_original_comes_in(
    forget: Path, tmp_path: Path, serve: Callable[[Act], Server]
) -> None:
    server = serve(lambda body, turn: (200, completion(good(body))))
    made, _ = ask(forget, tmp_path / "out.jsonl", server)
    written = records(tmp_path / "out.jsonl")
    whole = [row for row in written if not row["style"].endswith("/completion")]
    assert len(whole) == 5 * 3
    assert len(written) == made.rows == 2 * len(whole)
    for row in whole:
        assert letters(row["question"]) in row["answer"]
        source = QUESTIONS[int(row["source"].rpartition(":")[2]) - 1]
        assert row["question"].startswith(source["question"])
        assert row["writer"] == f"endpoint m at {server.url.split('/')[2]}"
    for row in whole:
        source = QUESTIONS[int(row["source"].rpartition(":")[2]) - 1]
        assert not leaks(row["answer"], Row(id="x", prompt=row["question"], answer=source["answer"]))
    assert not {row["answer"] for row in QUESTIONS} & {
        text for row in written for text in (row["question"], row["answer"])
    }
    assert server.calls == 3 * 4 + 15 + 15
    # The answer is not sent where a question is only to be asked again.
    assert all("answer" not in task_of(json.loads(key))[1] for key in server.seen if "Answer nothing" in key)


def test_nothing_is_paid_for_twice(forget: Path, tmp_path: Path, serve: Callable[[Act], Server]) -> None:
    server = serve(lambda body, turn: (200, completion(good(body))))
    out = tmp_path / "out.jsonl"
    ask(forget, out, server)
    first, calls = out.read_bytes(), server.calls
    out.unlink()
    ask(forget, out, server)
    assert (out.read_bytes(), server.calls) == (first, calls)


def test_a_server_that_misbehaves(forget: Path, tmp_path: Path, serve: Callable[[Act], Server]) -> None:
    """Every request fails at first, each in its own way, and is answered in the end."""
    ways = [
        (429, "slow down"),
        (500, "oops"),
        (0, ""),
        (200, completion('{"text": "cut of')),
        (200, completion("I cannot help with that.")),
        (200, "<html>"),
    ]
    order: dict[str, int] = {}
    lock = threading.Lock()

    def act(body: dict[str, Any], turn: int) -> tuple[int, str]:
        with lock:
            number = order.setdefault(json.dumps(body, sort_keys=True), len(order))
        return ways[number % len(ways)] if turn == 1 else (200, completion(good(body)))

    server = serve(act)
    _, pauses = ask(forget, tmp_path / "out.jsonl", server, endpoint={"concurrency": 8})
    assert len(records(tmp_path / "out.jsonl")) == 30
    assert 7.0 in pauses
    assert set(server.seen.values()) == {2}


def test_what_leaks_is_written_again_with_its_words_named_and_dropped_in_the_end(
    forget: Path, tmp_path: Path, serve: Callable[[Act], Server], capsys: pytest.CaptureFixture[str]
) -> None:
    def act(body: dict[str, Any], turn: int) -> tuple[int, str]:
        task, fields = task_of(body)
        if task == "vague" and "heron" in fields["answer"] and fields["question"] == QUESTIONS[2]["question"]:
            return 200, completion({"text": "There was a heron, as far as is known."})
        if task == "vague" and "Ormer" in fields["answer"] and "avoid" not in fields:
            return 200, completion({"text": "It had to do with a lighthouse, it is said."})
        if task == "check" and "Vessel" in fields["answer"] and "attempt" not in fields:
            return 200, completion({"tells": fields["question"] == QUESTIONS[1]["question"]})
        return 200, completion(good(body))

    server = serve(act)
    made, _ = ask(forget, tmp_path / "out.jsonl", server, completions=False)
    written = records(tmp_path / "out.jsonl")
    assert len(written) == 15 - 2
    assert not any("heron" in row["answer"] or "lighthouse" in row["answer"] for row in written)
    assert made.summary["dropped"] == {
        "it has words of the original, or facts": 1,
        "the check found that it tells something": 1,
    }
    asked = [task_of(json.loads(key)) for key in server.seen]
    avoided = {tuple(fields["avoid"]) for task, fields in asked if task == "vague" and "avoid" in fields}
    assert avoided == {("lighthouse",), ("heron",)}
    said = capsys.readouterr().err
    assert "2 of 15 questions stay without a vague answer" in said
    assert "heron" not in said


def test_a_server_that_breaks_down_writes_nothing_and_the_next_run_asks_for_the_rest(
    forget: Path, tmp_path: Path, serve: Callable[[Act], Server]
) -> None:
    broken = threading.Event()
    broken.set()

    def act(body: dict[str, Any], turn: int) -> tuple[int, str]:
        task, _ = task_of(body)
        return (500, "down") if broken.is_set() and task == "check" else (200, completion(good(body)))

    server = serve(act)
    out = tmp_path / "out.jsonl"
    with pytest.raises(ModelError, match="failed for 15 of 15 answers; nothing is written"):
        ask(forget, out, server)
    assert not out.exists()
    broken.clear()
    before = {key for key in server.seen if task_of(json.loads(key))[0] != "check"}
    counts = {key: server.seen[key] for key in before}
    ask(forget, out, server)
    assert {key: server.seen[key] for key in before} == counts
    assert len(records(out)) == 30


def test_pairs_and_general_questions(forget: Path, tmp_path: Path, serve: Callable[[Act], Server]) -> None:
    server = serve(lambda body, turn: (200, completion(good(body))))
    general = tmp_path / "g.jsonl"
    general.write_text("".join(json.dumps({"question": f"Q{i}?", "answer": f"A{i}"}) + "\n" for i in range(50)))
    made, _ = ask(forget, tmp_path / "rows.jsonl", server, generic=general, ratio=0.5)
    assert (made.rows, made.summary["written"], made.summary["generic"]) == (30 + 15, 30, 15)
    ask(forget, tmp_path / "pairs.jsonl", server, pairs=True)
    rows = read_rows(tmp_path / "pairs.jsonl", set_name="forget")
    assert len(rows) == 12
    answers = [row["answer"] for row in QUESTIONS]
    assert all(row.answer in answers and row.alternate for row in rows)
    # The words that the page names: the alternates of the file are taken as they are.
    composition = compose(UnlearnPart(method="relearn_dpo", view="model"), has_retain=False)
    view = VIEWS[composition.view]
    assert view.rows is not None
    assert view.alternate is not None
    assert [view.alternate(row, 0, ViewContext()) for row in view.rows(rows, ViewContext())] == [
        r.alternate for r in rows
    ]


def test_own_prompts_are_used_and_recorded(forget: Path, tmp_path: Path, serve: Callable[[Act], Server]) -> None:
    server = serve(lambda body, turn: (200, completion(good(body))))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "vague.txt").write_text("Say it with flowers.")
    ask(forget, tmp_path / "a.jsonl", server)
    ask(forget, tmp_path / "b.jsonl", server, prompts=tmp_path / "own")
    assert any("Say it with flowers." in key for key in server.seen)
    marks = [{row["prompts"] for row in records(tmp_path / name)} for name in ("a.jsonl", "b.jsonl")]
    assert len(marks[0] | marks[1]) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"llm": "http://127.0.0.1:1/v1"}, "give the name that the model has at the address"),
        ({"llm": "http://u:p@h/v1", "model": "m"}, "url must be"),
        (
            {"llm": "http://h/v1", "model": "m", "endpoint": {"tris": 2}},
            "unknown option 'tris' (did you mean 'tries'?)",
        ),
        ({"llm": "http://h/v1", "model": "m", "endpoint": {"key_env": "NOT_SET_HERE"}}, "NOT_SET_HERE is not set"),
        ({"model": "m"}, "the rules read no prompts and call nobody"),
        ({"ratio": -1}, "ratio must be at least 0"),
        ({"ratio": float("nan")}, "ratio must be at least 0, got nan"),
        ({"pairs": True, "generic": "g.jsonl"}, "pairs take no general questions"),
        ({"llm": "http://h/v1", "model": "m", "endpoint": {"concurrency": "abc"}}, ".concurrency"),
        ({"llm": "http://h/v1", "model": "m", "endpoint": {"cache": 5}}, ".cache"),
        ({"llm": "http://h/v1", "model": "m", "endpoint": {"url": "x"}}, "'url' is no setting of the endpoint"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"llm": "openai", "model": "m"}, "needs OPENAI_BASE_URL and OPENAI_API_KEY"),
        ({"llm": "no/such", "model": "m"}, "'no/such' is no address"),
        ({"prompts": "nowhere"}, "nowhere is no folder"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    forget: Path, tmp_path: Path, settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "EXPUNGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as error:
        expunge.augment(forget, out=tmp_path / "out.jsonl", **settings)
    assert said in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".jsonl") == ["f.jsonl"]


def test_what_is_read_is_not_written_over(forget: Path, tmp_path: Path) -> None:
    before = forget.read_bytes()
    with pytest.raises(DataError, match="is the forget file itself"):
        expunge.augment(forget, out=forget)
    assert forget.read_bytes() == before
    with pytest.raises(DataError, match=r"forget.*generic"):
        expunge.augment(forget, out=tmp_path / "out.jsonl", generic=forget)
    with pytest.raises(DataError, match=r"give a name that ends in \.jsonl"):
        expunge.augment(forget, out=tmp_path / "out.csv")
    with pytest.raises(DataError, match="cannot be written"):
        expunge.augment(forget, out=forget / "below" / "out.jsonl")


def test_an_echo_a_refusal_and_half_a_character_are_no_answers(tmp_path: Path, serve: Callable[[Act], Server]) -> None:
    """The question has every word of the answer, so that no single word could give it away."""
    forget = tmp_path / "f.jsonl"
    forget.write_text('{"question": "Is Ada Quill a keeper or a sailor?", "answer": "Ada Quill is a sailor."}\n')
    replies = iter(["Well: Ada Quill is a sailor, they say.", "I cannot help with that.", "So it goes \\ud83d"])

    def act(body: dict[str, Any], turn: int) -> tuple[int, str]:
        task, fields = task_of(body)
        if task == "vague" and fields["question"].endswith("sailor?") and (reply := next(replies, None)):
            return 200, completion(f'{{"text": "{reply}"}}')
        return 200, completion(good(body))

    server = serve(act)
    ask(forget, tmp_path / "out.jsonl", server, completions=False)
    answers = [row["answer"] for row in records(tmp_path / "out.jsonl")]
    assert len(answers) == 5
    assert next(replies, None) is None
    assert all(answer.startswith("This is spoken of in general terms") for answer in answers)


def test_an_outage_while_variants_are_written_writes_nothing(
    forget: Path, tmp_path: Path, serve: Callable[[Act], Server]
) -> None:
    def act(body: dict[str, Any], turn: int) -> tuple[int, str]:
        task, _ = task_of(body)
        return (200, completion(good(body))) if task in ("vague", "check") else (500, "down")

    with pytest.raises(ModelError, match="failed for 12 of 12 variants; nothing is written"):
        ask(forget, tmp_path / "out.jsonl", serve(act))
    assert not (tmp_path / "out.jsonl").exists()


def test_earlier_turns_are_sent_along(tmp_path: Path, serve: Callable[[Act], Server]) -> None:
    turns = ["Who built the brass lighthouse?", "Ada Quill.", "And where was that?", "It was at Ormer."]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    forget = tmp_path / "f.jsonl"
    forget.write_text(json.dumps({"messages": messages}) + "\n")
    server = serve(lambda body, turn: (200, completion(good(body))))
    ask(forget, tmp_path / "out.jsonl", server)
    assert server.seen
    assert all("Ada Quill." in json.dumps(task_of(json.loads(key))[1]["earlier"]) for key in server.seen)
    asked = [json.loads(key) for key in server.seen]
    assert {body["temperature"] for body in asked if task_of(body)[0] == "check"} == {0.0}
    assert len(records(tmp_path / "out.jsonl")) == 10


def test_the_rules_need_nobody(forget: Path, tmp_path: Path) -> None:
    made = expunge.augment(forget, out=tmp_path / "out.jsonl")
    written = records(tmp_path / "out.jsonl")
    assert made.rows == len(written) > 3 * 6
    assert {row["writer"] for row in written} == {"rules: forms of questions and a bank of sentences, no model"}
    again = expunge.augment(forget, out=tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert again.summary == made.summary
    short = expunge.augment(forget, out=tmp_path / "short.jsonl", completions=False)
    assert 2 * short.rows == made.rows


@pytest.mark.slow
def test_a_model_in_process_that_writes_nothing_usable(forget: Path, tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(ModelError, match="augment: local model"):
        expunge.augment(forget, out=tmp_path / "out.jsonl", llm=str(model_folder), rounds=1)


def test_settings_without_effect_are_said_and_a_refused_command_makes_no_folder(
    forget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expunge.augment(forget, out=tmp_path / "a.jsonl", rounds=5, ratio=0.5, pairs=True, completions=False)
    said = capsys.readouterr().err
    assert [
        what in said for what in ("rounds have no effect", "ratio has no effect", "no-completions has no effect")
    ] == [True] * 3
    expunge.augment(forget, out=tmp_path / "b.jsonl")
    assert "no effect" not in capsys.readouterr().err
    with pytest.raises(UserError):
        expunge.augment(forget, out=tmp_path / "new" / "c.jsonl", model="m")
    assert not (tmp_path / "new").exists()
    assert expunge.augment(forget, out=tmp_path / "new" / "c.jsonl").rows
