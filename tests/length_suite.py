"""A kind of suite that Moult does not have: how many words an answer has, the fewer the better."""

from moult.base.stage import Stage
from moult.evaluation.kinds import NUMBER, Baseline, Headline, Settings, SuiteKind, Unread
from moult.evaluation.leaderboard import suite_tables


class LengthSuite(Settings):
    """How long answers are."""

    datasets: list[str]
    split: str = "test"
    endpoint: str | None = None

    @property
    def endpoints(self):
        return {"endpoint": self.endpoint} if self.endpoint else {}


LENGTHS = SuiteKind(
    key="lengths",
    fields=LengthSuite,
    title="length",
    shape="labelled",
    carved=("test",),
    measures=("models",),
    refusal="only models have a length",
    published=(),
    methods={"measured": "measured in words"},
    headline=Headline("mean_length", "answer length", "answer lengths", NUMBER, higher_is_better=False),
    baseline=Baseline("shortest known", "Quoting the row", metric="row_length"),
    differences=lambda recipe, paths: [],
    measurement="lengths",
    stages=(
        Stage(
            rule="measure_lengths",
            makes="lengths",
            doing="measuring",
            run="length_suite:measure",
            words=lambda recipe, facts: ("", f"{facts['rows']} lengths"),
        ),
        Stage(
            rule="score_lengths",
            makes="scores",
            doing="scoring",
            run="length_suite:score",
            words=lambda recipe, facts: ("", "metrics of those lengths"),
        ),
    ),
    subjects=lambda one: [f"models/{one['recipe']['model']}"],
    summary=lambda lengths: (f"{len(lengths)} models", f"{len(lengths)} models by words"),
    tables=suite_tables,
    section=("lengths", "Lengths of answers"),
    metrics={"longest": "longest answer"},
    unread=Unread("Answers without words", "there was no word", {"empty_rate": "empty"}),
    rejecting=("lengths",),
    paid={"lengths": "measuring"},
)
