"""What a run is: one YAML file, read into frozen dataclasses, with every mistake reported at once.

Direct construction checks ranges too (``__post_init__``), so that Python callers and files meet the same rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from expunge.errors import RecipeError, nearest

# From left to right, so that 1e-5, which YAML 1.1 reads as text, is a number.
TermSetting = Annotated[float | str, Field(union_mode="left_to_right")]
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def _require(checks: Iterable[tuple[bool, str]]) -> None:
    """Raise one error that lists every broken rule."""
    broken = [message for holds, message in checks if not holds]
    if broken:
        raise RecipeError("; ".join(broken))


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """The model to start from."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    path: str = "smollm2"
    """``smollm2``, a folder, a run, an adapter, a ``.gguf`` file or a Hub id."""
    format: str = "auto"
    """Chat format: ``auto``, ``chat``, ``qa``, ``llmu``, ``inst``, ``blank`` or ``bare``."""
    max_length: int = 512
    """Longest sequence in tokens."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""

    def __post_init__(self) -> None:
        _require([(self.max_length >= 8, f"max_length must be at least 8, got {self.max_length}")])


@dataclass(frozen=True, kw_only=True)
class DataPart:
    """Which benchmark, and its options."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    benchmark: str = "almanac"
    """``almanac``, ``tofu:forget10``, ``custom`` ..."""
    options: dict[str, Any] = field(default_factory=dict)
    """Handed to the benchmark's loader; see its page."""
    also: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other benchmarks whose probe sets are measured too, with their options: ``{truthfulqa: {rows: 50}}``."""


@dataclass(frozen=True, kw_only=True)
class BudgetPart:
    """When unlearning has cost enough: the run stops there and keeps its best step."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    retain_loss: float | None = None
    """Largest allowed rise of the mean token loss on retain (or general) probe rows, in nats."""
    kl: float | None = None
    """Largest allowed mean token KL from the starting model on the same rows, in nats."""
    every: int = 2
    """Optimiser steps between two looks."""
    rows: int = 32
    """How many probe rows are looked at."""

    def __post_init__(self) -> None:
        _require(
            [
                (
                    self.retain_loss is None or self.retain_loss > 0,
                    f"retain_loss must be above 0, got {self.retain_loss}",
                ),
                (self.kl is None or self.kl > 0, f"kl must be above 0, got {self.kl}"),
                (self.retain_loss is not None or self.kl is not None, "retain_loss or kl must be given"),
                (self.every >= 1, f"every must be at least 1, got {self.every}"),
                (self.rows >= 1, f"rows must be at least 1, got {self.rows}"),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class TrainPart:
    """How weights are trained; None means the default for the scope and the model's size."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    scope: dict[str, Any] | None = None
    """``{kind: full}`` or ``{kind: lora, rank: 16}``, a bare name too; None: the method's own, else full."""
    lr: float | None = None
    """Peak learning rate."""
    epochs: float | None = None
    """Passes over the anchor set (forget rows, or all rows in finetuning)."""
    max_steps: int | None = None
    """Optimiser steps; wins over epochs."""
    batch_size: int = 8
    """Rows of each stream in one optimiser step; memory does not depend on it."""
    warmup: float = 0.1
    """Share of the steps with a rising learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What the learning rate does after warm-up."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 turns clipping off."""
    micro_batch_tokens: int | None = None
    """Most unique tokens in one forward pass; None: 1536 on a CPU, 2048 on a GPU, fewer where memory is short."""
    checkpoint_activations: bool | None = None
    """Compute activations again in the backward pass instead of keeping them; None: where memory is short."""
    checkpoint_minutes: float = 3.0
    """Minutes between two resume points; 0 writes one after every step."""
    keep_every: int = 0
    """Optimiser steps between two kept models, for ``expunge evaluate RUN --checkpoints all``; 0 keeps the last."""
    optimizer: str = "adamw_torch_fused"
    """Any optimiser name of transformers' ``TrainingArguments.optim``."""
    bf16: bool | None = None
    """bfloat16 autocast with float32 master weights and losses; None: on a GPU that has it, never on a CPU."""
    track: str = "none"
    """``none``, ``tensorboard``, ``trackio`` or ``wandb``."""

    def __post_init__(self) -> None:
        _require(_train_rules(self))


def _train_rules(part: TrainPart) -> list[tuple[bool, str]]:
    return [
        (part.lr is None or 0 < part.lr < 1, f"lr must be in (0, 1), got {part.lr}"),
        (part.epochs is None or part.epochs > 0, f"epochs must be above 0, got {part.epochs}"),
        (part.max_steps is None or part.max_steps >= 1, f"max_steps must be at least 1, got {part.max_steps}"),
        (part.batch_size >= 1, f"batch_size must be at least 1, got {part.batch_size}"),
        (0 <= part.warmup < 1, f"warmup must be in [0, 1), got {part.warmup}"),
        (part.weight_decay >= 0, f"weight_decay must be at least 0, got {part.weight_decay}"),
        (part.max_grad_norm >= 0, f"max_grad_norm must be at least 0, got {part.max_grad_norm}"),
        (
            part.micro_batch_tokens is None or part.micro_batch_tokens >= 16,
            f"micro_batch_tokens must be at least 16, got {part.micro_batch_tokens}",
        ),
        (part.keep_every >= 0, f"keep_every must be at least 0, got {part.keep_every}"),
        (part.checkpoint_minutes >= 0, f"checkpoint_minutes must be at least 0, got {part.checkpoint_minutes}"),
        (
            part.track in TRACKERS,
            f"track must be one of {', '.join(TRACKERS)}, got {part.track!r}{nearest(part.track, TRACKERS)}",
        ),
    ]


TRACKERS = ("none", "tensorboard", "trackio", "wandb")


@dataclass(frozen=True, kw_only=True)
class FinetunePart(TrainPart):
    """Making the target model (on forget + retain rows) and the retain model (on retain rows alone)."""


@dataclass(frozen=True, kw_only=True)
class UnlearnPart(TrainPart):
    """Making the unlearned model."""

    method: str = "auto"
    """A preset: see ``expunge list methods``; ``auto``: the one that suits the rows and ``to_4bit``."""
    to_4bit: bool = False
    """Whether the result will be stored in 4 bits; method ``auto`` then takes one whose forgetting outlasts that."""
    term: dict[str, TermSetting] = field(default_factory=dict)
    """Hyperparameters of the terms, for instance ``{beta: 0.1}``."""
    forget_term: str | None = None
    """A term, or a weighted sum (``0.5*ga+mismatch``), or ``none``, instead of the preset's."""
    retain_term: str | None = None
    """``none``, ``nll``, ``kl``, ``nll+kl`` ... instead of the preset's."""
    view: str | None = None
    """``gold``, ``refusal``, ``mismatch``, ``template`` ... instead of the preset's."""
    written: str | None = None
    """File of rows that ``expunge augment`` wrote for the forget set: trained on in the place of its own, which stay
    what is measured."""
    template: str | None = None
    """The one answer of the ``template`` view."""
    alternates: int | None = None
    """How many answers to each forget question the model makes up for the ``model`` view; None: 5."""
    spare_question: bool = False
    """Leave tokens of the forget answers alone whose words stand in their question: who is asked about, not what."""
    layer: int | None = None
    """Block (from 0) whose output hidden-state terms read; None: the preset's share of the depth."""
    gamma: float | None = None
    """Weight of the forget side."""
    alpha: float | None = None
    """Weight of the retain side."""
    rules: list[dict[str, Any]] | None = None
    """Gradient rules instead of the preset's: ``[{kind: gru}, {kind: sam, rho: 0.01}]``."""
    edit: dict[str, Any] | None = None
    """What is done to the weights after training, instead of the preset's: ``{kind: extrapolate, scale: 1}``."""
    guard: dict[str, Any] | None = None
    """What is put around the model at inference time, instead of the preset's: ``{kind: refusal_prompt}``."""
    merge: dict[str, Any] | None = None
    """Several runs whose adapters become one, instead of the preset's: ``{parts: [{gamma: 2}, {gamma: 1}]}``."""
    stop_loss: float | None = None
    """Stop when the mean token loss of the forget answers has risen above this, in nats."""
    budget: BudgetPart | None = None
    """Stop when utility has paid this much."""
    keep_weights: bool = True
    """False: the unlearned model's weights go once it is measured and attacked; what needs them makes them anew."""

    def __post_init__(self) -> None:
        rules = [
            (self.gamma is None or self.gamma >= 0, f"gamma must be at least 0, got {self.gamma}"),
            (self.alpha is None or self.alpha >= 0, f"alpha must be at least 0, got {self.alpha}"),
            (self.alternates is None or self.alternates >= 1, f"alternates must be at least 1, got {self.alternates}"),
            (self.layer is None or self.layer >= 0, f"layer must be at least 0, got {self.layer}"),
            (self.stop_loss is None or self.stop_loss > 0, f"stop_loss must be above 0, got {self.stop_loss}"),
        ]
        _require([*_train_rules(self), *rules])


@dataclass(frozen=True, kw_only=True)
class EvaluatePart:
    """What is measured, and how."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    max_new_tokens: int = 200
    """Longest generated answer."""
    generation_batch: int = 64
    """Rows generated together."""
    pack_tokens: int = 1024
    """Most unique tokens in one scoring pass."""
    num_resamples: int = 1000
    """Bootstrap resamples behind every interval."""
    legacy: bool = False
    """open-unlearning's variants of the token metrics, to compare with its tables."""
    fluency: bool = True
    """Perplexity of the answers under the starting model."""
    fluency_model: str | None = None
    """Another model to take it from; an evaluation by itself has no starting model, and none without this."""
    suites: list[str] | None = None
    """Suites of metrics (``expunge list suites``); None: the benchmark's own."""
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other models that metrics ask, by role: ``{entailment: {kind: hf, model: PATH}}``."""
    measures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single measures: ``{leak: {samples: 64}}``."""
    harness: dict[str, Any] = field(default_factory=dict)
    """Tasks of lm-evaluation-harness with its own settings: ``{tasks: [arc_easy, flat_zero_shot], limit: 100}``."""
    redact: bool = False
    """Write no text of any row, and nothing that a model said: ids and numbers alone, to be shared."""

    def __post_init__(self) -> None:
        _require(
            [
                (self.max_new_tokens >= 1, f"max_new_tokens must be at least 1, got {self.max_new_tokens}"),
                (self.generation_batch >= 1, f"generation_batch must be at least 1, got {self.generation_batch}"),
                (self.pack_tokens >= 16, f"pack_tokens must be at least 16, got {self.pack_tokens}"),
                (self.num_resamples >= 10, f"num_resamples must be at least 10, got {self.num_resamples}"),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class AttackPart:
    """By what a model is attacked, and how hard."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    attacks: list[str] = field(default_factory=list)
    """Attacks, families or ``all``; none named: those of ``--quick``."""
    steps: list[int] = field(default_factory=lambda: [20, 50, 100])
    """Optimiser steps of relearning after which is looked, ascending; the last ends it."""
    lr: float = 2e-5
    """Constant learning rate of relearning."""
    batch_size: int = 8
    """Rows in a step of relearning."""
    scope: dict[str, Any] = field(default_factory=lambda: {"kind": "full"})
    """What relearning may change: ``{kind: full}`` or ``{kind: lora, rank: 16}``."""
    share: float = 0.2
    """Share of the forget rows that ``relearn:subset`` teaches; the others are looked at."""
    group: int = 128
    """Weights that share a scale in a quantisation."""
    samples: int = 16
    """Answers that ``sampling:leak`` draws to each question."""
    max_new_tokens: int = 64
    """Longest sampled answer, in tokens."""
    pack_tokens: int = 512
    """Most unique tokens in one scoring pass."""
    micro_batch_tokens: int = 384
    """Most unique tokens in one pass of relearning."""
    num_resamples: int = 1000
    """Bootstrap resamples behind every interval."""

    def __post_init__(self) -> None:
        _require(
            [
                (
                    bool(self.steps) and self.steps == sorted(set(self.steps)) and self.steps[0] >= 1,
                    f"steps must be whole numbers from 1 on, ascending, got {self.steps}",
                ),
                (0 < self.lr < 1, f"lr must be in (0, 1), got {self.lr}"),
                (self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}"),
                (0 < self.share < 1, f"share must be in (0, 1), got {self.share}"),
                (self.group >= 0, f"group must be at least 0, got {self.group}"),
                (self.samples >= 1, f"samples must be at least 1, got {self.samples}"),
                (self.max_new_tokens >= 1, f"max_new_tokens must be at least 1, got {self.max_new_tokens}"),
                (self.pack_tokens >= 16, f"pack_tokens must be at least 16, got {self.pack_tokens}"),
                (
                    self.micro_batch_tokens >= 16,
                    f"micro_batch_tokens must be at least 16, got {self.micro_batch_tokens}",
                ),
                (self.num_resamples >= 10, f"num_resamples must be at least 10, got {self.num_resamples}"),
            ]
        )


_NO_AXIS = ("name", "variants", "matrix")
"""What a matrix cannot vary."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run: finetune, retain reference, unlearn, evaluate, report, attack."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str = "run"
    """Names the run's folder and its report."""
    seed: int = 0
    """Everything random follows from it."""
    model: ModelPart = field(default_factory=ModelPart)
    data: DataPart = field(default_factory=DataPart)
    finetune: FinetunePart | None = None
    """Absent: the model itself is the target."""
    retain_reference: Literal["train", "none"] | str = "train"
    """``train`` a retain model when there is a finetune part; ``none``; or the path of a model, a run or a log."""
    unlearn: UnlearnPart | None = None
    """Absent: the run ends with the target model."""
    evaluate: EvaluatePart | None = None
    """Absent: nothing is measured."""
    attack: AttackPart | None = None
    """Absent: the unlearned model is not attacked."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Runs that differ in their unlearn part alone, by name: ``{npo: {method: npo}, ga: {method: ga, lr: 1e-5}}``."""
    matrix: dict[str, list[Any]] = field(default_factory=dict)
    """Runs for every combination of values: ``{model.path: [A, B], data.benchmark: [almanac], seed: [0, 1]}``; each
    with every variant, where there are some."""

    def __post_init__(self) -> None:
        named = self.name not in ("", ".", "..") and not set(self.name) & set("/\\:\n")
        _require(
            [
                (named, f"name must be a plain file name, got {self.name!r}"),
                (0 <= self.seed < 2**32, f"seed must be in [0, 2**32), got {self.seed}"),
                ("stages" not in self.variants, "variants.stages: the shared stages lie there; choose another name"),
                *((bool(values), f"matrix.{path}: the list is empty") for path, values in self.matrix.items()),
                *(
                    (path.split(".")[0] not in _NO_AXIS, f"matrix.{path}: cannot be an axis; take any other setting")
                    for path in self.matrix
                ),
            ]
        )

    @property
    def is_many(self) -> bool:
        """Whether it stands for several runs."""
        return bool(self.variants or self.matrix)

    @property
    def redact(self) -> bool:
        """Whether no text of a row may be written down."""
        return self.evaluate is not None and self.evaluate.redact

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for YAML and hashing."""
        content = dataclasses.asdict(self)
        if self.evaluate and not self.redact:
            # Off, it leaves no trace: what was kept before there was such a thing is found again.
            del content["evaluate"]["redact"]
        if self.attack is None:
            del content["attack"]
        return content
