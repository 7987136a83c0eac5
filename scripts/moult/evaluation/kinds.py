"""What a kind of suite declares, and the units in which its scores are shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from moult.base.rows import Recipe
from moult.base.section import Section
from moult.base.stage import Experiment, Stage
from moult.base.suite_rows import Difference


@dataclass(frozen=True)
class Unit:
    """How scores are shown: multiplied by `factor`, with so many `digits` after the point, followed by `sign`. bounds:
    (lowest, highest) possible score; None where a score has no bounds."""

    factor: int
    digits: int
    sign: str
    bounds: tuple[float, float] | None

    def text(self, value: float | None) -> str:
        """Return a score with its sign; a dash for None."""
        return "–" if value is None else f"{self._number(value)}{self.sign}"

    def interval(self, one: Mapping[str, float | None]) -> str:
        """Return the interval of an estimate, or that there are too few rows for one."""
        if one["low"] is None:
            return "too few"
        unit = self._for(one)
        return f"[{unit._number(one['low'])}, {unit._number(one['high'])}]"

    def signed(self, value: float) -> str:
        """Return a difference with its + or −, and without one where it is rounded to 0."""
        seen = abs(value) * self.factor >= 0.5 / 10**self.digits
        return f"{self.factor * value:+.{self.digits}f}".replace("-", "−") if seen else self._number(0)

    def signed_interval(self, one: Mapping[str, float]) -> str:
        """Return the interval of a difference."""
        unit = self._for(one)
        return f"[{unit.signed(one['low'])}, {unit.signed(one['high'])}]"

    def _for(self, interval):
        """Return the unit that an interval is told in: with a digit less where it is wider than 200 of the last one,
        which then says nothing."""
        wide = (interval["high"] - interval["low"]) * self.factor * 10**self.digits >= 200
        return replace(self, digits=self.digits - 1) if wide and self.digits else self

    def _number(self, value):
        return f"{self.factor * value:.{self.digits}f}"


PERCENT = Unit(factor=100, digits=1, sign="%", bounds=(0, 1))
NUMBER = Unit(factor=1, digits=2, sign="", bounds=None)


@dataclass(frozen=True)
class Headline:
    """The metric that a kind of suite is read by."""

    # As in summary.csv.
    metric: str
    # As in a sentence.
    label: str
    # More than one of them.
    labels: str
    unit: Unit = PERCENT
    higher_is_better: bool = True

    def ranked(self, pairs: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return (name, estimate) pairs, the best first; equals in the order given."""
        return sorted(pairs, key=lambda pair: pair[1]["value"], reverse=self.higher_is_better)

    def is_better(self, value: float, other: float) -> bool:
        """Whether a score is better than another one."""
        return value > other if self.higher_is_better else value < other


@dataclass(frozen=True)
class Baseline:
    """What a score is compared with: a metric among the rows of summary.csv, or the same `value` everywhere."""

    label: str
    # Subject of "… would score 40%", or None where no sentence tells it.
    sentence: str | None = None
    metric: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Unread:
    """Answers that could not be read, but count: their rates, each with the heading of its column."""

    title: str
    explanation: str
    rates: dict[str, str]


@dataclass(frozen=True)
class Rows:
    """How a kind of suite scores single rows, for a race of models.

    recipe: config, suite, method (None: the first) → what is asked, as a part of a recipe. rows: `module:function`,
    which a job calls with that recipe and the prepared folders of the suite's datasets; it returns the rows, a function
    that takes an Asker and rows and returns a score from 0 to 1 for each, and the frames that they show (or None).
    """

    recipe: Callable[[Experiment, str, str | None], Recipe]
    rows: str


class Settings(Section):
    """What stands under a suite's kind in the config: how it measures, on which datasets."""

    # Key of each prompt → what its template is shown beside the question. A prompt that is not here is not tried.
    shown: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def endpoints(self) -> dict[str, str]:
        """The endpoints that are asked: field → name."""
        return {}

    @property
    def fetched(self) -> Sequence[Any]:
        """Repositories of the hub that are fetched for it: each has hub, revision and token."""
        return ()


