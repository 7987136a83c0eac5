"""The rows of what suites ask, judge, probe and score, as types (see `moult.base.rows`)."""

from typing import Any, Literal, NotRequired, TypedDict


class Prediction(TypedDict):
    """The label that a model gave a row. `predictions/<suite>/<model>.jsonl`; written by `predict_labels`.

    pred: None where no label was read; status: ok, unknown, multi or error; raw: the answer, or a log-likelihood per
    label, in nats.
    """

    uid: str
    dataset: str
    task: str
    model: str
    method: str
    gold: str | None
    pred: str | None
    status: str
    raw: str | list[float] | None


class JudgeAnswer(TypedDict):
    """A model's answer to a question of a judged suite. `answers/<suite>/<model>.jsonl`; written by `answer_questions`.

    status: ok, or error: there is nothing to be judged.
    """

    uid: str
    dataset: str
    model: str
    status: Literal["ok", "error"]
    answer: str
    finish_reason: str
    reason: str | None


class Judgement(TypedDict):
    """What a judge said of a pair. `judgements/<suite>/<model or corpus>.jsonl`; written by `judge_answers`.
    A further judge's are `opinions/<suite>/<model or corpus>/<endpoint>.jsonl`; written by `judge_again`.

    A is the model, B is `against`, whichever was shown first. order: original, swapped, or None where nothing was
    asked; status: ok, unknown, error or unanswered; scores: A and B → criterion → 1 to 10.
    """

    uid: str
    dataset: str
    model: str
    against: str
    judge: str
    order: str | None
    repeat: int
    status: str
    scores: dict[str, dict[str, int]] | None
    winner: Literal["A", "B", "Tie"] | None
    justification: str | None
    raw: str | None


class Verdict(TypedDict):
    """What a judge said of an item that people judged. `verdicts/<suite>/<judge>.jsonl`; written by `judge_items`.

    method: compare, grade, or by_grades (two answers, each graded alone); order: None where nothing was asked; status:
    ok, unknown, error or unanswered; winner: in the item's own order; scores: dimension → 1 to 10, of a pair for A and
    B; lengths: characters of the answers. The rest is the item's, see `JudgeItem`.
    """

    uid: str
    dataset: str
    judge: str
    method: Literal["compare", "grade", "by_grades"]
    order: str | None
    status: str
    winner: Literal["A", "B", "Tie"] | None
    grade: float | None
    scores: dict[str, Any] | None
    feedback: str | None
    raw: str | None
    rubric: str | None
    lengths: list[int]
    human: Any
    annotators: list[Any] | None
    category: str | None
    scenario: str | None
    tag: str | None
    labels: NotRequired[list[str]]
    scale: NotRequired[list[int]]


class Turns(TypedDict):
    """A model's answers to the turns of a question. `turns/<suite>/<model>.jsonl`; written by `answer_turns`.

    status: ok, or error: there is nothing to be judged.
    """

    uid: str
    model: str
    status: Literal["ok", "error"]
    turns: list[str]
    reason: str | None


class Battle(TypedDict):
    """What a judge said of a model's answer, alone or beside the baseline's. `battles/<suite>/<name>.jsonl`; written by
    `judge_battles`.

    kind: of the suite. part: the question's category. source: asked, or published by others. game: the order (original:
    the baseline stands first; swapped), or turn_1, turn_2. status: ok, unknown, error or unanswered. value: under
    alpaca the preference from 1 (the baseline) to 2, under arena the outcome from 0 to 1, under mt the score; None
    where nothing could be read. lengths: characters of the baseline's and the model's answer, None where not known.
    """

    uid: str
    kind: Literal["alpaca", "arena", "mt"]
    part: str | None
    model: str
    judge: str
    source: Literal["asked", "published"]
    game: str
    status: str
    value: float | None
    weight: float
    lengths: list[int] | None
    raw: str | None
    reason: str | None


class Probed(TypedDict):
    """What probes said of a probing set. `probes/<suite>/<model>.jsonl`; written by `run_probes`.

    labels: classes, 1 of a regression; rows: per split; uniform_bits: of the labels of train, None of a regression;
    gold: of the test rows, in their order, and seen: whether train has a row of the same inputs. runs: of each control
    (`none` is the probe itself), layer and seed the epochs, the loss on dev, the description length in bits where it
    was asked for, and what was predicted.
    """

    dataset: str
    subfield: str
    phenomenon: str
    type: str
    labels: int
    probe: str
    portion: float
    rows: dict[str, int]
    uniform_bits: float | None
    gold: list[float]
    seen: list[bool]
    runs: list[dict[str, Any]]


class Score(TypedDict):
    """A metric of a model, setting or corpus. `scores/<suite>/<name>.csv` and `scores/summary.csv`; written by
    `score_labels`, `score_judgements` and `tabulate_scores`. The sources of published values have two columns each:
    their value, and what ours is more."""

    model: str
    suite: str
    dataset: str
    task: str
    method: str
    metric: str
    value: float
    n: int
    ci_low: float
    ci_high: float
    paper: float | None
    paper_delta: float | None
    reproduction: float | None
    reproduction_delta: float | None
    limit: int | None


class Difference(TypedDict):
    """How one fares against another on the same rows. `scores/differences.csv`; written by `tabulate_scores`."""

    suite: str
    model: str
    against: str
    dataset: str
    method: str
    difference: float
    ci_low: float
    ci_high: float
    p_mcnemar: float
    n: int
