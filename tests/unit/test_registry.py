from __future__ import annotations

import math

import pytest

from expunge.errors import RecipeError, UserError
from expunge.registry import Registry, fold


def make() -> Registry[object]:
    return Registry(
        "method",
        {"grad_diff": "math:sqrt", "dpo": len, "quantize": "math:no_such_name", "exact_memorization": max},
        aliases={"idk_dpo": "dpo"},
    )


def test_lazy_entry_is_imported_at_get_and_kept() -> None:
    table = Registry[object]("thing", {"root": "math:sqrt"})
    assert table._entries["root"] == "math:sqrt"
    assert table.get("root") is math.sqrt
    assert table._entries["root"] is math.sqrt


@pytest.mark.parametrize("name", ["grad_diff", "grad-diff", "Grad-Diff", " GRAD_DIFF ", "grad diff"])
def test_case_and_dashes_do_not_matter(name: str) -> None:
    assert make().get(name) is math.sqrt
    assert make().canonical(name) == "grad_diff"
    assert name in make()


@pytest.mark.parametrize(
    ("british", "american"),
    [("quantise", "quantize"), ("exact_memorisation", "exact_memorization"), ("neighbour-kl", "neighbor_kl")],
)
def test_british_and_american_fold_to_one(british: str, american: str) -> None:
    assert fold(british) == fold(american)


def test_folding_keeps_different_names_apart() -> None:
    names = ["npo", "simnpo", "dpo", "noise", "none", "nose", "full", "lora", "paraphrased", "parap"]
    assert len({fold(name) for name in names}) == len(names)


def test_alias_finds_its_entry_and_is_no_name_of_its_own() -> None:
    table = make()
    assert table.get("IDK-DPO") is len
    assert table.canonical("idk_dpo") == "dpo"
    assert table.names() == ("dpo", "exact_memorization", "grad_diff", "quantize")


def test_unknown_name_gives_the_nearest_in_one_line() -> None:
    with pytest.raises(RecipeError) as caught:
        make().get("grad_dif")
    assert str(caught.value) == (
        "unknown method 'grad_dif' (did you mean 'grad_diff'?); known: dpo, exact_memorization, grad_diff, quantize"
    )
    assert isinstance(caught.value, UserError)
    assert "grad_dif" not in make()


@pytest.mark.parametrize("name", ["dpo", "DPO", "idk-dpo", "quantise"])
def test_a_taken_name_is_refused_and_the_table_unchanged(name: str) -> None:
    table = make()
    with pytest.raises(ValueError, match="already registered"):
        table.register(name, min)
    assert table.get("dpo") is len
    assert len(table.names()) == 4


def test_register_adds() -> None:
    table = make()
    table.register("my-method", min)
    assert table.get("my_method") is min


def test_alias_of_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match="unknown method 'npo'"):
        Registry("method", {"dpo": len}, aliases={"n": "npo"})


def test_a_broken_lazy_string_is_our_fault_not_the_users() -> None:
    with pytest.raises(AttributeError):
        make().get("quantize")
