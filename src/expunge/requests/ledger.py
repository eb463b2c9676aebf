"""The ledger of deletion requests: an SQLite file that loses no request and records none as done twice.

It holds hashes and paths, never a row's text. Every change is one transaction: a process that dies in the middle of
one leaves the file as it was before.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.errors import DataError, ResourceError, UserError

FILE = "ledger.sqlite"
SCHEMA = 1
PENDING, APPLIED, REVOKED = "pending", "applied", "revoked"
_WAIT_SECONDS = 30.0
"""How long a writer waits for another to finish."""
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    added TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'applied', 'revoked')),
    forget TEXT NOT NULL,
    forget_hash TEXT NOT NULL,
    num_rows INTEGER NOT NULL,
    retain TEXT,
    retain_hash TEXT,
    note TEXT NOT NULL
);
CREATE TABLE applications (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    finished TEXT NOT NULL,
    live INTEGER NOT NULL CHECK (live IN (0, 1)),
    strategy TEXT NOT NULL,
    settings TEXT NOT NULL,
    base_hash TEXT NOT NULL,
    result TEXT NOT NULL,
    result_hash TEXT NOT NULL
);
CREATE TABLE applied (
    application INTEGER NOT NULL REFERENCES applications (id),
    request INTEGER NOT NULL REFERENCES requests (id),
    PRIMARY KEY (application, request)
);
"""


@dataclass(frozen=True)
class Request:
    """One request: a file of rows to forget, known by the hash of its rows."""

    id: int
    added: str
    """UTC, ISO 8601."""
    state: str
    forget: str
    forget_hash: str
    num_rows: int
    retain: str | None
    retain_hash: str | None
    note: str


@dataclass(frozen=True)
class Application:
    """One or several requests that were carried out together."""

    id: int
    finished: str
    live: bool
    """Whether the current model still rests on it; one that was undone does not."""
    strategy: str
    settings: Mapping[str, Any]
    base_hash: str
    """Of the model that it started from."""
    result: str
    """Its weights, as a path below the ledger's folder."""
    result_hash: str
    requests: tuple[int, ...]


