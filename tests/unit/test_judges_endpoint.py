"""An endpoint as judge: strict reading, retries without sleeping, and failures that never read as success."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from expunge.errors import ResourceError, UserError
from expunge.evaluation.judges import make_judges
from expunge.evaluation.judges.parsing import (
    parse_entities,
    parse_harm,
    parse_relation,
    parse_score,
    without_known,
)
from expunge.llm.replies import first_object

Reply = Callable[[dict], httpx.Response | str]
KEY = "sk-test-never-shown"


class Server:
    """Answers chat completions in process and remembers what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.requests, self.pauses = reply, [], []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
        found = self.reply(json.loads(request.content))
        return found if isinstance(found, httpx.Response) else completion(found)

    def judge(self, role: str, **options):
        settings = {"kind": "endpoint", "url": "https://judge.test/v1", "model": "m", "concurrency": 1, **options}
        judges = make_judges({role: settings}, transport=httpx.MockTransport(self), sleep=self.pauses.append)
        return judges.get(role)


def completion(text: object) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": text}}]})


def fields(body: dict) -> dict:
    return json.loads(body["messages"][1]["content"])


def test_requests_are_openai_chat_completions(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = Server(lambda body: '{"score": 4}')
    judge = server.judge("rater", key_env="JUDGE_KEY", body={"seed": 0, "temperature": None})
    assert judge.rate("retain", ["Who?"], ["Ada."], ["Bo."]).tolist() == [4.0]
    (request,) = server.requests
    assert str(request.url) == "https://judge.test/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    body = json.loads(request.content)
    assert (body["model"], body["seed"], body["max_tokens"]) == ("m", 0, 512)
    assert "temperature" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert fields(body) == {"question": "Who?", "answer": "Ada.", "reference": "Bo."}


def test_the_reference_goes_only_where_the_mark_needs_it():
    server = Server(lambda body: '{"score": 2}')
    judge = server.judge("rater")
    for criterion in ("relevance", "fluency", "forget", "retain"):
        judge.rate(criterion, ["Who?"], ["Ada."], ["Bo."])
    sent = [set(fields(json.loads(request.content))) for request in server.requests]
    assert sent == [{"question", "answer"}] * 2 + [{"question", "answer", "reference"}] * 2


def test_answers_keep_their_rows_and_equal_questions_are_asked_once():
    server = Server(lambda body: json.dumps({"entities": [fields(body)["answer"].split()[0], "Who"]}))
    judge = server.judge("entities", concurrency=4)
    answers = ["Ada sings", "Bo paints", "Ada sings", "Cy runs", "", "..."]
    # "Who" is in the query; a text without letters has no entities and is not sent
    assert judge.extract(["Who?"] * 6, answers) == [("Ada",), ("Bo",), ("Ada",), ("Cy",), (), ()]
    assert len(server.requests) == 3


def test_entailment_and_harm():
    server = Server(lambda body: '{"relation": "Contradiction"}')
    judge = server.judge("entailment")
    assert judge.entail(["a", "", "a"], ["b", "b", "?!"]) == ["contradiction", "neutral", "neutral"]
    assert len(server.requests) == 1
    harm = Server(lambda body: json.dumps({"harmful": fields(body)["answer"] == "bad"})).judge("harm")
    assert harm.probabilities(["q", "q", "q"], ["bad", "good", ""]).tolist() == [1.0, 0.0, 0.0]


def test_an_empty_answer_has_the_lowest_marks_without_asking():
    server = Server(lambda body: '{"score": 5}')
    judge = server.judge("rater")
    marks = {c: judge.rate(c, ["q"], [" \n"], ["r"])[0] for c in ("relevance", "fluency", "retain", "forget")}
    assert marks == {"relevance": 1.0, "fluency": 1.0, "retain": 1.0, "forget": 5.0}
    assert server.requests == []


def test_busy_servers_are_asked_again_after_a_growing_pause():
    replies = iter([httpx.Response(500), httpx.Response(429, headers={"retry-after": "7"}), '{"score": 3}'])
    server = Server(lambda body: next(replies))
    assert server.judge("rater").rate("fluency", ["q"], ["a"], ["r"]).tolist() == [3.0]
    # 2^0 after the first, what the server says after the second
    assert server.pauses == [1.0, 7.0]


def test_a_long_retry_after_is_cut():
    replies = iter([httpx.Response(503, headers={"retry-after": "86400"}), '{"score": 3}'])
    server = Server(lambda body: next(replies))
    server.judge("rater").rate("fluency", ["q"], ["a"], ["r"])
    assert server.pauses == [60.0]


@pytest.mark.parametrize(
    "bad",
    [
        "I would say 4.",
        '{"score": "4"}',
        '{"score": 6}',
        '{"score": NaN}',
        '{"score": true}',
        '{"rating": 4}',
        '{"score": 4',
        "[4]",
        None,
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json=[]),
        httpx.Response(302, headers={"location": "https://elsewhere.test"}),
        httpx.Response(400),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_missing_and_never_a_mark(bad, capsys):
    server = Server(lambda body: bad if isinstance(bad, httpx.Response | str) else completion(bad))
    found = server.judge("rater", tries=2).rate("forget", ["q"], ["a"], ["r"])
    assert np.isnan(found).tolist() == [True]
    assert "1 of 1 rows are missing" in capsys.readouterr().err
    assert {request.url.host for request in server.requests} == {"judge.test"}


def test_one_line_says_how_many_failed_and_why(capsys):
    def reply(body):
        answer = fields(body)["answer"]
        return httpx.Response(400) if answer.startswith("bad") else '{"entities": ["Ada"]}'

    texts = ["good 1", "bad 1", "good 2", "bad 2", "bad 2"]
    found = Server(reply).judge("entities").extract(["q"] * 5, texts)
    assert found == [("Ada",), None, ("Ada",), None, None]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "note: prompts, reference answers and model answers, those of the forget set among them, "
        "are sent to judge.test",
        "warning: entities judge (endpoint m at judge.test): 3 of 5 rows are missing: HTTP 400 x2",
    ]


def test_failed_calls_are_none_or_nan_for_every_role():
    server = Server(lambda body: httpx.Response(400))
    assert server.judge("entities").extract(["q"], ["a"]) == [None]
    assert server.judge("entailment").entail(["a"], ["b"]) == [None]
    assert np.isnan(server.judge("harm").probabilities(["q"], ["a"])).all()
    assert np.isnan(server.judge("rater").rate("relevance", ["q"], ["a"], ["r"])).all()


def test_no_connection_is_tried_again_and_then_given_up():
    def refuse(body):
        raise httpx.ConnectError("refused")

    server = Server(refuse)
    found = server.judge("rater", tries=3).rate("fluency", ["q"] * 40, [f"a{i}" for i in range(40)], [""] * 40)
    assert np.isnan(found).all()
    # five rows with three tries each; the other 35 are not tried
    assert len(server.requests) == 15
    assert server.pauses == [1.0, 2.0] * 5


def test_a_refused_key_stops_at_once(capsys):
    server = Server(lambda body: httpx.Response(401))
    server.judge("rater").rate("fluency", ["q"] * 9, [f"a{i}" for i in range(9)], [""] * 9)
    assert len(server.requests) == 1
    assert "9 of 9 rows are missing: not tried after the failures before x8, HTTP 401 x1" in capsys.readouterr().err


def test_one_success_forgives_the_failures_before():
    server = Server(lambda body: '{"score": 3}' if fields(body)["answer"] in ("a4", "a9") else httpx.Response(400))
    server.judge("rater").rate("fluency", ["q"] * 14, [f"a{i}" for i in range(14)], [""] * 14)
    assert len(server.requests) == 14


def test_replies_are_kept_and_paid_for_once(tmp_path, capsys):
    server = Server(lambda body: '{"score": 4}')
    for _ in range(2):
        judge = server.judge("rater", cache=str(tmp_path / "kept"))
        assert judge.rate("fluency", ["q", "q"], ["a", "b"], ["", ""]).tolist() == [4.0, 4.0]
    assert len(server.requests) == 2
    kept = [path.read_text() for path in (tmp_path / "kept").rglob("*.json")]
    assert kept == [json.dumps({"reply": '{"score": 4}'})] * 2
    # the second run sent nothing, and does not say that it did
    assert capsys.readouterr().err.count("are sent to judge.test") == 1
    server.judge("rater", cache=str(tmp_path / "kept"), temperature=1.0).rate("fluency", ["q"], ["a"], [""])
    assert len(server.requests) == 3


def test_unreadable_replies_are_not_kept_and_damaged_files_are_asked_again(tmp_path):
    server = Server(lambda body: "no")
    server.judge("rater", cache=str(tmp_path), tries=1).rate("fluency", ["q"], ["a"], [""])
    assert not list(tmp_path.rglob("*.json"))
    server.reply = lambda body: '{"score": 2}'
    judge = server.judge("rater", cache=str(tmp_path))
    judge.rate("fluency", ["q"], ["a"], [""])
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text("{")
    assert judge.rate("fluency", ["q"], ["a"], [""]).tolist() == [2.0]
    assert len(server.requests) == 3


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot keep replies in"):
        Server(lambda body: "").judge("rater", cache=str(tmp_path / "file"))


def test_the_key_is_needed_and_never_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    server = Server(lambda body: httpx.Response(500))
    with pytest.raises(UserError, match=r"evaluate\.judges\.rater: .* JUDGE_KEY is not set"):
        server.judge("rater", key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\nInjected: header")
    with pytest.raises(UserError, match="holds no usable key") as error:
        server.judge("rater", key_env="JUDGE_KEY")
    assert KEY not in str(error.value)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judge = server.judge("rater", key_env="JUDGE_KEY", cache=str(tmp_path), tries=1)
    judge.rate("fluency", ["q"], ["a"], [""])
    shown = capsys.readouterr()
    assert KEY not in shown.err + shown.out + judge.name + repr(judge)
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_criterion_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"unknown criterion of a rater 'fluent'.*fluency"):
        Server(lambda body: "").judge("rater").rate("fluent", ["q"], ["a"], [""])


def test_the_user_is_told_once_for_all_roles(capsys):
    server = Server(lambda body: '{"harmful": false, "relation": "neutral"}')
    one = {"kind": "endpoint", "url": "https://judge.test/v1", "model": "m"}
    judges = make_judges({"harm": one, "entailment": one}, transport=httpx.MockTransport(server))
    judges.get("harm").probabilities(["q"], ["a"])
    judges.get("entailment").entail(["p"], ["h"])
    assert capsys.readouterr().err.count("are sent to judge.test") == 1


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('Here: ```json\n{"a": 1}\n``` {"a": 2}', {"a": 1}),
        ('<think>{"a": 0} or so</think>{"a": 1}', {"a": 1}),
        ('{"a": {"b": 2}} trailing', {"a": {"b": 2}}),
        ("{a: 1} {}", None),
        ('{"a": Infinity}', None),
        ("nothing", None),
        ("{" * 5000, None),
        ("", None),
    ],
)
def test_first_object(reply, found):
    assert first_object(reply) == found


def test_parsers_take_exactly_what_was_asked_for():
    entities = parse_entities({"entities": [' "Ada" ', "ada", "New  York/", "", "x" * 101]})
    assert entities == ("Ada", "New York")
    assert parse_entities({"entities": []}) == ()
    assert parse_entities({"entities": "Ada, Bo"}) is None
    assert parse_entities({"entities": ["Ada", 3]}) is None
    assert without_known(("Ada", "Ada Byron", "who"), "Who is Ada?") == ("Ada Byron",)
    assert parse_relation({"relation": " NEUTRAL "}) == "neutral"
    assert parse_relation({"relation": "neutral or entailment"}) is None
    assert parse_relation({"relation": None}) is None
    assert (parse_harm({"harmful": True}), parse_harm({"harmful": False})) == (1.0, 0.0)
    assert parse_harm({"harmful": "no"}) is None
    assert [parse_score({"score": value}) for value in (1, 3.5, 5, 0, 5.1, 10**400)] == [
        1.0,
        3.5,
        5.0,
        None,
        None,
        None,
    ]
