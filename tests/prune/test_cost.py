"""Costs are exact for any choice of units, and marginal costs are differences of them."""

import pytest
import torch
from synthetic_structures import cut, plain_cost, random_structure, resnet20

from attar.prune.cost import CostModel, costs
from attar.prune.structure import Axis, Group, Structure, Term


def random_kept(structure, generator, least=0):
    """A choice that respects rows: every row keeps the same number, which units is chance."""
    kept = {}
    for index, group in enumerate(structure.groups):
        row = torch.zeros(group.size, dtype=torch.long) if group.row is None else group.row
        per_row = int((row == row[0]).sum())
        count = int(torch.randint(least, per_row + 1, (), generator=generator))
        mask = torch.zeros(group.size, dtype=torch.bool)
        for value in row.unique():
            units = torch.nonzero(row == value)[:, 0]
            mask[units[torch.randperm(per_row, generator=generator)[:count]]] = True
        kept[index] = mask
    return kept


def test_reference_student_costs_what_the_reference_says():
    assert costs(resnet20()[0])["params"] == 272_186
    assert costs(resnet20((9, 19, 39))[0]) == {"params": 99_603, "macs": 10_729_185, "bytes": 4 * 99_603}


@pytest.mark.parametrize("seed", range(25))
def test_any_choice_costs_what_its_terms_say(seed):
    structure, generator = random_structure(seed), torch.Generator().manual_seed(seed)
    model = CostModel(structure)
    for _ in range(5):
        kept = random_kept(structure, generator)
        found = model.cost(kept)
        assert found == plain_cost(structure, kept)
        assert all(isinstance(value, int) for value in found.values())
    assert model.cost() == model.cost({}) == plain_cost(structure, {})


@pytest.mark.parametrize("seed", range(10))
def test_costs_after_a_cut_need_no_new_compilation(seed):
    structure, generator = random_structure(seed), torch.Generator().manual_seed(seed)
    model, kept = CostModel(structure), random_kept(structure, generator, least=1)
    small = cut(structure, kept)
    fewer = random_kept(small, generator)
    assert model.cut(kept, small).cost(fewer) == CostModel(small).cost(fewer) == plain_cost(small, fewer)
    assert model.cost() == plain_cost(structure, {})  # the model it came from is as it was


def test_large_counts_stay_exact():
    size = 99_991
    ends = tuple(Axis(0, {0: torch.ones(size, dtype=torch.float64)}) for _ in range(2))
    term = Term("huge", 12_343, ends)
    structure = Structure((Group("g", size, ()),), (term,), (), ())
    mask = torch.ones(size, dtype=torch.bool)
    mask[:2] = False
    assert costs(structure, {0: mask})["params"] == 12_343 * 99_989**2


def test_fractions_of_an_element_add_up_to_whole_ones():
    """A grouped convolution reads 1/groups of its input: 49 units of a 49th are one element, not 0.9999999999999999."""
    axis = Axis(0, {0: torch.full((98,), 1 / 49, dtype=torch.float64)})
    structure = Structure((Group("g", 98, ()),), (Term("grouped", 7, (axis,)),), (), ())
    assert costs(structure)["params"] == 14
    assert costs(structure, {0: torch.arange(98) < 49})["params"] == 7


@pytest.mark.parametrize("seed", range(10))
def test_marginal_cost_is_the_difference_one_unit_makes(seed):
    structure = random_structure(seed, rows=False)
    model = CostModel(structure)
    kept = random_kept(structure, torch.Generator().manual_seed(seed + 100))
    marginal = model.marginal(kept)
    for index, group in enumerate(structure.groups):
        for unit in torch.nonzero(kept[index])[:, 0].tolist():
            fewer = {**kept, index: kept[index] & (torch.arange(group.size) != unit)}
            before, after = plain_cost(structure, kept), plain_cost(structure, fewer)
            for kind in before:
                assert marginal[kind][index][unit].item() == pytest.approx(before[kind] - after[kind])
