"""Turn samples into figures: percentiles, the error of a timer, the spread over repetitions."""

from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values lie, interpolated linearly between neighbours.

    Raises ValueError when there are no values.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    """Return the 50th percentile; raises ValueError when there are no values."""
    return percentile(values, 50)


def timer_errors_ns(arrivals_ns: Sequence[int], period_ns: int) -> list[float]:
    """Return how far each arrival is from the nearest point of an ideal grid, as absolute nanoseconds.

    The grid has exactly the nominal period; its phase is the median phase of all arrivals, so that neither
    a late first tick nor a constant latency counts as an error. Drift does; a tick that was skipped leaves
    a gap and is no error here (see `skipped_ticks`). No error can exceed half a period.
    """
    residuals = _residuals(arrivals_ns, arrivals_ns[0], period_ns)
    # Again from the fitted phase: the first tick may be an outlier that pushes others across half a period.
    residuals = _residuals(arrivals_ns, arrivals_ns[0] + median(residuals), period_ns)
    phase = median(residuals)
    return [abs(residual - phase) for residual in residuals]


def _residuals(arrivals_ns: Sequence[int], origin_ns: float, period_ns: int) -> list[float]:
    offsets = [arrival - origin_ns for arrival in arrivals_ns]
    return [offset - round(offset / period_ns) * period_ns for offset in offsets]


def skipped_ticks(arrivals_ns: Sequence[int], period_ns: int) -> int:
    """Return how many ticks of the grid never arrived between the first and the last arrival."""
    expected = round((arrivals_ns[-1] - arrivals_ns[0]) / period_ns) + 1
    return max(0, expected - len(arrivals_ns))


@dataclass(frozen=True)
class Figure:
    """One repetition's result of one measure.

    `value` is the headline (a median, a rate, a duration) in the measure's unit, `tail` the 99th percentile
    in the same unit where there is a distribution, `sent` and `lost` count messages.
    """

    value: float
    tail: float | None = None
    sent: int = 0
    lost: int = 0


def paired_ratio(numerators: Sequence[Figure], denominators: Sequence[Figure]) -> float | None:
    """Return the median of the ratios of the runs that followed each other; None when there are none.

    A machine whose speed changes from minute to minute is about as fast for both runs of a pair.
    """
    pairs = zip(numerators, denominators, strict=False)
    ratios = [above.value / below.value for above, below in pairs]
    return median(ratios) if ratios else None


@dataclass(frozen=True)
class Spread:
    """The figures of all repetitions together: medians, extremes and the sums of the counts."""

    median: float
    lowest: float
    highest: float
    tail: float | None
    sent: int
    lost: int
    repetitions: int

    @classmethod
    def over(cls, figures: Sequence[Figure]) -> "Spread":
        """Summarise repetitions; raises ValueError when there are none."""
        values = [figure.value for figure in figures]
        tails = [figure.tail for figure in figures if figure.tail is not None]
        return cls(
            median=median(values),
            lowest=min(values),
            highest=max(values),
            tail=median(tails) if tails else None,
            sent=sum(figure.sent for figure in figures),
            lost=sum(figure.lost for figure in figures),
            repetitions=len(figures),
        )
