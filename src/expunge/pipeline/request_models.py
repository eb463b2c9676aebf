"""The models of a ledger: which weights stand after each of its applications."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from expunge.attacks.weights import merged
from expunge.errors import UserError
from expunge.models.gated import gates_of
from expunge.models.gated_files import compose_adapters
from expunge.models.load import LoadedModel, load_model, remember_format, source_fingerprint
from expunge.pipeline.folder import weights_folder
from expunge.pipeline.stages import StageStore
from expunge.requests.ledger import Application, Ledger
from expunge.requests.strategy import STRATEGIES


class LedgerModels:
    """The base model of a ledger, and what its applications made of it."""

    def __init__(self, ledger: Ledger, model: Mapping[str, Any]) -> None:
        """
        Args:
            ledger: whose models.
            model: the recipe's ``model`` part: the base model and how models are loaded.
        """
        self.ledger = ledger
        self.base = str(model["path"])
        self.options = {name: value for name, value in model.items() if name != "path"}
        self.store = StageStore(ledger.folder / "stages")

    def open(self, source: str) -> LoadedModel:
        """A model in memory, loaded as the ledger says."""
        return load_model(source, **self.options)

    def after(self, live: Sequence[Application]) -> str:
        """The model that rests on these applications, in their order; made if it is not there.

        Raises:
            UserError: weights of an application are gone, or are others than were recorded.
        """
        if not live:
            return self.base
        if not STRATEGIES[live[-1].strategy].from_base:
            return self._weights(live[-1])
        parts = [self._weights(application) for application in live]
        if live[-1].strategy == "compose":
            return parts[0] if len(parts) == 1 else self._composed(parts)
        return self._summed(parts)

    def whole(self, result: str) -> str:
        """Weights that the next application can start from: an adapter is taken up into its base."""
        if Path(result).name != "adapter":
            return result

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            loaded = self.open(result)
            if gates_of(loaded.model):
                raise UserError("chain: a gated adapter is no change of weights to go on from; use --strategy compose")
            _save(merged(loaded), folder / "model")
            return {}

        return self._combined({"whole": source_fingerprint(result)}, build)

    def relative(self, path: str) -> str:
        """As the ledger writes it down: below its folder, so that the folder can move."""
        return str(Path(path).absolute().relative_to(self.ledger.folder.absolute()))

    def _weights(self, application: Application) -> str:
        path = self.ledger.folder / application.result
        if not path.is_dir():
            raise UserError(f"{path}: the weights of application {application.id} are gone")
        if source_fingerprint(path) != application.result_hash:
            raise UserError(f"{path}: the weights of application {application.id} are not those that were recorded")
        return str(path)

    def _composed(self, adapters: Sequence[str]) -> str:
        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            compose_adapters(list(adapters), folder / "adapter")
            return {}

        return self._combined({"compose": [source_fingerprint(path) for path in adapters]}, build)

    def _summed(self, parts: Sequence[str]) -> str:
        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            _save(
                add_task_vectors(self.open(self.base), (partial(self.open, path) for path in parts)), folder / "model"
            )
            return {}

        prints = [source_fingerprint(path) for path in (self.base, *parts)]
        return self._combined({"merge": prints, "options": self.options}, build)

    def _combined(self, parts: Mapping[str, Any], build: Any) -> str:
        return str(weights_folder(self.store.run("combined", parts, build, label="put together").path))


@torch.no_grad()
def add_task_vectors(base: LoadedModel, others: Iterable[Any]) -> LoadedModel:
    """``theta_0 + sum_i (theta_i - theta_0)``, in place; the weights of one other model in memory at a time.

    Args:
        base: the common start; it is changed.
        others: functions that bring models trained from it into memory; adapters are taken up into their weights.

    Raises:
        UserError: a model's weights are of other shapes.

    Source: task arithmetic (arXiv 2212.04089).
    """
    start = {name: weight.detach().clone() for name, weight in base.model.named_parameters()}
    for opener in others:
        other = dict(merged(opener()).model.named_parameters())
        if {name: w.shape for name, w in other.items()} != {name: w.shape for name, w in start.items()}:
            raise UserError("merge: the models to add up differ in their weights' names or shapes")
        for name, weight in base.model.named_parameters():
            weight.add_(other[name] - start[name])
    return base


def _save(loaded: LoadedModel, folder: Path) -> None:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    remember_format(folder, loaded.format)
