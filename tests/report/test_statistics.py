"""Intervals and paired tests against other implementations and figures from the literature."""

import itertools

import pytest
from scipy.stats import binom, binomtest

from attar.report import mcnemar, mean_sd, wilson_interval


def paired(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    rows = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return [a for a, _ in rows], [b for _, b in rows]


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 7), (5, 5), (16, 1), (121, 59), (2900, 3100)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(b, c):
    test = mcnemar(*paired(40, b, c, 3))
    assert (test.first_only, test.second_only) == (b, c)
    assert test.exact == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)
    likely = [binom.pmf(k, b + c, 0.5) for k in (b, c)]
    sides = likely[0] if b == c else sum(likely)  # an even split has one side
    assert test.mid == pytest.approx(binomtest(b, b + c).pvalue - sides / 2, rel=1e-9)


def test_the_mid_p_of_an_even_split():
    """As `McNemar_midP_test_paired_2x2` of the R package contingencytables, of the same authors."""
    assert mcnemar(*paired(3, 1, 1, 2)).mid == pytest.approx(0.75)
    assert mcnemar(*paired(3, 2, 2, 2)).mid == pytest.approx(0.8125)
    for n in (1, 2, 7, 8):  # what makes it mid-p: where nothing differs it is a half in the mean, whatever n is
        mean = sum(binom.pmf(b, n, 0.5) * mcnemar(*paired(0, b, n - b, 0)).mid for b in range(n + 1))
        assert mean == pytest.approx(0.5)


def test_mcnemar_gives_fagerlands_figures():
    """Fagerland, Lydersen, Laake 2013, table 2: airway responsiveness, 1 and 7 discordant children of 21."""
    test = mcnemar(*paired(1, 1, 7, 12))
    assert round(test.exact, 3) == 0.070
    assert round(test.mid, 3) == 0.039


def test_mcnemar_without_a_difference_and_on_other_images():
    assert mcnemar([True, False], [True, False]).exact == 1.0
    with pytest.raises(ValueError, match="2 and 1 predictions"):
        mcnemar([True, False], [True])


def test_wilson_covers_what_it_should():
    for n, p in itertools.product((50, 400), (0.5, 0.95)):
        covered = sum(
            binom.pmf(hits, n, p)
            for hits in range(n + 1)
            if wilson_interval(hits, n)[0] <= p <= wilson_interval(hits, n)[1]
        )
        assert 0.92 < covered < 0.98


def test_an_interval_holds_its_share():
    for n in range(1, 2000):
        assert wilson_interval(n, n)[1] == 1 and wilson_interval(0, n)[0] == 0
        low, high = wilson_interval(n // 2, n)
        assert low < n // 2 / n + 1e-12 and n // 2 / n < high


def test_mean_and_sd():
    assert mean_sd([0.5]) == (0.5, None)
    mean, sd = mean_sd([0.1, 0.2, 0.3])
    assert (mean, sd) == (pytest.approx(0.2), pytest.approx(0.1))
