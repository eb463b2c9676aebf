"""Asking an OpenAI-compatible server: retries, threads, a cache on disk, and a missing value for what failed."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from expunge.errors import UserError
from expunge.llm.cache import ReplyCache
from expunge.llm.options import EndpointOptions
from expunge.llm.replies import first_object
from expunge.progress import Bar, say

T = TypeVar("T")
Sleep = Callable[[float], None]
Parse = Callable[[Mapping[str, Any]], T | None]

GIVE_UP_AFTER = 5
"""Calls in a row that failed for good, after which the rest of a batch is not tried."""
LONGEST_PAUSE = 60.0
_RETRIED = (408, 409, 425, 429)
_HOPELESS = (401, 403, 404)


@dataclass(frozen=True)
class Caller:
    """Who asks, for messages."""

    title: str
    """``entities judge``."""
    setting: str
    """Where its options stand: ``evaluate.judges.entities``."""
    sends: str
    """What leaves the machine."""


@dataclass(frozen=True)
class Question:
    """One call: what the model is told to do, and the fields that it is to read."""

    task: str
    fields: Mapping[str, Any]
    temperature: float | None = None
    """In place of the endpoint's own."""


class _CallError(Exception):
    """One try that gave nothing."""

    def __init__(self, reason: str, *, again: bool, pause: float | None = None, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.again, self.pause, self.hopeless = again, pause, hopeless


class Endpoint:
    """A chat model behind ``{url}/chat/completions``.

    Args:
        options: address, model and limits.
        caller: who asks, for messages.
        told: addresses of which the user was told that rows go there; shared by the callers of a run.
        transport: httpx transport; tests pass a mock.
        sleep: waits between tries; tests pass one that does not.

    Raises:
        UserError: the environment variable that should hold the key is not set.
        ResourceError: the cache folder cannot be written.
    """

    def __init__(
        self,
        options: EndpointOptions,
        *,
        caller: Caller,
        told: set[str],
        transport: httpx.BaseTransport | None = None,
        sleep: Sleep = time.sleep,
    ) -> None:
        self.options = options
        self.host = str(urlsplit(options.url).netloc)
        self.name = f"endpoint {options.model} at {self.host}"
        self._caller, self._told, self._transport, self._sleep = caller, told, transport, sleep
        self._headers = {"Authorization": f"Bearer {read_key(options, caller.setting)}"} if options.key_env else {}
        self._cache = ReplyCache(Path(options.cache).expanduser()) if options.cache else None

    def ask(self, questions: Sequence[Question], parse: Parse[T], *, update: Bar | None = None) -> list[T | None]:
        """Parsed answers in order; None where no try gave a readable one, and one line that counts those.

        Equal questions are asked once. A reply counts when ``parse`` makes something of its first JSON object; others
        are tried again like a failed call. After five failures in a row, or a refused key, the rest is not tried.
        ``update`` is told how many calls are done, of how many.
        """
        bodies = [self._body(question) for question in questions]
        keys = [self._key(body) for body in bodies]
        unique = dict(zip(keys, bodies, strict=True))
        found: dict[str, T] = {}
        for key in unique:
            if (kept := self._kept(key, parse)) is not None:
                found[key] = kept
        if open_keys := [key for key in unique if key not in found]:
            self._tell()
            batch = _Batch(self, {key: unique[key] for key in open_keys}, parse)
            found |= batch.run(update)
            self._report(keys, found, batch)
        return [found.get(key) for key in keys]

    def _report(self, keys: list[str], found: Mapping[str, T], batch: _Batch[T]) -> None:
        failed = sum(key not in found for key in keys)
        if failed:
            reasons = ", ".join(f"{reason} x{count}" for reason, count in batch.reasons.most_common(3))
            say(f"warning: {self._caller.title} ({self.name}): {failed} of {len(keys)} rows are missing: {reasons}")

    def _tell(self) -> None:
        if self.host not in self._told:
            self._told.add(self.host)
            say(f"note: {self._caller.sends} are sent to {self.host}")

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.options.model,
            "messages": [
                {"role": "system", "content": question.task},
                {"role": "user", "content": json.dumps(dict(question.fields), ensure_ascii=False)},
            ],
            "temperature": self.options.temperature if question.temperature is None else question.temperature,
            "max_tokens": self.options.max_tokens,
        } | self.options.body
        return {name: value for name, value in body.items() if value is not None}

    def _key(self, body: Mapping[str, Any]) -> str:
        content = json.dumps([self.options.url, body], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def _kept(self, key: str, parse: Parse[T]) -> T | None:
        reply = self._cache.get(key) if self._cache else None
        return read_reply(reply, parse) if reply is not None else None

    def keep(self, key: str, reply: str) -> None:
        """Put a readable reply into the cache, where there is one."""
        if self._cache:
            self._cache.put(key, reply)

    def client(self) -> httpx.Client:
        """A client for one batch; redirects are not followed, so that the key goes nowhere else."""
        return httpx.Client(transport=self._transport, headers=self._headers, timeout=self.options.timeout)

    def pause(self, seconds: float) -> None:
        """Wait between two tries."""
        self._sleep(min(seconds, LONGEST_PAUSE))

    @property
    def address(self) -> str:
        """Where the calls go."""
        base = self.options.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


class _Batch(Generic[T]):
    """Calls that run together, and what became of those that failed."""

    def __init__(self, endpoint: Endpoint, bodies: Mapping[str, Mapping[str, Any]], parse: Parse[T]) -> None:
        self.reasons: Counter[str] = Counter()
        self._endpoint, self._bodies, self._parse = endpoint, bodies, parse
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._stopped = False

    def run(self, update: Bar | None = None) -> dict[str, T]:
        """Parsed answers by key; a call that failed is absent."""
        with (
            self._endpoint.client() as client,
            ThreadPoolExecutor(self._endpoint.options.concurrency) as pool,
        ):
            answers = pool.map(lambda item: (item[0], self._call(client, *item)), self._bodies.items())
            found: dict[str, T] = {}
            for done, (key, answer) in enumerate(answers, start=1):
                if answer is not None:
                    found[key] = answer
                if update:
                    update(done, len(self._bodies))
            return found

    def _call(self, client: httpx.Client, key: str, body: Mapping[str, Any]) -> T | None:
        tries = self._endpoint.options.tries
        reason, hopeless = "", False
        for number in range(tries):
            if self._stopped:
                reason = reason or "not tried after the failures before"
                break
            try:
                return self._once(client, key, body)
            except _CallError as failure:
                reason, hopeless = str(failure), failure.hopeless
                if not failure.again or number + 1 == tries:
                    break
                self._endpoint.pause(2.0**number if failure.pause is None else failure.pause)
        self._note(reason, hopeless)
        return None

    def _once(self, client: httpx.Client, key: str, body: Mapping[str, Any]) -> T:
        reply = post(client, self._endpoint.address, body)
        answer = read_reply(reply, self._parse)
        if answer is None:
            raise _CallError("unreadable answer", again=True, pause=0.0)
        self._endpoint.keep(key, reply)
        with self._lock:
            self._in_a_row = 0
        return answer

    def _note(self, reason: str, hopeless: bool) -> None:
        with self._lock:
            self.reasons[reason] += 1
            self._in_a_row += 1
            self._stopped |= hopeless or self._in_a_row >= GIVE_UP_AFTER


def post(client: httpx.Client, address: str, body: Mapping[str, Any]) -> str:
    """The text of one reply.

    Raises:
        _CallError: for every way in which there is none; transport errors, 408, 409, 425, 429 and 5xx are tried again.
    """
    try:
        response = client.post(address, json=body)
    except httpx.TimeoutException as error:
        raise _CallError("timed out", again=True) from error
    except httpx.HTTPError as error:
        raise _CallError("no connection", again=True) from error
    status = response.status_code
    if status != 200:
        again = status in _RETRIED or status >= 500
        hopeless = status in _HOPELESS
        raise _CallError(f"HTTP {status}", again=again, pause=_retry_after(response), hopeless=hopeless)
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _CallError("not a chat completion", again=True) from error
    if not isinstance(content, str):
        raise _CallError("no text in the answer", again=True)
    if not is_unicode(content):
        raise _CallError("half a character in the answer", again=True)
    return content


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    # The header may also be a date, which the ordinary pause replaces.
    return float(text) if text.isdecimal() else None


def read_reply(reply: str, parse: Parse[T]) -> T | None:
    """What ``parse`` makes of the first JSON object of a reply; None where either is not there."""
    found = first_object(reply)
    # JSON can spell what no file can hold.
    return parse(found) if found is not None and is_unicode(json.dumps(found, ensure_ascii=False)) else None


def read_key(options: EndpointOptions, setting: str) -> str:
    """The key from the environment; it is never logged or stored.

    Raises:
        UserError: the variable is not set, or is no header value.
    """
    key = os.environ.get(str(options.key_env), "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(
            f"{setting}: the environment variable {options.key_env} "
            + ("holds no usable key" if key else "is not set")
            + "; set it to the key of the endpoint, or name another with key_env"
        )
    return key
