"""The rows that requests are about: read again from the user's files, and known by their hash."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.custom import RETAIN_PROBE_ROWS
from expunge.benchmarks.table import load_benchmark
from expunge.data.draw import draw
from expunge.data.lazy import changed, chosen, joined
from expunge.data.overlap import fingerprint
from expunge.data.rows import Row, rows_hash
from expunge.errors import DataError
from expunge.pipeline.loading import warnings_said
from expunge.progress import say
from expunge.requests.ledger import REVOKED, Request


@dataclass(frozen=True)
class RequestRows:
    """What one request names."""

    request: Request
    forget: Sequence[Row]
    retain: Sequence[Row]


def read_files(forget: str, retain: str | None) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows of a request's files; :class:`DataError` for a bad one."""
    with warnings_said():
        found = load_benchmark("custom", forget=forget, **({"retain": retain} if retain else {}))
    return found.forget, found.retain


def read_request(request: Request) -> RequestRows:
    """A request's rows, with ids of their own among all requests.

    Raises:
        DataError: a file is gone, or its rows are no longer those that were written down.
    """
    forget, retain = read_files(request.forget, request.retain)
    for what, rows, known in (("forget", forget, request.forget_hash), ("retain", retain, request.retain_hash)):
        if known is not None and rows_hash(rows) != known:
            raise DataError(
                f"request {request.id}: the {what} rows are no longer those that were written down; put them back, or "
                "revoke it and add it again"
            )

    def named(row: Row) -> Row:
        return replace(row, id=f"request {request.id}/{row.id}")

    return RequestRows(request, changed(forget, named), changed(retain, named))


def read_what_is_there(requests: Iterable[Request]) -> tuple[RequestRows, ...]:
    """The rows of those requests whose files still hold them; a line for each of the others.

    Who deletes a person's data may delete the file as well.
    """
    found = []
    for request in requests:
        try:
            found.append(read_request(request))
        except DataError as error:
            say(f"note: request {request.id} is left out: {error}")
    return tuple(found)


def benchmark_of(group: Sequence[RequestRows], all_rows: Sequence[RequestRows]) -> Benchmark:
    """What unlearning sees of a group of requests.

    To keep are the retain rows of all requests, revoked ones included, each once, without what any request that stands
    asks to forget: a file to keep that was written before a later request must not teach its rows again.
    """
    forget = joined(*(rows.forget for rows in group))
    retain = kept_rows(all_rows)
    probes: dict[str, Sequence[Row]] = {"forget": forget}
    if retain:
        probes["retain"] = draw(retain, RETAIN_PROBE_ROWS, seed=0, name="requests/retain")
    numbers = ", ".join(str(rows.request.id) for rows in group)
    return Benchmark(name="requests", forget=forget, retain=retain, probes=probes, origin=f"requests {numbers}")


def kept_rows(all_rows: Sequence[RequestRows]) -> Sequence[Row]:
    """The retain rows of all requests, each once, without any row that is to be forgotten."""
    left_out = {_content(row) for rows in all_rows if rows.request.state != REVOKED for row in rows.forget}
    parts = []
    for rows in all_rows:
        kept = array("q")
        for number, row in enumerate(rows.retain):
            if (content := _content(row)) not in left_out:
                left_out.add(content)
                kept.append(number)
        parts.append(chosen(rows.retain, kept))
    return joined(*parts)


def _content(row: Row) -> int:
    prompt = " ".join(row.prompt.split())
    return fingerprint(f"{len(prompt)} {prompt} {' '.join(row.answer.split())}")