class Ledger:
    """A folder with a ledger. Cheap to make; every call opens and closes the file."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self, facts: Mapping[str, Any]) -> None:
        """Begin a ledger; where there is one already, its facts must be the same.

        Args:
            facts: what holds for all its requests, such as the model and its hash; values in JSON types.

        Raises:
            UserError: a ledger with other facts, or a folder that cannot be written to.
        """
        wanted = {"schema": SCHEMA, **facts}
        with self._file_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing() as file:
            if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
                for statement in filter(str.strip, _TABLES.split(";")):
                    file.execute(statement)
                rows = [(name, json.dumps(value)) for name, value in wanted.items()]
                file.executemany("INSERT INTO facts VALUES (?, ?)", rows)
        known = self.facts()
        for name, value in wanted.items():
            if known.get(name) != value:
                raise UserError(f"{self.folder}: the ledger is for {name} {known.get(name)!r}, got {value!r}")

    def add(self, forget: str, forget_hash: str, num_rows: int, *, retain: str | None, retain_hash: str | None,
            note: str) -> Request:  # fmt: skip
        """Write a request down.

        Raises:
            UserError: the same rows were asked for before, and not revoked.
        """
        with self._writing() as file:
            same = file.execute(
                "SELECT id, state FROM requests WHERE forget_hash = ? AND state != ?", (forget_hash, REVOKED)
            ).fetchone()
            if same:
                raise UserError(f"{forget}: request {same[0]} asks for the same rows and is {same[1]}")
            found = file.execute(
                "INSERT INTO requests (added, state, forget, forget_hash, num_rows, retain, retain_hash, note) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (_now(), PENDING, forget, forget_hash, num_rows, retain, retain_hash, note),
            ).fetchone()
        return self.request(found[0])

    def record(self, requests: Sequence[int], *, strategy: str, settings: Mapping[str, Any], base_hash: str,
               result: str, result_hash: str) -> int:  # fmt: skip
        """Write down that pending requests were carried out; all of them, or none.

        Returns:
            The application's number.

        Raises:
            UserError: one of them is no longer pending.
        """
        with self._writing() as file:
            states = dict(file.execute("SELECT id, state FROM requests"))
            for number in requests:
                if states.get(number) != PENDING:
                    raise UserError(
                        f"request {number} became {states.get(number)} while it was carried out; nothing was recorded"
                    )
            (application,) = file.execute(
                "INSERT INTO applications (finished, live, strategy, settings, base_hash, result, result_hash) "
                "VALUES (?, 1, ?, ?, ?, ?, ?) RETURNING id",
                (_now(), strategy, json.dumps(dict(settings)), base_hash, result, result_hash),
            ).fetchone()
            file.executemany("INSERT INTO applied VALUES (?, ?)", [(application, number) for number in requests])
            file.executemany("UPDATE requests SET state = 'applied' WHERE id = ?", [(number,) for number in requests])
        return int(application)

    def revoke(self, number: int, *, undone: Sequence[int] = ()) -> None:
        """Take a request back; applications that are ``undone`` with it set their other requests pending again.

        Raises:
            UserError: there is no such request, or it is revoked already.
        """
        self.request(number)
        with self._writing() as file:
            changed = file.execute(
                "UPDATE requests SET state = 'revoked' WHERE id = ? AND state != 'revoked'", (number,)
            )
            if not changed.rowcount:
                raise UserError(f"request {number} is revoked already")
            for application in undone:
                file.execute("UPDATE applications SET live = 0 WHERE id = ?", (application,))
                file.execute(
                    "UPDATE requests SET state = 'pending' WHERE state = 'applied' AND id IN "
                    "(SELECT request FROM applied WHERE application = ?)",
                    (application,),
                )

    # -- reading ------------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What the ledger was begun with."""
        with self._reading() as file:
            return {name: json.loads(value) for name, value in file.execute("SELECT name, value FROM facts")}

    def requests(self, *states: str) -> tuple[Request, ...]:
        """Requests in the order they came, those in one of the states (all, where none is named)."""
        with self._reading() as file:
            rows = file.execute("SELECT * FROM requests ORDER BY id").fetchall()
        return tuple(found for row in rows if (found := Request(*row)).state in (states or found.state))

    def request(self, number: int) -> Request:
        """One request; UserError where there is none of this number."""
        known = {request.id: request for request in self.requests()}
        if number not in known:
            there = f"there are {', '.join(map(str, known))}" if known else "there is none"
            raise UserError(f"{self.folder}: no request {number}; {there}")
        return known[number]

    def applications(self, *, live: bool = True) -> tuple[Application, ...]:
        """Applications in the order they were made; with ``live`` those that the current model rests on."""
        with self._reading() as file:
            rows = file.execute("SELECT * FROM applications ORDER BY id").fetchall()
            pairs = file.execute("SELECT application, request FROM applied ORDER BY request").fetchall()
        out = []
        for number, finished, alive, strategy, settings, base_hash, result, result_hash in rows:
            mine = tuple(request for application, request in pairs if application == number)
            given = json.loads(settings)
            out.append(
                Application(number, finished, bool(alive), strategy, given, base_hash, result, result_hash, mine)
            )
        return tuple(application for application in out if application.live or not live)

    # -- the file -----------------------------------------------------------------------------------------------------

    @contextmanager
    def only_runner(self) -> Iterator[None]:
        """Keep a second process from carrying out the same requests; UserError if one does."""
        self._must_exist()
        with self._file_errors():
            stream = open(self.folder / "run.lock", "w")  # noqa: SIM115 - closed below, outside what is caught here
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.folder}: another process is carrying out requests; wait for it") from None
            yield

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._must_exist()
        with self._open() as file:
            yield file

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, kept if the block ends well."""
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            try:
                yield file
            except BaseException:
                if file.in_transaction:  # a full disk has ended it already
                    file.execute("ROLLBACK")
                raise
            file.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._file_errors():
            # A file that is made here is empty until a transaction fills it: no ledger half begun.
            file = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                file.execute("PRAGMA foreign_keys = ON")
                file.execute("PRAGMA synchronous = FULL")
                yield file
            finally:
                file.close()

    def _must_exist(self) -> None:
        if not self.path.is_file() or not self.path.stat().st_size:
            raise UserError(f"{self.folder}: no ledger here; begin one with `expunge requests add --model MODEL`")

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """What goes wrong with the file becomes one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise ResourceError(f"{self.path}: disk full or failing ({error}); nothing was changed") from error
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise UserError(f"{self.path}: another process has been writing for {_WAIT_SECONDS:g} s") from error
            raise DataError(f"{self.path}: cannot be used as a ledger: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path}: is no ledger of ours, or damaged: {error}") from error
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be used: {error.strerror or error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
