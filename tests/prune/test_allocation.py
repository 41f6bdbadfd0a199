"""Plans: under every limit, as close as the allocation promises, nothing protected or pruned earlier touched."""

from fractions import Fraction

import pytest
import torch
from synthetic_structures import cut, plain_cost, random_scores, random_structure, resnet20

from attar.prune.allocation import BudgetError, choose, signature, smallest
from attar.prune.cost import costs
from attar.prune.importance import score
from attar.prune.structure import Axis, Group, Structure, Term
from attar.recipe import Budget

ALLOCATIONS = ("even", "global", "isomorphic")


def widths(structure, kept):
    return [int(kept[i].sum()) if i in kept else g.size for i, g in enumerate(structure.groups)]


def rows_of(group):
    return torch.zeros(group.size, dtype=torch.long) if group.row is None else group.row


def random_limits(structure, seed):
    """One to three limits between the smallest and the whole network."""
    low, high = smallest(structure, random_scores(structure, seed)), costs(structure)
    generator = torch.Generator().manual_seed(seed)
    kinds = [kind for kind in low if torch.rand((), generator=generator) < 0.6] or ["params"]
    return {kind: int(low[kind] + (high[kind] - low[kind]) * torch.rand((), generator=generator)) for kind in kinds}


def keep_best(structure, scores, per_row):
    """Independent of the product: every row keeps its best `per_row[group]` units, earlier ones if tied."""
    kept = {}
    for index, group in enumerate(structure.groups):
        mask = torch.zeros(group.size, dtype=torch.bool)
        for value in rows_of(group).unique():
            units = torch.nonzero(rows_of(group) == value)[:, 0].tolist()
            units.sort(key=lambda unit: (-float(scores[index][unit]), unit))
            mask[units[: per_row[index]]] = True
        kept[index] = mask
    return kept


def test_reference_even_cut():
    structure, parameters = resnet20()
    kept = choose(structure, score(structure, parameters), {"params": 100_000}, "even")
    assert widths(structure, kept) == [9] * 4 + [19] * 4 + [39] * 4
    assert costs(structure, kept)["params"] == 99_603


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_reference_in_thirty_steps_lands_where_it_should(allocation):
    structure, parameters = resnet20()
    original = {index: group.size for index, group in enumerate(structure.groups)}
    kept, scores = {}, score(structure, parameters)
    for limits in Budget(params=100_000).schedule(costs(structure), 30):
        before = kept
        kept = choose(structure, scores, limits, allocation, kept=before, original=original)
        assert costs(structure, kept)["params"] <= limits["params"]
        assert all(not (kept[index] & ~mask).any() for index, mask in before.items())  # nothing comes back
    if allocation == "even":
        assert costs(structure, kept)["params"] == 99_603
    else:
        assert 100_000 - costs(structure, kept)["params"] < 1200  # the dearest unit costs about that much


@pytest.mark.parametrize("seed", range(40))
def test_even_keeps_the_largest_fraction_that_fits(seed):
    structure, scores = random_structure(seed), random_scores(random_structure(seed), seed, ties=seed % 2 == 0)
    limits = random_limits(structure, seed)
    best = None
    sizes = [int((rows_of(g) == rows_of(g)[0]).sum()) for g in structure.groups]
    for fraction in sorted({Fraction(i, n) for n in sizes for i in range(1, n + 1)}):
        counts = [n if g.protected else max(1, int(fraction * n)) for g, n in zip(structure.groups, sizes)]
        cost = plain_cost(structure, trial := keep_best(structure, scores, counts))
        if all(cost[kind] <= limit for kind, limit in limits.items()):
            best = trial
    if best is None:
        with pytest.raises(BudgetError):
            choose(structure, scores, limits, "even")
        return
    kept = choose(structure, scores, limits, "even")
    for index, group in enumerate(structure.groups):
        assert torch.equal(kept.get(index, torch.ones(group.size, dtype=torch.bool)), best[index])


