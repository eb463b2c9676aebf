"""``python -m benchmarks.run``: every side of every pair in a fresh process, in the order A B A B.

What is measured stands in :mod:`benchmarks.cases`. Results are kept in one JSON file after every round; a benchmark
that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, FEW_PAIRS, Case, Order, pick_cases
from benchmarks.machine import cores
from benchmarks.page import markdown, write_page
from benchmarks.summary import difference, run_seconds
from expunge.errors import ResourceError, UserError

ROOT = Path(__file__).parents[1]
FORESIGHT = "benchmarks.foresight"
DEFAULT_OUT = Path("benchmark-results") / "results.json"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description="Measure speed and memory side by side."
    )
    parser.add_argument("--cases", default="", help="comma-separated names (see --list); all of the CPU without it")
    parser.add_argument("--pairs", type=_at_least(1), default=5, help=f"rounds of headlines, {FEW_PAIRS} of the rest")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="results file; one that is there is gone on with")
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder, or a shape at random: tiny, smollm2-49k")
    parser.add_argument("--threads", type=_at_least(1), default=cores(), help="of both sides; default: every core")
    parser.add_argument("--steps", type=_at_least(1), help="timed steps instead of each case's own")
    parser.add_argument("--warmup", type=_at_least(0), help="untimed steps instead of each case's own")
    parser.add_argument("--small", action="store_true", help="of the evaluation suite only the reduced form")
    parser.add_argument("--foresee", action="store_true", help="of cases that are measured, only what dry runs say")
    parser.add_argument("--again", action="store_true", help="measure the cases anew")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--write", action="store_true", help="write docs/results/performance.md, and measure nothing")
    return parser.parse_args(arguments)


def _at_least(lowest: int) -> Any:
    def number(text: str) -> int:
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, got {text}")
        return int(text)

    return number


def fitted(case: Case, options: argparse.Namespace) -> Case:
    """The case with the command line's model, threads and numbers of steps."""
    changed: dict[str, Any] = {"threads": options.threads}
    changed |= {name: value for name in ("steps", "warmup") if (value := getattr(options, name)) is not None}
    sides = {
        label: replace(order, **changed, model=order.model or options.model) for label, order in case.sides.items()
    }
    return replace(case, sides=sides)


def ask(order: Order, module: str = "benchmarks.worker") -> dict[str, Any]:
    """What a fresh process measured, or what another module says of the order.

    Raises:
        UserError: what the process says of an order that it cannot do.
        ResourceError: its memory did not suffice, or it was killed.
        RuntimeError: it failed in another way; its traceback is on standard error.
    """
    threads = str(order.threads)
    path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": path}
    command = [sys.executable, "-m", module, json.dumps(asdict(order))]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode in (2, 3):
        kind = UserError if ended.returncode == 2 else ResourceError
        raise kind(ended.stderr.strip().splitlines()[-1])
    if ended.returncode < 0:
        raise ResourceError(f"ended by signal {-ended.returncode}: out of memory?")
    if ended.returncode:
        print(ended.stderr, file=sys.stderr)
        raise RuntimeError(f"a measuring process failed with exit code {ended.returncode}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


class Store:
    """The results file: the machine, and each case's rounds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"machine": {}, "cases": {}}
        if path.is_file():
            try:
                self.content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path}: not a results file: {error}; give another --out") from None

    def rounds(self, case: Case, *, again: bool) -> list[dict[str, Any]]:
        """Those that were measured with these very settings.

        Raises:
            UserError: if there are some of other settings.
        """
        orders = {label: asdict(order) for label, order in case.sides.items()}
        kept = self.content["cases"].get(case.name)
        if kept is None or again:
            kept = self.content["cases"][case.name] = {"orders": orders, "rounds": [], "refused": ""}
        if kept["orders"] != orders:
            raise UserError(
                f"{self.path} holds case {case.name} measured with other settings; give another --out, or --again"
            )
        return kept["rounds"]

    def save(self) -> None:
        """Whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.path)


def run_case(case: Case, store: Store, *, pairs: int, again: bool) -> str:
    """Measure the rounds that are missing; returns why the case is refused, empty where it is not."""
    rounds = store.rounds(case, again=again)
    kept = store.content["cases"][case.name]
    while len(rounds) < pairs and not kept["refused"]:
        found: dict[str, Any] = {}
        for label, order in case.sides_of(len(rounds)).items():
            print(f"{case.name}: round {len(rounds) + 1} of {pairs}, {label}", file=sys.stderr, flush=True)
            try:
                found[label] = ask(order)
            except ResourceError as error:
                kept["refused"] = f"{label}: {error}"
                break
        else:
            rounds.append(found)
            kept["refused"] = difference(case, found)
        store.save()
    return kept["refused"]


def foresee_case(case: Case, store: Store, *, again: bool) -> None:
    """Put what dry runs say of our sides, one before and one after, beside what is measured in between.

    A machine drifts by more in an hour than an estimate may be off. Asked for again, all of it is kept.
    """
    kept = store.content["cases"][case.name]
    for label, order in case.sides.items():
        wanted = order.way == "ours" and (again or label not in kept.get("foreseen", {}))
        if wanted and kept["rounds"] and not kept["refused"]:
            print(f"{case.name}: what dry runs say, {label}", file=sys.stderr, flush=True)
            before, found, after = ask(order, FORESIGHT), ask(order), ask(order, FORESIGHT)
            entry = kept.setdefault("foreseen", {}).setdefault(label, {"told": [], "measured": []})
            entry["told"] += [before, after]
            entry["measured"].append({"seconds": run_seconds(order, found), "memory": found["peak"]})
            store.save()


def measure_cases(cases: Sequence[Case], options: argparse.Namespace, *, device: str) -> int:
    """Measure, print the tables; 1 where a case is refused."""
    store = Store(options.out)
    refused = {}
    cases = [fitted(case, options) for case in cases]
    if options.foresee:
        cases = [case for case in cases if case.name in store.content["cases"]]
    for case in cases:
        store.rounds(case, again=options.again)
    if options.again or not store.content["machine"]:
        store.content["machine"] = ask(Order(kind="machine", threads=options.threads, device=device))
    for case in cases:
        pairs = options.pairs if case.headline else min(options.pairs, FEW_PAIRS)
        if not options.foresee and (reason := run_case(case, store, pairs=pairs, again=False)):
            refused[case.name] = reason
        foresee_case(case, store, again=options.foresee)
    print(markdown(store.content))
    for name, reason in refused.items():
        print(f"{name} is not reported: {reason}", file=sys.stderr)
    return 1 if refused else 0


def main(arguments: Sequence[str] | None = None, *, gpu: bool = False) -> int:
    """Exit code: 0 done, 1 sides differ, 2 the input is wrong."""
    options = parse(arguments)
    try:
        if options.list:
            print("\n".join(f"{case.name:<16} {case.title} ({' | '.join(case.sides)})" for case in CASES.values()))
            return 0
        if options.write:
            written = write_page(Store(options.out).content)
            print("wrote " + ", ".join(str(path.relative_to(ROOT)) for path in written))
            return 0
        cases = pick_cases(options.cases, gpu=gpu, small=options.small)
        return measure_cases(cases, options, device="cuda" if gpu else "cpu")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
