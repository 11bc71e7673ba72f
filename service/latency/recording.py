"""What this process recorded in one stretch of time, held in memory until it is kept for good."""

from __future__ import annotations

from service.latency.histogram import Distribution, DurationHistogram, merge
from service.latency.recorded import Bucket, ErrorSeries, Recorded, Series
from service.latency.stages import Durations, Regime, Stage


class Recording:
    """One bucket of one instance. Not thread safe: the recorder guards it.

    While it is open it records into full histograms (140 kB a series); `freeze` exchanges them for sparse
    copies (some kB). It remembers how much of each series is saved, so that only changes are saved again.
    """

    def __init__(self, bucket: Bucket, instance: str) -> None:
        self.bucket = bucket
        self.instance = instance
        self._open: dict[tuple[Regime, str], dict[Stage, DurationHistogram]] = {}
        self._frozen: dict[Series, Distribution] = {}
        self._errors: dict[ErrorSeries, int] = {}
        self._saved: dict[Series | ErrorSeries, int] = {}

    def record(self, model: str, regime: Regime, durations: Durations) -> None:
        """Add one run."""
        histograms = self._open.get((regime, model))
        if histograms is None:
            histograms = self._open[regime, model] = {}
        for stage, duration_ns in durations.items():
            histogram = histograms.get(stage)
            if histogram is None:
                histogram = histograms[stage] = DurationHistogram()
            histogram.record(duration_ns)

    def record_error(self, series: ErrorSeries) -> None:
        """Add one failed request."""
        self._errors[series] = self._errors.get(series, 0) + 1

    def groups(self) -> list[tuple[Regime, str]]:
        """Regime and model of every open histogram; `changes` takes one, to hold the lock briefly."""
        return list(self._open)

    def changes(self, group: tuple[Regime, str]) -> dict[Series, Distribution]:
        """Copies of the open histograms of a regime and model that have samples which are not saved."""
        return {
            series: histogram.snapshot()
            for stage, histogram in self._open[group].items()
            if histogram.count != self._saved.get(series := Series(*group, stage), 0)
        }

    def frozen_changes(self) -> dict[Series, Distribution]:
        """The frozen distributions that are not saved."""
        return {
            series: distribution
            for series, distribution in self._frozen.items()
            if distribution.count != self._saved.get(series, 0)
        }

    def error_changes(self) -> dict[ErrorSeries, int]:
        """The numbers of errors that are not saved."""
        return {
            series: count for series, count in self._errors.items() if count != self._saved.get(series, 0)
        }

    def mark_saved(self, recorded: Recorded) -> None:
        """Remember that this much is saved."""
        self._saved |= {series: distribution.count for series, distribution in recorded.distributions.items()}
        self._saved.update(recorded.errors.items())

    def mark_unsaved(self) -> None:
        """Forget what was saved, because the place where it was saved is gone."""
        self._saved.clear()

    @property
    def partly_saved(self) -> bool:
        """Whether anything of it was saved."""
        return bool(self._saved)

    def freeze(self) -> None:
        """Free the histograms; nothing may be recorded afterwards."""
        self._frozen |= {
            Series(*group, stage): histogram.snapshot()
            for group, histograms in self._open.items()
            for stage, histogram in histograms.items()
        }
        self._open = {}

    def contents(self, regime: Regime | None = None) -> Recorded:
        """A copy of everything in it, or of one regime."""
        distributions = {s: each for s, each in self._frozen.items() if regime in (None, s.regime)}
        for group, histograms in self._open.items():
            if regime in (None, group[0]):
                for stage, histogram in histograms.items():
                    distributions[Series(*group, stage)] = histogram.snapshot()
        errors = {s: count for s, count in self._errors.items() if regime in (None, s.regime)}
        return Recorded(self.bucket, self.instance, distributions, errors)

    def absorb(self, other: Recording) -> None:
        """Add what a frozen recording holds, of which nothing may have been saved."""
        for series, distribution in other._frozen.items():
            mine = self._frozen.get(series)
            self._frozen[series] = distribution if mine is None else merge([mine, distribution])
        for error, count in other._errors.items():
            self._errors[error] = self._errors.get(error, 0) + count
