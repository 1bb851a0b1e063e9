"""Is the candidate worse? Tests that stay valid however often one looks, so that a canary may be watched all the time.

Each test is an *e-process*: a number that starts at 1 and, while the candidate is not worse, is as likely to shrink as to
grow. By Ville's inequality it ever reaches 1/alpha with a probability of at most alpha, however long and however often one
looks (J. Ville, Étude critique de la notion de collectif, 1939; A. Ramdas et al., Game-theoretic statistics and safe
anytime-valid inference, Statistical Science 2023). What it is multiplied with is a likelihood ratio, averaged over how much
worse the candidate might be (H. Robbins, Annals of Mathematical Statistics 1970).

No test ever says that all is well because nothing was seen: where neither side is proven, the verdict is *undecided*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdict = Literal["pass", "fail", "undecided"]
ALPHA = 0.05
"""The chance that a candidate which is not worse is ever called worse, over all of a canary's conditions together."""
RATIOS: Floats = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0])
"""How much worse, or better, a rate might be: the mixture that every test averages over, each as much as its logarithm: what
harms most is to be found first."""
ALONE: Floats = np.append(RATIOS, [1e3, 1e4])
"""The same where, next to the candidate's, hardly any bad events are expected."""
_RARE = 100
"""One labelled answer in so many may be of a kind that nobody has seen yet; see `fewest_answers`."""
_LARGEST = 0.1
"""The largest share of the spread that one labelled answer may make up; see `interval_of`."""


class Window(NamedTuple):
    """What was seen of both sides between two looks: how many requests, and how many of them were bad."""

    bad: int
    asked: int
    other_bad: int
    other_asked: int
    """The candidate's, and those of what serves beside it."""


def above(bad: int, asked: int, limit: float) -> float:
    """Return the log of the evidence that a rate is above a limit: the e-process of H0 "the rate is at most `limit`".

    Its ratio is that of two binomials, averaged over rates between the limit and 1; it is a supermartingale for each rate
    of H0, since its factors shrink with the rate.
    """
    rates = np.minimum(limit * RATIOS, (1 + limit) / 2)
    return mean_of_logs(_log_ratio(bad, asked, rates, limit), np.log(RATIOS))


def below(bad: int, asked: int, limit: float) -> float:
    """Return the log of the evidence that a rate is below a limit: the e-process of H0 "the rate is at least `limit`"."""
    return mean_of_logs(_log_ratio(bad, asked, limit / RATIOS, limit), np.log(RATIOS))


def against_limit(bad: int, asked: int, limit: float, alpha: float) -> Verdict:
    """Judge a rate against a limit; with no event at all and a limit of 1 %, some 380 requests pass it."""
    if above(bad, asked, limit) >= -math.log(alpha):
        return "fail"
    return "pass" if below(bad, asked, limit) >= -math.log(alpha) else "undecided"


class Comparison:
    """The evidence that bad events come more often from the candidate than from what serves beside it.

    H0 is "the candidate's rate is at most the other's". Given how many bad events a window has, and how many requests went
    to each side, the candidate's share of them is then hypergeometric, or smaller. The factor of a window is the
    likelihood ratio of binomials, convex in the candidate's count; of such a function the hypergeometric mean is at most
    the binomial one, which is 1 (W. Hoeffding, Journal of the American Statistical Association 1963, theorem 4). So traffic
    may come and go, and both may fail together: only the difference counts.
    """

    def __init__(self, windows: Iterable[Window] = (), ratios: Floats = RATIOS) -> None:
        """Take what was seen so far, the oldest first, and how much worse the candidate might be."""
        self._ratios = ratios
        self._logs: Floats = np.zeros(len(ratios))
        for window in windows:
            self.add(window)

    def add(self, window: Window) -> None:
        """Add what was seen since the last look; a window in which one side was asked nothing says nothing."""
        if not (window.asked and window.other_asked):
            return
        share = window.asked / (window.asked + window.other_asked)
        odds = self._ratios * share / (self._ratios * share + 1 - share)
        self._logs += window.bad * np.log(odds / share) + window.other_bad * np.log((1 - odds) / (1 - share))

    @property
    def evidence(self) -> float:
        """Return the log of the evidence."""
        return mean_of_logs(self._logs, np.log(self._ratios))

    def is_worse(self, alpha: float) -> bool:
        """Return whether the candidate is proven to be worse."""
        return self.evidence >= -math.log(alpha)


