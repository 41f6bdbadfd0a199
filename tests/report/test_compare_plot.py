import pytest

from attar.report.compare_plot import side_by_side


def test_points_of_one_size_stand_side_by_side_around_it() -> None:
    sizes = [99_603, 23_508, 99_603, 99_603, 47_622, 23_508]
    places = side_by_side(sizes)
    assert len(set(places)) == len(sizes) and places[4] == 47_622
    assert places[0] < places[2] < places[3] and places[1] < places[5]
    assert places[2] == pytest.approx(99_603) and places[1] * places[5] == pytest.approx(23_508**2)
    assert sorted(sizes) == [size for _, size in sorted(zip(places, sizes))]  # no point passes one of another size


def test_points_of_a_single_size_are_apart_too() -> None:
    first, second = side_by_side([1000, 1000])
    assert 990 < first < 1000 < second < 1010
