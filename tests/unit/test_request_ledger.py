"""The ledger under everything that can go wrong with a file: killed writers, many writers, a full disk."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import DataError, ResourceError, UserError
from expunge.requests.ledger import Application, Ledger
from expunge.requests.strategy import strategy_for, undone_with

FACTS = {"model": {"path": "m"}, "model_hash": "aa"}

STORY = '''
import sys
from expunge.errors import UserError
from expunge.requests.ledger import Ledger

def attempt(step):
    """A step that an earlier call had finished says so, and changes nothing."""
    try:
        step()
    except UserError as error:
        if not any(word in str(error) for word in ("asks for the same rows", "while it was carried out", "already")):
            raise

def story(folder):
    ledger = Ledger(folder)
    made = dict(strategy="chain", settings={"method": "npo"}, base_hash="b", result="r", result_hash="h")
    ledger.create({"model": {"path": "m"}, "model_hash": "aa"})
    for name in "ab":
        attempt(lambda: ledger.add(f"{name}.jsonl", name, 3, retain=None, retain_hash=None, note=""))
    for number in (1, 2):
        attempt(lambda: ledger.record([number], **made))
    attempt(lambda: ledger.revoke(2, undone=[2]))
'''

KILLED = """
import os, signal, sqlite3

def run_until(statement, folder):
    '''Tell the story in a process that dies before its n-th statement; whether it did.'''
    child = os.fork()
    if not child:
        real, seen = sqlite3.connect, 0
        def connect(*given, **named):
            file = real(*given, **named)
            def note(text):
                nonlocal seen
                seen += 1
                if seen == statement:
                    os.kill(os.getpid(), signal.SIGKILL)
            file.set_trace_callback(note)
            return file
        sqlite3.connect = connect
        story(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

number = 1
while run_until(number, f"{sys.argv[1]}/{number}"):
    number += 1
print(number - 1)
"""


def run_script(*parts: str, args: tuple[object, ...] = ()) -> str:
    script = "\n".join(textwrap.dedent(part) for part in parts)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def begun(folder: Path, *names: str) -> Ledger:
    ledger = Ledger(folder)
    ledger.create(FACTS)
    for name in names:
        add(ledger, name)
    return ledger


def add(ledger: Ledger, name: str) -> int:
    return ledger.add(f"{name}.jsonl", name, 3, retain=None, retain_hash=None, note="").id


def record(ledger: Ledger, *numbers: int, strategy: str = "chain") -> int:
    return ledger.record(
        numbers, strategy=strategy, settings={"method": "npo"}, base_hash="b", result="r", result_hash="h"
    )


def content(folder: Path) -> tuple[Any, ...]:
    ledger = Ledger(folder)
    requests = [(r.id, r.state, r.forget_hash) for r in ledger.requests()]
    applications = [(a.id, a.live, a.requests) for a in ledger.applications(live=False)]
    return requests, applications


WHOLE_STORY = ([(1, "applied", "a"), (2, "revoked", "b")], [(1, True, (1,)), (2, False, (2,))])


def test_killed_before_any_statement_it_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    kills = int(run_script(STORY, KILLED, args=(tmp_path,)))
    assert kills > 30
    assert content(tmp_path / str(kills + 1)) == WHOLE_STORY
    # Every half-told story is told to its end by the same calls.
    run_script(
        STORY, "for number in range(1, int(sys.argv[2]) + 1): story(f'{sys.argv[1]}/{number}')", args=(tmp_path, kills)
    )
    for number in range(1, kills + 1):
        assert content(tmp_path / str(number)) == WHOLE_STORY, number
        with sqlite3.connect(tmp_path / str(number) / "ledger.sqlite") as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    begun(tmp_path)
    script = """
        import sys
        from expunge.requests.ledger import Ledger
        for number in range(20):
            name = f"{sys.argv[2]}-{number}"
            Ledger(sys.argv[1]).add(name, name, 1, retain=None, retain_hash=None, note="")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    writers = [subprocess.Popen([*command, str(who)]) for who in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    hashes = {request.forget_hash for request in Ledger(tmp_path).requests()}
    assert hashes == {f"{who}-{number}" for who in range(3) for number in range(20)}
    assert [request.id for request in Ledger(tmp_path).requests()] == list(range(1, 61))


def test_a_request_is_recorded_as_done_once(tmp_path: Path) -> None:
    ledger = begun(tmp_path, "a", "b")
    record(ledger, 1)
    with pytest.raises(UserError, match="request 1 became applied while it was carried out; nothing was recorded"):
        record(ledger, 2, 1)
    assert content(tmp_path) == ([(1, "applied", "a"), (2, "pending", "b")], [(1, True, (1,))])


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = begun(tmp_path, "a")
    before = content(tmp_path)
    real = sqlite3.connect

    def no_room(*given: Any, **named: Any) -> sqlite3.Connection:
        file = real(*given, **named)
        (pages,) = file.execute("PRAGMA page_count").fetchone()
        file.execute(f"PRAGMA max_page_count = {pages}")
        return file

    monkeypatch.setattr(sqlite3, "connect", no_room)
    with pytest.raises(ResourceError, match="disk full"):
        ledger.add("b" * 100_000, "b", 1, retain=None, retain_hash=None, note="")
    monkeypatch.undo()
    assert content(tmp_path) == before
    assert add(ledger, "b") == 2


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ledger here"):
        Ledger(tmp_path).requests()
    (tmp_path / "ledger.sqlite").write_text("something else altogether, and long enough to be read as a header" * 9)
    with pytest.raises(DataError, match="no ledger of ours, or damaged"):
        Ledger(tmp_path).requests()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be used"):
        Ledger(tmp_path / "file" / "below").create(FACTS)


def test_a_ledger_is_for_one_model(tmp_path: Path) -> None:
    ledger = begun(tmp_path)
    ledger.create(FACTS)
    with pytest.raises(UserError, match="the ledger is for model_hash 'aa', got 'bb'"):
        ledger.create({**FACTS, "model_hash": "bb"})


def test_the_same_rows_are_not_asked_for_twice_unless_revoked(tmp_path: Path) -> None:
    ledger = begun(tmp_path, "a")
    with pytest.raises(UserError, match="request 1 asks for the same rows and is pending"):
        add(ledger, "a")
    ledger.revoke(1)
    assert add(ledger, "a") == 2
    with pytest.raises(UserError, match="request 1 is revoked already"):
        ledger.revoke(1)
    with pytest.raises(UserError, match="no request 7; there are 1, 2"):
        ledger.revoke(7)


def test_only_one_process_carries_requests_out(tmp_path: Path) -> None:
    ledger = begun(tmp_path, "a")
    busy = pytest.raises(UserError, match="another process is carrying out requests")
    with ledger.only_runner(), busy, Ledger(tmp_path).only_runner():
        pass
    with ledger.only_runner():
        pass


def test_the_file_holds_no_rows(tmp_path: Path) -> None:
    ledger = begun(tmp_path, "a")
    record(ledger, 1)
    assert set(json.loads(json.dumps(ledger.facts()))) == {"schema", "model", "model_hash"}
    with sqlite3.connect(ledger.path) as file:
        columns = {row[1] for row in file.execute("PRAGMA table_info(requests)")}
    assert columns == {
        "id", "added", "state", "forget", "forget_hash", "num_rows", "retain", "retain_hash", "note",
    }  # fmt: skip


# -- strategies -------------------------------------------------------------------------------------------------------


def made(strategy: str, *groups: tuple[int, ...]) -> list[Application]:
    return [Application(number, "", True, strategy, {}, "b", "r", "h", group) for number, group in enumerate(groups, 1)]


def test_what_falls_with_a_revoked_request() -> None:
    groups = ((1,), (2, 3), (4,))
    assert [a.id for a in undone_with(2, made("chain", *groups))] == [2, 3]
    assert [a.id for a in undone_with(3, made("merge", *groups))] == [2]
    assert undone_with(9, made("chain", *groups)) == ()


def test_strategies_do_not_mix() -> None:
    assert strategy_for("chain", []).key == "chain"
    with pytest.raises(UserError, match="carried out by strategy chain; go on with it"):
        strategy_for("merge", made("chain", (1,)))
    with pytest.raises(UserError, match="did you mean 'merge'"):
        strategy_for("merg", [])