@pytest.mark.parametrize("allocation", ["global", "isomorphic"])
@pytest.mark.parametrize("seed", range(40))
def test_ranked_plans_fit_and_no_group_has_room_for_one_more(seed, allocation):
    structure, scores = random_structure(seed), random_scores(random_structure(seed), seed, ties=seed % 2 == 0)
    limits = random_limits(structure, seed)
    kept = choose(structure, scores, limits, allocation)
    assert all(plain_cost(structure, kept)[kind] <= limit for kind, limit in limits.items())
    counts = []
    for index, group in enumerate(structure.groups):
        mask = kept.get(index, torch.ones(group.size, dtype=torch.bool))
        per_row = {int(mask[rows_of(group) == value].sum()) for value in rows_of(group).unique()}
        assert len(per_row) == 1
        counts.append(per_row.pop())
        assert counts[-1] >= 1
    best = keep_best(structure, scores, counts)
    for index, group in enumerate(structure.groups):
        mask = kept.get(index, torch.ones(group.size, dtype=torch.bool))
        assert torch.equal(mask, best[index])  # the least important units went
        if group.protected:
            assert mask.all()
        elif not mask.all():
            more = plain_cost(structure, keep_best(structure, scores, [c + (i == index) for i, c in enumerate(counts)]))
            assert any(more[kind] > limit for kind, limit in limits.items())


def test_global_takes_the_least_important_units_wherever_they_are():
    structure, _ = resnet20()
    scores = random_scores(structure, 3)
    kept = choose(structure, scores, {"params": 200_000}, "global")
    gone = torch.cat([scores[i][~mask] for i, mask in kept.items()])
    stay = torch.cat([s[kept[i]] if i in kept else s for i, s in scores.items()])
    # Units given back because there was room are the only ones that rank below a unit that went.
    assert (stay < gone.max()).sum() <= 2


def test_isomorphic_takes_the_same_fraction_of_every_class():
    structure, _ = resnet20()
    scores = random_scores(structure, 4)
    for index in (1, 2, 3):  # the inner groups of the first stage look far less important than their like
        scores[index] = scores[index] * 0.2
    kept = choose(structure, scores, {"params": 150_000}, "isomorphic")
    classes = {}
    for group, width in zip(structure.groups, widths(structure, kept)):
        size, stay = classes.get(signature(group), (0, 0))
        classes[signature(group)] = (size + group.size, stay + width)
    assert len(classes) == 4  # inner groups, and the streams of three stages, which differ in what they join
    fractions = [stay / size for size, stay in classes.values()]
    assert max(fractions) - min(fractions) < 1 / 16
    inner = widths(structure, kept)[1:4]
    assert sum(inner) < 10  # within a class, importance decides


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("seed", range(15))
def test_steps_on_the_cut_network_equal_steps_on_the_original(seed, allocation):
    structure = random_structure(seed)
    scores = random_scores(structure, seed)
    low, high = smallest(structure, scores)["params"], costs(structure)["params"]
    original = {index: group.size for index, group in enumerate(structure.groups)}
    kept, small, alive = {}, structure, {i: torch.arange(g.size) for i, g in enumerate(structure.groups)}
    for step in range(1, 6):
        limits = {"params": int(high + (low - high) * step / 6)}
        kept = choose(structure, scores, limits, allocation, kept=kept)
        now = {i: scores[i][units] for i, units in alive.items()}
        fewer = choose(small, now, limits, allocation, original=original)
        alive = {i: units[fewer[i]] if i in fewer else units for i, units in alive.items()}
        small = cut(small, fewer)
        for index, units in alive.items():
            mask = kept.get(index, torch.ones(original[index], dtype=torch.bool))
            assert torch.equal(torch.nonzero(mask)[:, 0], units)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_round_to_keeps_multiples_under_the_budget(allocation):
    structure, parameters = resnet20((20, 32, 64))
    scores = score(structure, parameters)
    kept = choose(structure, scores, {"params": 120_000, "macs": 20_000_000}, allocation, round_to=8)
    found = costs(structure, kept)
    assert found["params"] <= 120_000
    assert found["macs"] <= 20_000_000
    for group, width in zip(structure.groups, widths(structure, kept)):
        assert width % 8 == 0 or width == group.size
        assert width >= 8


def test_round_to_leaves_groups_whole_that_hold_no_smaller_multiple():
    structure, parameters = resnet20((6, 32, 64))
    kept = choose(structure, score(structure, parameters), {"params": 60_000}, "global", round_to=8)
    assert widths(structure, kept)[:4] == [6] * 4


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_floors_hold(allocation):
    structure, parameters = resnet20()
    floors = {"stage0*": 0.75, "stage1.0.conv1.weight": 25, "stage2*": "10%", "*": 3}
    kept = choose(structure, score(structure, parameters), {"params": 90_000}, allocation, floors=floors)
    found = widths(structure, kept)
    # The patterns are tried on all tensors of a group, so `stage1*` patterns reach the streams too.
    assert all(width >= 12 for width in found[:4])
    assert found[5] >= 25
    assert all(width >= 7 for width in found[8:])
    assert min(found) >= 3
    with pytest.raises(ValueError, match=r"stage7.*did you mean"):
        choose(structure, score(structure, parameters), {"params": 90_000}, floors={"stage7.0.conv1.weight": 3})
    for wrong in (-1, 2.5, "half", "120%", True):
        with pytest.raises(ValueError, match="floor"):
            choose(structure, score(structure, parameters), {"params": 90_000}, floors=wrong)


