"""A finished audit as it lies on disk: read back to what was judged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.attacks.base import UNLEARNED
from expunge.attacks.outcome import Durability, Estimate, Outcome
from expunge.attacks.table import ATTACKS as TABLE
from expunge.attacks.weights import NONE
from expunge.errors import UserError
from expunge.pipeline.attacking import RESULT, Attacked, Audit
from expunge.pipeline.folder import ATTACKS, read_manifest


@dataclass(frozen=True)
class AttackFolder:
    """What a folder of ``expunge attack`` holds."""

    manifest: Mapping[str, Any]
    audit: Audit

    @property
    def subject(self) -> str:
        """Fingerprint of the model that was attacked."""
        return str(self.manifest["models"][UNLEARNED])


def read_attacks(folder: str | Path) -> AttackFolder:
    """Read a finished audit.

    Raises:
        UserError: the folder is not there, is something else, was not finished, or cannot be read.
    """
    path = Path(folder).expanduser()
    manifest = read_manifest(path) or {}
    if manifest.get("kind") != ATTACKS:
        raise UserError(f"{folder}: no result of `expunge attack` here; give the folder that was its --out")
    if manifest.get("status") != "done":
        raise UserError(f"{folder}: the attacks were not finished; run the same `expunge attack` again")
    try:
        found = json.loads((path / RESULT).read_text(encoding="utf-8"))
        read = AttackFolder(manifest, _audit(path, found))
        # Named here, so that a folder without them is refused like any other that is broken.
        _ = read.subject, manifest["forget"], manifest["settings"], manifest["seed"]
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"{path / RESULT}: not a result of `expunge attack` that can be read ({reason})") from error
    return read


def _audit(folder: Path, found: Mapping[str, Any]) -> Audit:
    figure = found["durability"]
    return Audit(
        folder,
        tuple(_attacked(one) for one in found["attacks"]),
        Durability(_estimate(figure), figure["worst"], tuple(figure["counted"])),
        _estimate(found["kept"]),
        tuple(found["notes"]),
    )


def _attacked(one: Mapping[str, Any]) -> Attacked:
    attack = NONE if one["attack"] == NONE.key else TABLE.get(one["attack"])
    if "skipped" in one:
        return Attacked(attack, skipped=str(one["skipped"]))
    shares = {name: _estimate(one[name]) for name in ("rise", "recovery", "residual")}
    curves = {role: {int(step): mean for step, mean in curve.items()} for role, curve in one.get("curves", {}).items()}
    return Attacked(
        attack,
        Outcome(**shares, recovered=bool(one["recovered"])),
        dict(one["means"]),
        _number(one.get("steps_to_half")),
        _number(one.get("area")),
        curves,
    )


def _estimate(of: Mapping[str, Any]) -> Estimate:
    low_high = of["interval"]
    interval = (float(low_high[0]), float(low_high[1])) if low_high else None
    return Estimate(_number(of["value"]), interval, str(of["note"]))


def _number(value: float | str | None) -> float:
    """As :func:`~expunge.pipeline.attacking.as_dict` wrote it: null is NaN, ``never`` is infinite."""
    return math.nan if value is None else math.inf if value == "never" else float(value)
