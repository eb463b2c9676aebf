"""Which rows a step shows: a pure function, fair to every row, independent between streams."""

from __future__ import annotations

from collections import Counter

import pytest

from expunge.recipe import TrainPart
from expunge.training.plan import StepPlan
from expunge.training.trainer import lr_factor


def make(
    forget: int = 10, retain: int = 25, *, batch: int = 4, epochs: float = 3, seed: int = 0, **more: int
) -> StepPlan:
    sizes = {"forget": forget, "retain": retain} | more
    return StepPlan.make(sizes, pace="forget", batch_size=batch, seed=seed, epochs=epochs, max_steps=None)


def rows(plan: StepPlan, stream: str) -> list[list[int]]:
    return [[row for row, _ in plan.step(i)[stream]] for i in range(plan.num_steps)]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_it_is_a_pure_function() -> None:
    plan = make()
    walked = [plan.step(i) for i in range(plan.num_steps)]
    # Asked backwards and from a plan made anew, as after an interruption.
    again = make()
    assert [again.step(i) for i in reversed(range(again.num_steps))] == walked[::-1]
    assert [make(seed=1).step(i) for i in range(plan.num_steps)] != walked


def test_epochs_of_the_forget_set_are_whole() -> None:
    # 10 rows in batches of 4: 4 + 4 + 2, three times.
    plan = make()
    assert plan.num_steps == 9
    shown = rows(plan, "forget")
    assert [len(batch) for batch in shown] == [4, 4, 2] * 3
    orders = [flat(shown[i : i + 3]) for i in (0, 3, 6)]
    for order in orders:
        assert sorted(order) == list(range(10))
    assert orders[0] != orders[1] != orders[2]
    assert [epoch for i in range(9) for _, epoch in plan.step(i)["forget"]] == [0] * 10 + [1] * 10 + [2] * 10


def test_retain_is_covered_whole_before_any_row_returns() -> None:
    plan = make(forget=10, retain=25, epochs=20)
    drawn = flat(rows(plan, "retain"))
    assert len(drawn) == 60 * 4
    for start in range(0, 225, 25):
        assert sorted(drawn[start : start + 25]) == list(range(25))
    counts = Counter(drawn)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("forget", [1, 3, 10, 40])
def test_retain_batches_are_full_whatever_the_forget_set(forget: int) -> None:
    for batch in rows(make(forget=forget, retain=7, epochs=4), "retain"):
        assert len(batch) == 4


def test_the_forget_set_does_not_decide_which_retain_rows_come() -> None:
    few, many = rows(make(forget=5, epochs=4), "retain"), rows(make(forget=40, epochs=4), "retain")
    shared = min(len(few), len(many))
    assert few[:shared] == many[:shared]


def test_streams_of_equal_size_do_not_walk_in_step() -> None:
    plan = make(forget=50, retain=50, batch=5, epochs=2)
    same = sum(a == b for i in range(20) for a, b in zip(plan.step(i)["forget"], plan.step(i)["retain"], strict=True))
    # By chance one of 50 pairs agrees; in step all 100 would.
    assert same < 12


def test_a_retain_set_smaller_than_a_batch_is_repeated() -> None:
    plan = make(forget=8, retain=3, batch=8, epochs=1)
    assert Counter(row for row, _ in plan.step(0)["retain"]).total() == 8
    assert [epoch for _, epoch in plan.step(0)["retain"]] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_number_of_steps() -> None:
    assert make(forget=3, batch=8, epochs=5).num_steps == 5
    assert make(forget=16, batch=8, epochs=2.5).num_steps == 5
    assert make(forget=4, batch=8, epochs=0.1).num_steps == 1
    sizes = {"forget": 16}
    capped = StepPlan.make(sizes, pace="forget", batch_size=8, seed=0, epochs=2, max_steps=7)
    assert capped.num_steps == 7
    assert [epoch for _, epoch in capped.step(6)["forget"]] == [3] * 8


def test_changing_batch_size_keeps_the_order() -> None:
    assert flat(rows(make(batch=2), "forget")) == flat(rows(make(batch=5), "forget"))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0.5), (2, 0.9), (10, 0.0), (10, 0.2), (57, 0.1)])
def test_no_step_of_a_run_is_spent_at_a_learning_rate_of_zero(schedule, num_steps, warmup):
    part = TrainPart(schedule=schedule, warmup=warmup)
    factors = [lr_factor(step, num_steps=num_steps, part=part) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1


def test_linear_schedule_by_hand():
    part = TrainPart(schedule="linear", warmup=0.4)
    # two rising steps at 1/3 and 2/3, then 1 down in thirds
    expected = [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]
    assert [lr_factor(step, num_steps=5, part=part) for step in range(5)] == pytest.approx(expected)