def test_isomorphic_counts_what_earlier_steps_took_from_a_class():
    structure, _ = resnet20()
    kept = {i: torch.arange(g.size) < g.size // 2 for i, g in enumerate(structure.groups) if "conv1" in g.name}
    scores = random_scores(structure, 5)
    start = costs(structure, kept)["params"]
    after = choose(structure, scores, {"params": int(0.8 * start)}, "isomorphic", kept=kept)
    for index, group in enumerate(structure.groups):
        if "conv1" in group.name:
            assert after[index].sum() == group.size // 2  # this class has given its share already
        else:
            assert after[index].sum() < group.size


def heads(count: int, size: int) -> Structure:
    """One group of `count` rows of `size` units, each unit one parameter."""
    total = count * size
    axis = Axis(0, {0: torch.ones(total, dtype=torch.float64)})
    group = Group("heads.weight", total, (), torch.arange(total) // size)
    return Structure((group,), (Term("heads.weight", 1, (axis,)),), (), ())


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_rows_are_rounded_and_floored_as_one_width(allocation):
    structure = heads(4, 9)
    scores = random_scores(structure, 0)

    def width(limit, **options):
        return widths(structure, choose(structure, scores, {"params": limit}, allocation, **options))[0]

    assert width(35) == 32
    assert width(31, round_to=8) == 24  # six of each row: what is aligned is the tensor's width
    assert width(30, floors=26) == 28  # the floor is one of units, met by seven of each row
    with pytest.raises(BudgetError, match="smallest reachable is 28"):
        width(27, floors=26)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_out_of_reach_is_refused_naming_the_smallest(allocation):
    structure, parameters = resnet20()
    least = smallest(structure)
    assert least == plain_cost(structure, {i: torch.arange(g.size) < 1 for i, g in enumerate(structure.groups)})
    scores = score(structure, parameters)
    assert costs(structure, choose(structure, scores, {"params": least["params"]}, allocation)) == least
    with pytest.raises(BudgetError, match="smallest reachable is 235") as caught:
        choose(structure, scores, {"params": 234, "macs": 10**9}, allocation)
    assert caught.value.smallest == {"params": 235, "macs": least["macs"]}


def test_what_holds_already_cuts_nothing():
    structure, parameters = resnet20()
    for allocation in ALLOCATIONS:
        assert choose(structure, score(structure, parameters), {"params": 272_186}, allocation) == {}


def test_groups_without_scores_stay_whole():
    structure, parameters = resnet20()
    scores = {i: s for i, s in score(structure, parameters).items() if i not in (0, 5)}
    for allocation in ALLOCATIONS:
        found = widths(structure, choose(structure, scores, {"params": 130_000}, allocation))
        assert found[0] == 16
        assert found[5] == 32


def test_equal_scores_always_give_the_same_plan():
    structure, _ = resnet20()
    scores = {i: torch.ones(g.size, dtype=torch.float64) for i, g in enumerate(structure.groups)}
    for allocation in ALLOCATIONS:
        plans = [choose(structure, scores, {"params": 100_000}, allocation) for _ in range(2)]
        assert all(torch.equal(plans[0][i], plans[1][i]) for i in plans[0])
        for mask in plans[0].values():
            assert mask[: int(mask.sum())].all()  # the later one goes first


def test_arguments_that_cannot_be_understood():
    structure, parameters = resnet20()
    scores = score(structure, parameters)
    with pytest.raises(ValueError, match="did you mean 'global'"):
        choose(structure, scores, {"params": 100_000}, "globel")
    with pytest.raises(ValueError, match="latency"):
        choose(structure, scores, {"latency": 0.1})
    with pytest.raises(ValueError, match="round_to=0"):
        choose(structure, scores, {"params": 100_000}, round_to=0)
    with pytest.raises(ValueError, match="shape"):
        choose(structure, {**scores, 0: torch.ones(3)}, {"params": 100_000})
    with pytest.raises(ValueError, match="not finite"):
        choose(structure, {**scores, 0: torch.full((16,), float("nan"))}, {"params": 100_000})