class Tally(NamedTuple):
    """What has to be known of values to bound their mean."""

    rows: int
    total: float
    squares: float
    """The sum of the squared distances from their mean: sums of squares would cancel."""
    largest: float
    """The largest of these."""


NOTHING = Tally(0, 0.0, 0.0, 0.0)


def tally(values: Floats) -> Tally:
    """Return what has to be known of values, (rows,)."""
    if not len(values):
        return NOTHING
    squares = (values - values.mean()) ** 2
    return Tally(len(values), float(values.sum()), float(squares.sum()), float(squares.max()))


def fewest_answers(alpha: float) -> int:
    """Return from how many labelled answers on something is concluded of their mean.

    No sample tells of what is not in it: a loss that is rare and large enough outweighs all others, and a mean over unbounded
    values cannot be bounded without an assumption (R. R. Bahadur, L. J. Savage, Annals of Mathematical Statistics 1956). Here
    it is that what matters happens once in a hundred rows, or more often: among so many rows it is then missing with a
    probability of at most `alpha`.
    """
    return math.ceil(-math.log(alpha) * _RARE)


def mean_interval(values: Floats, alpha: float) -> tuple[float, float]:
    """Return bounds of the mean of values; see `interval_of`."""
    return interval_of(tally(values), alpha)


def interval_of(seen: Tally, alpha: float) -> tuple[float, float]:
    """Return bounds of a mean that hold at all times together, with a probability of 1 - `alpha`.

    An asymptotic confidence sequence (I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy, A. Ramdas, Time-uniform central
    limit theory and asymptotic confidence sequences, Annals of Statistics 2024, theorem 2.2), tuned to be narrowest at 500
    values. It is one of large samples, and says nothing where a sample is not large: where there are too few values, see
    `fewest_answers`, or where a single one makes up more than a tenth of the spread. Such a central limit needs that none
    does (J. W. Lindeberg, Mathematische Zeitschrift 1922): of a rare and large value too few have come yet.
    """
    n = seen.rows
    if n < fewest_answers(alpha) or seen.largest > _LARGEST * seen.squares:
        return -math.inf, math.inf
    mean, spread = seen.total / n, math.sqrt(seen.squares / (n - 1))
    rho2 = tuned(500, alpha)
    inner = (n * rho2 + 1) / (n**2 * rho2) * math.log((n * rho2 + 1) / alpha**2)
    half = spread * math.sqrt(inner)
    return mean - half, mean + half


def quality(losses: Floats, beside: Floats, by: float, alpha: float) -> Verdict:
    """Judge the losses of labelled answers beside what the other would have lost on the same rows.

    Fail where the mean is clearly worse by more than the share `by`, pass where it clearly is not.
    """
    return against_zero(tally(losses - (1 + by) * beside), alpha)


def against_zero(excess: Tally, alpha: float) -> Verdict:
    """Judge by how much losses exceed what is allowed: fail where their mean is clearly above 0, pass where clearly not.

    Of `alpha` one half is for either mistake.
    """
    low, high = interval_of(excess, alpha)
    return "fail" if low > 0 else "pass" if high <= 0 else "undecided"


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return fail where one fails, pass where there are any and all pass, else undecided."""
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and all(verdict == "pass" for verdict in verdicts) else "undecided"


def _log_ratio(bad: int, asked: int, rates: Floats, limit: float) -> Floats:
    good = asked - bad
    ratio: Floats = bad * np.log(rates / limit) + good * np.log((1 - rates) / (1 - limit))
    return ratio


def mean_of_logs(logs: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> float:
    """Return the log of the weighted mean of numbers that are given as logs: such a mean of e-processes is one."""
    largest = max(logs)
    ratios = np.exp(np.asarray(logs) - largest)
    return float(largest + np.log(np.average(ratios, weights=weights)))


def tuned(n: int, alpha: float) -> float:
    """Return the squared tuning parameter with which the interval is narrowest at n values (section 2.5 of the source)."""
    a = -2 * math.log(alpha)
    return (a + math.log(a + 1)) / n