@dataclass(frozen=True)
class SuiteKind:
    """A kind of suite: what it measures, what its scores are called, how they are compared and shown.

    Whoever checks, tabulates, draws or reports asks the kind. `evaluation.suites.KINDS` lists them.
    """

    # In the config: the key under a suite, its section, and what such a suite is called in a sentence. Kinds that share
    # a key are told apart by the `kind` of their sections, and share stages and measurement.
    key: str
    fields: type[Settings]
    title: str
    # Rows that it measures on (labelled, questions), and splits that a dataset may carve out of train for it.
    shape: str
    carved: tuple[str, ...]
    # Fields of an evaluation that name what it measures (of models, settings, corpora), and what is said of the others.
    measures: tuple[str, ...]
    refusal: str
    # Tables of resources/reference that an evaluation may name.
    published: tuple[str, ...]
    # Methods of its rows in summary.csv, each with its words. No two kinds share one.
    methods: dict[str, str]
    headline: Headline
    baseline: Baseline | None
    # Recipe of tabulate_scores, (suite, name) → path of its measurement; returns rows of differences.csv.
    differences: Callable[[Recipe, Mapping[tuple[str, ...], str | Path]], list[Difference]]
    # Folder of its measurements in the results: <measurement>/<suite>/<name>.
    measurement: str
    # The stages of its rules: what is measured, and the scores.
    stages: tuple[Stage, ...]
    # Manifest of a measurement → keys of what it measures.
    subjects: Callable[[Any], list[str]]
    # Manifests of one suite's measurements → a short text below the suite's name, and one that tells all.
    summary: Callable[[list[Any]], tuple[str, str]]
    # Kind, its rows of summary.csv and of differences.csv; returns a dict per suite, see `leaderboard.suite_tables`.
    tables: Callable[["SuiteKind", list[dict[str, str]], list[dict[str, str]]], list[dict[str, Any]]]
    # The section of the report: id, heading, and the file in resources/report that shows it.
    section: tuple[str, str]
    template: str = "scores.html.j2"
    # Fields that an evaluation has for this kind alone: name → (type, Field), as pydantic's `create_model` takes them.
    # They name what is measured: each entry is a name, or has one.
    own_fields: dict[str, Any] = field(default_factory=dict)
    # The section of the config → names that are measured in each of its suites, whatever an evaluation says.
    beside: Callable[[Any], Iterable[str]] = lambda settings: ()
    # Config → (models or endpoints, name) of what its own fields put to work.
    uses: Callable[[Experiment], Iterable[tuple[str, str]]] = lambda cfg: ()
    # Metrics beside the headline → heading; the first of them stands below each score, too.
    metrics: dict[str, str] = field(default_factory=dict)
    unread: Unread | None = None
    # Folders of its artefacts whose rows that are not `ok` are rejects; those that cost money, each with a verb.
    rejecting: tuple[str, ...] = ()
    paid: dict[str, str] = field(default_factory=dict)
    # Folder of what a stage says of a whole suite, <of_suite>/<suite>.json; its template sees it, or None, as `whole`.
    of_suite: str | None = None
    # Whether the best of a suite is compared with the runner-up, beside the pairs that the config asks for.
    leads: bool = False
    # Config → sentences on what is wrong with its evaluations; all names are known by then.
    checks: Callable[[Experiment], Iterable[str]] = lambda cfg: ()
    # How single rows are scored by its headline metric; None: its models cannot race.
    race: Rows | None = None
    # Config → sentences on what is wrong with the user's files that its suites read, asked before a build.
    flaws: Callable[[Experiment], Iterable[str]] = lambda cfg: ()
    # Whether its scores are set against those of the other suites of an experiment.
    related: bool = False
    # Rows of summary.csv → rows to draw, a panel per `dataset`.
    panels: Callable[[Sequence[dict[str, str]]], Sequence[dict[str, str]]] = lambda rows: rows
    # Manifests of one suite's measurements, the results' folder; returns what else its template shows.
    samples: Callable[[list[Any], Path], dict[str, Any]] = lambda measurements, root: {}

    @property
    def unread_rates(self) -> tuple[str, ...]:
        """Metrics that are rates of answers that could not be read."""
        return tuple(self.unread.rates) if self.unread else ()
