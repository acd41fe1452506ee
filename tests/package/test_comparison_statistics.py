"""The comparison's statistics against SciPy, statsmodels and numbers by hand."""

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("statsmodels")

from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from keras_gradopt.comparison import statistics
from keras_gradopt.comparison.plans import margin_of

pytestmark = pytest.mark.backend_independent

RANDOM = np.random.default_rng(0)


def test_sign_flip_by_hand():
    """Of 1, 2, 3, -1: sums of all 16 sign patterns, counted."""
    values = np.array([1.0, 2.0, 3.0, -1.0])
    sums = [np.dot(s, values) for s in itertools.product((1, -1), repeat=4)]
    assert statistics.flipped(values) == np.mean(np.abs(sums) >= 5) == 6 / 16
    assert statistics.flipped(values, greater=True) == np.mean(np.array(sums) >= 5)
    found = statistics.paired(np.arange(10) + 1.0, np.zeros(10))
    assert found.p == pytest.approx(2 / 2**10)
    assert found.low < found.mean == 5.5 < found.high


def test_many_seeds_are_drawn_instead_of_counted():
    values = RANDOM.normal(0.5, size=20)
    assert statistics.flipped(values) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue, abs=0.02
    )


def test_all_equal_differences():
    assert statistics.flipped(np.ones(5)) == 2 / 2**5
    assert statistics.flipped(np.ones(5), greater=True) == 1 / 2**5
    assert statistics.flipped(-np.ones(5), greater=True) == 1
    same = statistics.paired(np.ones(6), np.ones(6), margin=0.1)
    assert (same.p, same.mean, same.p_equivalent) == (1, 0, 1 / 2**6)
    assert statistics.paired(np.ones(6), np.zeros(6), test="t").p == 0


def test_student_is_scipys_and_its_equivalence_statsmodels():
    ours, theirs = RANDOM.normal(size=(2, 8))
    found = statistics.paired(ours, theirs, test="t", margin=0.9)
    test = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(test.pvalue)
    interval = test.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    both = DescrStatsW(ours - theirs).ttost_mean(-0.9, 0.9)
    assert found.p_equivalent == pytest.approx(both[0])


def test_corrected_t_by_hand():
    """Differences 1, 2, 3: mean 2, variance 1, times 1/3 + 1/5."""
    found = statistics.paired([1, 2, 3], [0, 0, 0], test="corrected-t", ratio=0.2)
    t = 2 / math.sqrt(1 / 3 + 0.2)
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2))
    half = stats.t.ppf(0.975, 2) * math.sqrt(1 / 3 + 0.2)
    assert found.high == pytest.approx(2 + half)


def test_equivalence_needs_both_sides():
    values = 0.01 * RANDOM.normal(size=10)
    inside = statistics.paired(values, np.zeros(10), margin=0.1)
    assert inside.p_equivalent == 1 / 2**10
    outside = statistics.paired(values + 0.2, np.zeros(10), margin=0.1)
    assert outside.p_equivalent == 1 and outside.p == 2 / 2**10


def test_diverged_runs_are_a_test_of_signs():
    inf = math.inf
    worse = statistics.paired([inf, 2, 2, 2, 2, inf], [1, 1, 1, 1, 1, 1])
    assert worse.p == 2 / 2**6 and worse.diverged == 2 and math.isnan(worse.mean)
    assert worse.p_equivalent == 1
    both = statistics.paired([inf, inf, inf], [inf, inf, inf])
    assert both.p == 1 and both.diverged == 3
    one = statistics.paired([inf, 0, 0, 0, 0, 0], np.ones(6))
    assert one.p == statistics.flipped(np.array([1, -1, -1, -1, -1, -1]))


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_detectable_effects():
    """The t test's are statsmodels'; the sign-flip test's are found by it."""
    effect = TTestPower().solve_power(nobs=10, alpha=0.05, power=0.8)
    assert statistics.detectable(10, "t", 0.05) == pytest.approx(effect, rel=0.01)
    for level in (0.05, 0.01):
        effect = statistics.detectable(8, "sign-flip", level)
        values = np.random.default_rng(1).normal(effect, size=(300, 8))
        found = np.mean([statistics.flipped(row) <= level for row in values])
        assert found == pytest.approx(0.8, abs=0.07)
    assert statistics.detectable(5, "sign-flip", 0.01) == math.inf
    assert statistics.detectable(10, "corrected-t", 0.05, 0.5) > 2


def test_errors_are_as_often_as_declared():
    """Of 400 comparisons without a difference, at most about 5 % are called one."""
    random = np.random.default_rng(2)
    called = {"sign-flip": 0, "t": 0}
    covered = 0
    for _ in range(400):
        ours, theirs = random.normal(size=(2, 7))
        for test in called:
            found = statistics.paired(ours, theirs, test=test)
            called[test] += found.p < 0.05
        covered += found.low <= 0 <= found.high
    assert max(called.values()) < 0.08 * 400
    assert 0.92 * 400 < covered < 0.98 * 400


def test_bootstrap_interval():
    values = RANDOM.normal(size=50)
    low, high = statistics.bootstrap_interval(values)
    half = 1.96 * values.std() / 50**0.5
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05
    )
    assert statistics.bootstrap_interval(np.ones(3)) == (1, 1)


@pytest.mark.parametrize(
    ("given", "found"),
    [("2%", (0.02, True)), (" 0.5 % ", (0.005, True)), (0.3, (0.3, False))],
)
def test_margins(given, found):
    assert margin_of(given) == found
