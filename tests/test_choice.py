"""Which cells of a recipe ``--only`` runs, and what it says of a word that is wrong."""

import pytest

from stakes.errors import InputError
from stakes.runs.cell import Cell
from stakes.runs.choice import chosen


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    """Two networks, two methods, two k and two seeds."""
    return [
        Cell(f"{network}-{shown}-{k}-{seed}", network, shown, k, seed, {"method": method})
        for network in ("ResNet-20", "ViT")
        for shown, method in (("L2UL", "l2ul"), ("Ours, lr=0.1 (small steps)", "structguard"))
        for k in (16, 64)
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ([], 16),
        (["k=16"], 8),
        (["k=16,seed=0,method=l2ul"], 2),
        (["method=Ours, lr=0.1 (small steps), network=vit"], 4),
        (["method=structguard,k=64,k=16"], 8),  # a key twice: either
        (["k=16,seed=0", "k=16,seed=0,network=ViT", "k=64,seed=1"], 8),  # each counts once
    ],
)
def test_words_choose_cells(cells, words, count):
    found = chosen(cells, words)
    assert len(found) == count
    assert found == [cell for cell in cells if cell in found]


def test_all_of_a_word_must_agree(cells):
    (cell,) = chosen(cells, ["network=vit,method=L2UL,k=64,seed=1"])
    assert cell.name == "ViT-L2UL-64-1"


def test_a_name_spelt_exactly_means_that_name_alone():
    cells = [
        Cell(shown, "ViT", shown, 16, 0, {"method": "structguard"})
        for shown in ("STRUCTGUARD", "STRUCTGUARD (deep)")
    ]
    assert [cell.name for cell in chosen(cells, ["method=STRUCTGUARD"])] == ["STRUCTGUARD"]
    assert chosen(cells, ["method=structguard"]) == cells


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("kk=16", ("kk", "network, method, k, seed")),
        ("l2ul", ("l2ul", "key=value")),
        ("k=17", ("k 17", "16, 64")),
        ("method=salun", ("salun", "l2ul", "structguard")),
        ("method=l2lu", ("no method l2lu; did you mean l2ul?",)),
        ("k=", ("k", "16, 64")),
    ],
)
def test_a_word_that_describes_nothing_is_told_with_what_there_is(cells, word, parts):
    with pytest.raises(InputError) as caught:
        chosen(cells, [word])
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_values_that_exist_but_not_together_are_refused(cells):
    there = [cell for cell in cells if (cell.k, cell.seed) != (64, 1)]
    with pytest.raises(InputError) as caught:
        chosen(there, ["k=64,seed=1"])
    assert "k=64,seed=1" in str(caught.value)
