"""Turning a peer's evaluation log into a run that others can refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.errors import UserError
from expunge.evaluation.logs import PeerLog, read_peer_log
from expunge.evaluation.samples import redaction_mark, set_digest
from expunge.pipeline.compare import imported_report
from expunge.pipeline.folder import IMPORTED_LOG, MANIFEST, claim_folder, open_folder, write_json
from expunge.reporting.content import Report
from expunge.reporting.html import write_report


def import_log(
    log: str | Path,
    out: Path,
    *,
    reference: str | Path | None = None,
    num_resamples: int = 1000,
    redact: bool = False,
) -> tuple[Report, dict[str, Any]]:
    """Recompute an open-unlearning log's aggregates and keep its per-row values as ``samples.parquet``.

    Args:
        log: ``TOFU_EVAL.json`` or its folder.
        out: folder for the run.
        reference: the retain model's log or run, for forget quality and PrivLeak.
        num_resamples: bootstrap resamples behind every interval.
        redact: leave out the log's questions and answers; ids and numbers stay.

    Returns:
        The report and the metrics by model label.

    Raises:
        DataError: if the log or the reference is none.
    """
    if num_resamples < 10:
        raise UserError(f"--resamples must be at least 10, got {num_resamples}")
    claim_folder(out, IMPORTED_LOG)
    peer = read_peer_log(log)
    report, metrics = imported_report(peer, reference, num_resamples=num_resamples)
    manifest = {
        "kind": IMPORTED_LOG,
        "status": "done",
        "imported_from": "open-unlearning",
        "model": peer.model,
        "split": peer.split,
        "logged": peer.aggregates,
        "unread": list(peer.unread),
    }
    with open_folder(out, IMPORTED_LOG):
        _write_samples(peer, out / "samples.parquet", redact=redact)
        write_json(out / "metrics.json", metrics[peer.model])
        write_report(report, out / "report.html")
        write_json(out / MANIFEST, manifest)
    return report, metrics


def _write_samples(peer: PeerLog, path: Path, *, redact: bool) -> None:
    """The log's columns in the layout of our own samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = []
    for name, columns in peer.scores.items():
        generations = peer.generations.get(name, (None,) * len(peer.ids[name]))
        for i, row_id in enumerate(peer.ids[name]):
            said = None if redact else generations[i]
            record: dict[str, Any] = {"set": name, "id": f"{name}/{row_id}"}
            record |= {"prompt": said.prompt, "answer": said.reference, "generation": said.text} if said else {}
            record |= {key: values[i].tolist() for key, values in columns.items()}
            records.append(record)
    keys = list(dict.fromkeys(["set", "id", "prompt", "answer", "generation", *(k for r in records for k in r)]))
    table = {key: [record.get(key) for record in records] for key in keys}
    mark = redaction_mark({name: digest for name in peer.scores if (digest := _digest(peer, name))}) if redact else None
    pq.write_table(pa.table(table, metadata=mark), path)


def _digest(peer: PeerLog, name: str) -> str:
    """Of a set all of whose answers the log knows; empty for another."""
    said = peer.generations.get(name, ())
    rows = [(f"{name}/{i}", one.reference) for i, one in zip(peer.ids[name], said, strict=False) if one]
    return set_digest(rows) if len(rows) == len(peer.ids[name]) else ""
