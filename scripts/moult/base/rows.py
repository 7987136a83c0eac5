"""The rows of a build's files as types. `NotRequired` marks a key that not every such row has.

Where a CSV or a table is written, its columns are the keys of the type, in their order (`columns_of`).
"""

from typing import Any, Literal, NotRequired, TypedDict

# What decides the bytes of an artefact, and what a job counted for its manifest: plain JSON, of a shape that each stage
# has for itself.
Recipe = dict[str, Any]
Facts = dict[str, Any]
# A prompt template: `system`, `user` and `answer` to Jinja text.
Template = dict[str, str]


def columns_of(row: type) -> list[str]:
    """Return the keys of a row's type in the order in which they are declared."""
    return list(row.__annotations__)


class Message(TypedDict):
    """One turn of a chat. content: the text, or parts {type: text, text} and {type: video, video: digest of frames}."""

    role: str
    content: Any


class LabelSet(TypedDict):
    """The labels of a dataset. `labels.json` of a prepared dataset; written by `prepare_dataset`."""

    dataset: str
    task: str
    task_words: str
    language: str
    labels: list[str]


class Medium(TypedDict):
    """A video of a canonical row. `frames`, where frames were sampled, is the digest that they are found by."""

    type: str
    path: str
    sha256: str | None
    duration_s: float | None
    frames: NotRequired[str]


class CanonicalRow(TypedDict):
    """A row of `datasets/<name>/<split>.parquet`; written by `prepare_dataset`. On disk `meta` is JSON as text."""

    uid: str
    dataset: str
    task: str
    split: str
    text: str
    context: str | None
    title: str | None
    label: str | None
    label_id: int | None
    media: list[Medium] | None
    lang: str
    source: str
    meta: dict[str, Any]


class RawReject(TypedDict):
    """A raw row that could not be used. `datasets/<name>/rejects.jsonl`; written by `prepare_dataset`.

    row: its cells as text; cut: cell → its whole length, where it is shown in part.
    """

    dataset: str
    split: str
    source: str
    reason: str
    row: dict[str, str]
    cut: NotRequired[dict[str, int]]


class Leak(TypedDict):
    """Two rows of two splits that are alike. `leakage/<dataset>.csv`; written by `check_leakage`."""

    dataset: str
    split_a: str
    split_b: str
    uid_a: str
    uid_b: str
    kind: str
    similarity: float


class Question(TypedDict):
    """A row of a dataset of questions, as prompts need it; in no file, `question_rows` makes it of a canonical row."""

    uid: str
    dataset: str
    split: str
    field: str
    title: str | None
    question: str


class JudgeItem(TypedDict):
    """What people judged: an answer (mode grade) or two (mode compare); `judge_items` makes it of a canonical row.

    human: a grade on `scale` (lowest, highest), or one of `labels` (A, B, Tie) in the item's own order. annotators:
    what several people said. tag: the group of its publishers; source: file and row. scores: per answer, if known.
    """

    uid: str
    dataset: str
    split: str
    mode: Literal["grade", "compare"]
    category: str | None
    scenario: str | None
    question: str
    answer: str | None
    answer_1: str | None
    answer_2: str | None
    reference: str | None
    human: Any
    annotators: list[Any] | None
    tag: str | None
    origin: str | None
    feedback: str | None
    source: str
    labels: NotRequired[list[str]]
    scale: NotRequired[list[int]]
    scores: NotRequired[list[dict[str, int]]]


class CorpusRow(Question):
    """A question and what was generated for it. `corpora/<name>.jsonl`; written by `generate_guidelines` (guideline)
    and `distill_answers` (answer, and the guideline where one was followed). `<key>_by`: the model that wrote it."""

    guideline: NotRequired[str]
    guideline_by: NotRequired[str]
    answer: NotRequired[str]
    answer_by: NotRequired[str]


class Revision(TypedDict):
    """One answer of a refined row. verdict: correct, incorrect, empty, or cut; grade: 0 to 10, where there is one."""

    iteration: int
    answer: str
    verdict: str | None
    feedback: str
    hints: str
    grade: NotRequired[float]


class RefinedRow(CorpusRow):
    """An accepted answer and its history. `corpora/<name>.jsonl`; written by `refine_answers`."""

    status: Literal["ok", "revised"]
    iterations: int
    history: list[Revision]


class PairAnswer(TypedDict):
    """One answer of a preference pair, as a chat message with what is known of it.

    policy: who wrote it, where pairs tell the two apart: a source, or the target that learns from sources.
    """

    role: str
    content: str
    model: str
    decoding: str
    tokens: int
    reward: float | None
    policy: NotRequired[Literal["source", "target"]]


class PreferencePair(TypedDict):
    """Answers to a prompt to prefer, sources' first, and those to prefer them to. `corpora/<name>.jsonl`; written by
    `contrast_answers`. rm: what the rewards are; margin: reward of the chosen answer less that of the rejected one."""

    uid: str
    dataset: str
    split: str
    title: str | None
    question: str
    prompt: list[Message]
    chosen: list[PairAnswer]
    rejected: list[PairAnswer]
    rm: str | None
    margin: float | None
    seed: int


class JudgementRow(Question):
    """What a judge is to answer to an item that people judged. `corpora/<name>.jsonl`; written by `render_judgements`.

    prompt: what it is shown, in `order` (original, swapped); answer: the published line; answer_by: who explained it.
    """

    mode: Literal["grade", "compare"]
    order: Literal["original", "swapped"]
    prompt: list[Message]
    answer: str
    answer_by: str


class Reject(TypedDict):
    """A question that came to nothing. `corpora/<name>.rejects.jsonl`; written by the rules that write corpora."""

    uid: str
    reason: str
    text: str
    history: NotRequired[list[Revision]]


class Dropped(TypedDict):
    """A row that is not trained on, or not exported. In `dropped` of the facts of those who train and export."""

    split: NotRequired[str]
    uid: str
    reason: str


class StoredAnswer(TypedDict):
    """What came back for a chat request, as the journal keeps it. `journal/<rule>/<name>.sqlite`, table answers.

    finish_reason: stop, length, or error; then `error` says why and `text` is empty. assumed: the tokens are counted at
    their worst case; raw: a reply that could not be read, as it came; logprobs: token → log-probability (nats).
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None
    assumed: NotRequired[bool]
    raw: NotRequired[str | None]
    logprobs: NotRequired[dict[str, float] | None]


class Usage(TypedDict):
    """What answers took. `<artefact>.usage.json`; written by those who ask endpoints.

    cost_usd: None where the price is not known, 0 where a model of the build answers; parts: of answerer and
    judge; assumed: answers that are counted at their worst case.
    """

    endpoint: str
    model: str
    calls: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    assumed: NotRequired[int]
    parts: NotRequired[dict[str, "Usage"]]


class FileFacts(TypedDict):
    """Hash and bytes of a file of an artefact."""

    sha256: str
    size: int


class Manifest(TypedDict):
    """What an artefact consists of and was made of. `<artefact>.manifest.json`; written by every job, last.

    files: path beside the manifest → its facts; content: the hash of these; parents: artefact → its content. local: for
    each file or folder of the user's that was read, in the order of the inputs: name in it (`.` for a file) → BLAKE3 of
    its bytes, None where it was looked for and not there. seal: SHA-256 of the manifest's bytes without the line of the
    seal. Manifests of before have neither.
    """

    name: str
    rule: str
    files: dict[str, FileFacts]
    content: str
    parents: dict[str, str]
    recipe: Recipe
    versions: dict[str, str]
    facts: Facts
    local: NotRequired[list[dict[str, str | None]]]
    seal: NotRequired[str]
