"""`expunge requests`: carries out what the ledger holds, so that nothing is lost and nothing done twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import Benchmark
from expunge.data.rows import rows_hash
from expunge.errors import RecipeError, UserError
from expunge.models.load import source_fingerprint
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.composing import composed
from expunge.pipeline.folder import claim_folder, open_folder, weights_folder
from expunge.pipeline.redacting import take_texts_out
from expunge.pipeline.request_models import LedgerModels
from expunge.pipeline.request_rows import RequestRows, benchmark_of, read_files, read_request, read_what_is_there
from expunge.pipeline.run import Plan
from expunge.progress import say
from expunge.recipe import Recipe, parse_recipe
from expunge.requests.ledger import APPLIED, PENDING, REVOKED, Application, Ledger, Request
from expunge.requests.strategy import Strategy, strategy_for, undone_with

SETTINGS = {"method": "auto"}
"""How requests are carried out where nobody says."""
NAMED = 8
"""At most so many requests are named in a folder's name."""


class Requests:
    """Deletion requests for one model: :meth:`add` them, :meth:`run` what is pending.

    :func:`~expunge.pipeline.request_audit.audit_requests` looks at all of them again.

    Args:
        folder: where the ledger lies, with the weights that it led to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.ledger = Ledger(folder)

    # -- asking -------------------------------------------------------------------------------------------------------

    def add(
        self, forget: str | Path, *, retain: str | Path | None = None, note: str = "",
        model: str | Path | None = None, model_settings: Mapping[str, Any] | None = None,
    ) -> Request:  # fmt: skip
        """Write a request down; the first one begins the ledger and names its model.

        Args:
            forget: file of rows to forget. The ledger keeps its path and the hash of its rows, not the rows.
            retain: file of rows to keep.
            note: anything to remember it by.
            model: the base model; needed for the first request, and the same ever after.
            model_settings: anything of a recipe's ``model`` part.

        Raises:
            UserError: anything in the input that is wrong, or the same rows asked for twice.
        """
        forget_rows, retain_rows = read_files(str(forget), str(retain) if retain else None)
        if model is not None:
            self._begin(str(model), model_settings or {})
        else:
            self.ledger.facts()
        return self.ledger.add(
            str(Path(forget).expanduser().absolute()),
            rows_hash(forget_rows),
            len(forget_rows),
            retain=str(Path(retain).expanduser().absolute()) if retain else None,
            retain_hash=rows_hash(retain_rows) if retain else None,
            note=note,
        )

    def list(self) -> tuple[Request, ...]:
        """All requests in the order they came."""
        return self.ledger.requests()

    def revoke(self, number: int) -> tuple[Application, ...]:
        """Take a request back. What was trained on top of it is undone, and its other requests are pending again.

        Returns:
            The applications that were undone.
        """
        with self.ledger.only_runner():
            undone = undone_with(number, self.ledger.applications())
            self.ledger.revoke(number, undone=[application.id for application in undone])
        return undone

    # -- doing --------------------------------------------------------------------------------------------------------

    def run(
        self, *, strategy: str | None = None, batched: bool = False, settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> tuple[Application, ...]:  # fmt: skip
        """Carry out every pending request. Interrupted, the same call goes on; nothing is applied twice.

        Args:
            strategy: ``chain``, ``compose`` or ``merge``; by default that of the last application, else ``chain``.
            batched: all pending requests together, instead of one after the other.
            settings: the recipe's ``unlearn`` part; by default that of the last application, else method auto.
            seed: everything random follows from it.

        Returns:
            The applications that were made.

        Raises:
            UserError: anything that is wrong, before any work where it can be known.
        """
        with self.ledger.only_runner():
            live, ever = self.ledger.applications(), self.ledger.applications(live=False)
            way = strategy_for(strategy or (ever[-1].strategy if ever else "chain"), live)
            part = dict(settings or (ever[-1].settings if ever else SETTINGS))
            pending = [read_request(request) for request in self.ledger.requests(PENDING)]
            if not pending:
                say("no request is pending")
            # What was applied matters too: it must not be taught again by a file of rows to keep.
            everything = [*read_what_is_there(self.ledger.requests(APPLIED, REVOKED)), *pending]
            groups = [pending] if batched and pending else [[rows] for rows in pending]
            parts = [self._settled(part, way, group, everything, seed) for group in groups]
            return tuple(
                self._apply(group, everything, way, part, seed) for group, part in zip(groups, parts, strict=True)
            )

    def model(self) -> str:
        """The model as it stands: the base model, or what the live applications made of it."""
        return self.models().after(self.ledger.applications())

    def models(self) -> LedgerModels:
        """The ledger's models.

        Raises:
            UserError: the base model is not the one that the ledger began with.
        """
        facts = self.ledger.facts()
        if (found := source_fingerprint(facts["model"]["path"])) != facts["model_hash"]:
            raise UserError(
                f"{facts['model']['path']}: is no longer the model that the ledger began with (hash {found[:12]}, was "
                f"{facts['model_hash'][:12]})"
            )
        return LedgerModels(self.ledger, facts["model"])

    def _begin(self, model: str, settings: Mapping[str, Any]) -> None:
        recipe = parse_recipe({"name": "requests", "model": {"path": model, **settings}}, "requests")
        path = Path(model).expanduser()
        part = {**dataclasses.asdict(recipe.model), "path": str(path.absolute()) if path.exists() else model}
        self.ledger.create({"model": part, "model_hash": source_fingerprint(model)})

    def _settled(
        self, part: Mapping[str, Any], way: Strategy, group: Sequence[RequestRows], everything: Sequence[RequestRows],
        seed: int,
    ) -> dict[str, Any]:  # fmt: skip
        """The settings with their method named; what cannot work is refused before any request is carried out."""
        facts = self.ledger.facts()
        recipe = self._recipe(facts["model"], facts["model"]["path"], part, group, seed)
        check_recipe(recipe)
        assert recipe.unlearn is not None
        _, composition, _ = composed(recipe.unlearn, benchmark_of(group, everything))
        if composition.guard:
            raise RecipeError(
                f"{composition.method.key} only suppresses answers and leaves the weights as they are: a deletion "
                "request needs a method that changes them"
            )
        gated = composition.scope.get("kind") == "gated"
        if gated != (way.key == "compose"):
            allowed = "a gated scope (grun_gd, grun_npo ...)" if way.key == "compose" else "any but a gated scope"
            raise RecipeError(f"strategy {way.key} takes {allowed}; {composition.method.key} has another")
        return {**part, "method": composition.method.key}

    def _apply(
        self, group: Sequence[RequestRows], everything: Sequence[RequestRows], way: Strategy, part: Mapping[str, Any],
        seed: int,
    ) -> Application:  # fmt: skip
        """Train, put together, and only then write it down."""
        models, live = self.models(), self.ledger.applications()
        start = models.base if way.from_base else models.after(live)
        recipe = self._recipe(self.ledger.facts()["model"], start, part, group, seed)
        numbers = [rows.request.id for rows in group]
        say(f"request {', '.join(map(str, numbers))}: {recipe.unlearn.method if recipe.unlearn else ''}, {way.key}")
        # Named by what is asked: a call that was cut off finds what it began.
        out = self.ledger.folder / "applied" / _folder_name(numbers)
        result = self._train(recipe, benchmark_of(group, everything), models, out)
        if not way.from_base:
            result = models.whole(result)
        number = self.ledger.record(
            numbers,
            strategy=way.key,
            settings=part,
            base_hash=source_fingerprint(start),
            result=models.relative(result),
            result_hash=source_fingerprint(result),
        )
        made = next(application for application in self.ledger.applications() if application.id == number)
        models.after([*live, made])
        return made

    def _train(self, recipe: Recipe, benchmark: Benchmark, models: LedgerModels, out: Path) -> str:
        claim_folder(out)
        plan = Plan(recipe, benchmark, models.store)
        with open_folder(out, stages=models.store.root):
            plan.run(out)
            # A ledger holds no rows, and what a model wrote about them is rows.
            take_texts_out((stage.path for stage in plan.stages.values()), plan.texts)
        # The stage, not the run folder: another application may use the folder's name.
        return str(weights_folder(plan.stages["unlearn"].path))

    def _recipe(
        self, model: Mapping[str, Any], start: str, part: Mapping[str, Any], group: Sequence[RequestRows], seed: int
    ) -> Recipe:
        return parse_recipe(
            {
                "name": f"requests {', '.join(str(rows.request.id) for rows in group)}",
                "seed": seed,
                "model": {**model, "path": start},
                "data": {"benchmark": "custom", "options": _files(group)},
                "retain_reference": "none",
                "unlearn": dict(part),
            },
            "requests",
        )


def _folder_name(numbers: Sequence[int]) -> str:
    """``3`` or ``3-4-7``; of many requests the first and the last, and a hash of them all."""
    if len(numbers) <= NAMED:
        return "-".join(map(str, numbers))
    digest = hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:8]
    return f"{numbers[0]}-to-{numbers[-1]}-{digest}"


def _files(group: Sequence[RequestRows]) -> dict[str, list[str]]:
    """The data options with which the rows are read again."""
    forget = [rows.request.forget for rows in group]
    retain = [rows.request.retain for rows in group if rows.request.retain]
    return {"forget": forget, **({"retain": retain} if retain else {})}
