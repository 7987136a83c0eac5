"""The rows of samples as types, from the prompt to the pair; see `base.rows`."""

from typing import Literal, NotRequired, TypedDict

from moult.base.rows import Message, Question


class PromptRow(Question):
    """A question, or a prompt with its `prompt` (messages) and the `answers` that its file has; in no file,
    `prompt_rows` makes it of a canonical row."""

    prompt: NotRequired[list[Message]]
    answers: NotRequired[list[dict[str, str]]]


class Sample(TypedDict):
    """One answer of a model to a prompt. `corpora/<name>.jsonl`; written by `sample_responses`.

    sample: its number among those to the prompt, from 0; tokens: its length, None where it came from a file.
    """

    uid: str
    dataset: str
    split: str
    sample: int
    prompt: list[Message]
    answer: str
    answer_by: str
    finish_reason: str
    tokens: int | None


class ScoredSample(Sample):
    """A sample and its score. `corpora/<name>.jsonl`; written by `score_responses`.

    parts, gates: of a reward model that has several rewards under gates; scores: of a judge, dimension → 1 to 10.
    """

    reward: float
    parts: NotRequired[list[float]]
    gates: NotRequired[list[float]]
    scores: NotRequired[dict[str, int] | None]


class PolicyAnswer(TypedDict):
    """One answer of a pair that is built of scored samples, as a chat message with what is known of it.

    corpus, sample: which one it is; policy: whether the model that is to be trained gave it, or another one.
    """

    role: str
    content: str
    model: str
    corpus: str
    policy: Literal["source", "target"]
    sample: int
    tokens: int | None
    reward: float


class PolicyPair(TypedDict):
    """Answers to a prompt to prefer, the target's own last, and those to prefer them to. `corpora/<name>.jsonl`;
    written by `build_preferences`. rm: who gave the rewards; margin: the least reward that a preferred answer has more
    than another one."""

    uid: str
    dataset: str
    split: str
    title: str | None
    question: str
    prompt: list[Message]
    chosen: list[PolicyAnswer]
    rejected: list[PolicyAnswer]
    rm: str
    margin: float
    seed: int
