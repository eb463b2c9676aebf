"""The judges of one evaluation: made when first asked for, described for the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from expunge.errors import UserError, unknown
from expunge.evaluation.judges import offline
from expunge.evaluation.judges.base import Judges
from expunge.evaluation.judges.settings import ROLES, Choice, read_judges

if TYPE_CHECKING:
    import httpx


def make_judges(
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Judges:
    """The judges that ``evaluate.judges`` names, and the offline default for every other role.

    Nothing is loaded, fetched or sent before a judge is used.

    Args:
        settings: by role: ``{kind: ..., option: ...}``.
        transport: httpx transport of endpoints; tests pass a mock.
        sleep: waits between the tries of an endpoint.

    Raises:
        RecipeError: for settings that :func:`expunge.evaluation.judges.check_judges` refuses.
    """
    return JudgeTable(read_judges(settings or {}), transport=transport, sleep=sleep)


class JudgeTable:
    """Judges by role; see :class:`expunge.evaluation.judges.base.Judges`."""

    def __init__(
        self, choices: Mapping[str, Choice], *, transport: httpx.BaseTransport | None, sleep: Callable[[float], None]
    ) -> None:
        self._choices = choices
        self._made: dict[str, Any] = {}
        self._told: set[str] = set()
        self._transport, self._sleep = transport, sleep

    def get(self, role: str) -> Any:
        """The judge of a role, made on the first call.

        Raises:
            UserError: an unknown role, or a model, key or folder that is not there.
        """
        if role not in self._made:
            choice = self._choice(role)
            self._made[role] = (
                self._endpoint(choice) if choice.kind == "endpoint" else _MAKERS[role, choice.kind](choice)
            )
        return self._made[role]

    def require(self, roles: Iterable[str]) -> None:
        """Look for keys and folders that the judges of these roles need, and load nothing.

        Raises:
            UserError: one line with all that is missing.
        """
        problems = [problem for role in dict.fromkeys(roles) if (problem := _absent(self._choice(role)))]
        if problems:
            raise UserError("; ".join(dict.fromkeys(problems)))

    def describe(self, roles: Iterable[str]) -> dict[str, dict[str, str]]:
        """``name`` and ``blind_spots`` of the judge of each role, without loading models that are not loaded yet."""
        return {role: self._description(role) for role in dict.fromkeys(roles)}

    def _description(self, role: str) -> dict[str, str]:
        choice = self._choice(role)
        if role in self._made or choice.kind in OFFLINE_KINDS:
            judge = self.get(role)
            return {"name": judge.name, "blind_spots": judge.blind_spots}
        return {"name": _future_name(choice), "blind_spots": ""}

    def _choice(self, role: str) -> Choice:
        if role not in self._choices:
            raise UserError(unknown("judge role", role, ROLES))
        return self._choices[role]

    def _endpoint(self, choice: Choice) -> Any:
        from expunge.evaluation.judges import prompted
        from expunge.llm.endpoint import Caller, Endpoint

        judges = {
            "entities": prompted.PromptedEntities,
            "entailment": prompted.PromptedEntailment,
            "harm": prompted.PromptedHarm,
            "rater": prompted.PromptedRater,
        }
        caller = Caller(f"{choice.role} judge", _setting(choice), _SENT)
        endpoint = Endpoint(
            choice.options, caller=caller, told=self._told, transport=self._transport, sleep=self._sleep
        )
        return judges[choice.role](endpoint)


_SENT = "prompts, reference answers and model answers, those of the forget set among them,"


def _setting(choice: Choice) -> str:
    return f"evaluate.judges.{choice.role}"


def _future_name(choice: Choice) -> str:
    """How a judge that is not loaded yet is called in the record."""
    model = getattr(choice.options, "model", "all-MiniLM-L6-v2")
    if choice.kind == "endpoint":
        return f"endpoint {model} at {urlsplit(choice.options.url).netloc}"
    return f"{choice.kind} {model}"


OFFLINE_KINDS = ("rules", "hashed", "none")


def _hf(name: str) -> Callable[[Choice], Any]:
    """Make a judge of the transformers module, which is imported only then."""

    def make(choice: Choice) -> Any:
        from expunge.evaluation.judges import hf

        return getattr(hf, name)(choice.options)

    return make


def _hashed(choice: Choice) -> Any:
    from expunge.evaluation.judges.encoder import HashedEncoder

    return HashedEncoder()


_MAKERS: Mapping[tuple[str, str], Callable[[Choice], Any]] = {
    ("entities", "rules"): lambda choice: offline.RuleEntities(),
    ("entailment", "rules"): lambda choice: offline.RuleEntailment(),
    ("entailment", "hf"): _hf("HFEntailment"),
    ("encoder", "hashed"): _hashed,
    ("encoder", "minilm"): _hf("minilm_encoder"),
    ("encoder", "hf"): _hf("hf_encoder"),
    ("harm", "rules"): lambda choice: offline.RuleHarm(),
    ("harm", "hf"): _hf("HFHarm"),
    ("gibberish", "rules"): lambda choice: offline.RuleGibberish(),
    ("gibberish", "hf"): _hf("HFGibberish"),
    ("reward", "none"): lambda choice: offline.NoReward(),
    ("reward", "hf"): _hf("HFReward"),
    ("rater", "none"): lambda choice: offline.NoRater(),
}


def _absent(choice: Choice) -> str:
    """What a judge needs and does not find, in one line; empty when all is there or only loading can tell."""
    if choice.kind == "endpoint" and choice.options.key_env:
        from expunge.llm.endpoint import read_key

        try:
            read_key(choice.options, _setting(choice))
        except UserError as error:
            return str(error)
    if choice.kind == "hf" and _looks_like_path(choice.options.model):
        folder = Path(choice.options.model).expanduser()
        where = f"{_setting(choice)}.model: {choice.options.model}"
        if not (folder / "config.json").is_file():
            return f"{where}: no model folder (config.json is not there)"
        if not list(folder.glob("*.safetensors")):
            return f"{where}: no safetensors weights, and others are not read"
    return ""


def _looks_like_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).exists()
