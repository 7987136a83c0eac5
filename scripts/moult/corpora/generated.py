"""Guidelines and distilled answers: an endpoint generates one text per row; rejects have reasons."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from moult.base.errors import UserError
from moult.base.files import derive_seed, write_json, write_jsonl
from moult.base.reasons import in_words
from moult.base.rows import CorpusRow, Facts, Recipe, Reject, Usage
from moult.base.section import Name, exactly_one
from moult.base.stage import Experiment, Job
from moult.corpora.kind import Generated
from moult.data.fields import Decoding, Prompt, Split
from moult.data.prompts import load_template
from moult.data.questions import asked_rows, question_rows
from moult.inference.asking import Asker, asker_of, flaw_of
from moult.inference.recipes import decoding_recipe, endpoint_recipe
from moult.inference.requests import author, corpus_requests

# Raise when the same recipe would now ask something else.
VERSION = 1
# Reasons that are told where a corpus has no row.
MOST_REASONS = 3
# Pattern of the commonest reason → what to do. The first that is found counts.
REMEDIES = (
    (
        r"^judge: ",
        "Look at what the judge wrote, correct `judge_prompt`, raise `judge_decoding.max_tokens`, or ask another",
    ),
    (r"max_tokens", "Raise `decoding.max_tokens`, or keep what was cut (`truncated: keep`)"),
    (r"^not accepted", "Read the judge's feedback there; raise `max_iterations`, or ask a stronger endpoint"),
    (r"min_characters|max_|two answers", "Loosen that limit of `gate`, or decode the chosen answer in another way"),
    (r"empty answer", "Raise `decoding.max_tokens`, which thoughts may have used up, or correct `prompt`"),
    (r"refused", "Correct `prompt`, or ask another endpoint"),
    (
        r"error: HTTP|; tries: |error: no |the batch ",
        "Mend what the server says of the endpoint and run again: such replies cost nothing",
    ),
    (r"", "Look at the replies there; correct `prompt`, `decoding` or the endpoint"),
)
logger = logging.getLogger(__name__)


class _OneText(Generated):
    """A text per row, in one request."""

    shown: ClassVar = {"prompt": ()}

    if TYPE_CHECKING:
        truncated: str

    def recipe(self, cfg: Experiment) -> Recipe:
        return {
            "name": self.name,
            "splits": list(self.splits),
            "endpoint": endpoint_recipe(cfg, self.endpoint),
            "prompt": load_template(self.prompt),
            "decoding": decoding_recipe(self.decoding),
            "cut": self.truncated,
            "seed": derive_seed(cfg.seed, self.kind, self.name),
            "version": VERSION,
        }

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        by, decoding = author(recipe["endpoint"]), recipe["decoding"]
        limits = f"temperature {decoding['temperature']:g}, at most {decoding['max_tokens']} tokens"
        return f"{facts['rows']:,} rows by {by}", f"{facts['rows']:,} rows written by {by}, {limits}"


class Guidelines(_OneText):
    """METEOR stage 1a: the model under training writes guidelines for solving each question."""

    rule: ClassVar = "generate_guidelines"
    doing: ClassVar = "writing the guidelines {corpus}"
    run: ClassVar = "moult.corpora.generated:run_guidelines"
    writes: ClassVar = "guidelines"

    kind: Literal["guidelines"] = Field(description="Kind of corpus: guidelines for answering questions.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    dataset: str = Field(description="Dataset whose questions are asked.")
    splits: list[Split] = Field(["train", "dev"], description="Splits whose rows are asked.")
    endpoint: str = Field(description="Endpoint that writes the guidelines.")
    truncated: Literal["keep", "reject"] = Field(
        "keep", description="What becomes of a guideline that was truncated at `decoding.max_tokens`."
    )
    prompt: Prompt = Field("meteor/guideline", description="Template of resources/prompts that asks for a guideline.")
    decoding: Decoding = Field(
        Decoding(temperature=0.7, top_p=0.95, top_k=50, max_tokens=512), description="How guidelines are decoded."
    )


class Distilled(_OneText):
    """METEOR stage 1b: a stronger endpoint answers each question, following its guideline where there is one."""

    rule: ClassVar = "distill_answers"
    doing: ClassVar = "distilling the answers {corpus}"
    run: ClassVar = "moult.corpora.generated:run_distilled"
    writes: ClassVar = "answers"
    judged: ClassVar = True

    kind: Literal["distilled"] = Field(description="Kind of corpus: answers of a stronger model.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    guidelines: str | None = Field(
        None,
        description=(
            "Corpus of guidelines whose questions are asked, each with its guideline; write either "
            "`guidelines` or `dataset`."
        ),
    )
    dataset: str | None = Field(
        None,
        description="Dataset whose questions are asked, without guidelines; write either `guidelines` or `dataset`.",
    )
    splits: list[Split] = Field(["train", "dev"], description="Splits whose rows are asked.")
    endpoint: str = Field(description="Endpoint that answers.")
    truncated: Literal["keep", "reject"] = Field(
        "reject", description="What becomes of an answer that was truncated at `decoding.max_tokens`."
    )
    prompt: Prompt = Field("meteor/distill", description="Template of resources/prompts that asks for an answer.")
    decoding: Decoding = Field(Decoding(temperature=0.7, max_tokens=1024), description="How answers are decoded.")

    @model_validator(mode="after")
    def one_source(self) -> Self:
        exactly_one(self, "guidelines", "dataset")
        return self


def make_corpus(recipe: Recipe, rows: Sequence[CorpusRow], field: str, asker: Asker, outputs: Any) -> Facts:
    """Generate a corpus and write its three files, the outputs of a job; return the counts."""
    result = generate_corpus(recipe, rows, field, asker)
    return write_corpus(outputs.corpus, outputs.rejects, outputs.usage, result)


def generate_corpus(
    recipe: Recipe, rows: Sequence[CorpusRow], field: str, asker: Asker
) -> tuple[list[CorpusRow], list[Reject], Usage]:
    """Ask for one text per row; return (rows with `field`, rejects, usage).

    recipe: prompt (template), decoding, seed, cut ("keep" or "reject" what stopped for length). asker: who answers.
    A row's seed comes from its own request, so that neither order nor neighbours change its answer.
    """
    check_rows(rows)
    values = asker.ask(corpus_requests(recipe, rows))
    kept: list[CorpusRow] = []
    rejects: list[Reject] = []
    for row, value in zip(rows, values, strict=True):
        reason = flaw_of(value, recipe["cut"])
        if reason:
            rejects.append({"uid": row["uid"], "reason": reason, "text": value["text"]})
        else:
            kept.append(cast(CorpusRow, row | {field: value["text"], f"{field}_by": asker.author}))
    logger.info("%d rows in, %d out, %d rejected", len(rows), len(kept), len(rejects))
    return kept, rejects, asker.usage()


def check_rows(rows: Sequence[CorpusRow]) -> None:
    """UserError where a corpus has nothing to ask about."""
    if not rows:
        raise UserError("the corpus has no rows to ask about: the stage before it rejected all of them.")


def nothing_kept(corpus: str | Path, rejected: Sequence[Reject]) -> UserError:
    """Write the rejects beside a corpus that has no row, where Snakemake leaves them; return what to say of it."""
    kept = left_beside(corpus)
    write_jsonl(kept, rejected)
    counts = Counter(one["reason"] for one in rejected).most_common(MOST_REASONS)
    told = ", ".join(f"{count} for {reason!r}" for reason, count in counts)
    remedy = next(remedy for pattern, remedy in REMEDIES if re.search(pattern, counts[0][0]))
    return UserError(
        f"{corpus}: every row was rejected, {told}; all {len(rejected)} rejects are in {kept}. {remedy}; what was paid "
        "for is in the journal and is not asked again."
    )


def left_beside(corpus: str | Path) -> Path:
    """Return where the rejects of a corpus without a row are; a corpus that has rows has none."""
    return Path(corpus).parent / "all-rejected" / Path(corpus).name


def write_corpus(
    corpus: str | Path, rejects: str | Path, usage: str | Path, result: tuple[Sequence[Any], Sequence[Reject], Usage]
) -> Facts:
    """Write the three files of a corpus; `result` is what `generate_corpus` returned. Return the counts."""
    kept, rejected, totals = result
    if not kept:
        raise nothing_kept(corpus, rejected)
    left_beside(corpus).unlink(missing_ok=True)
    if rejected:
        told = "%d of %d rows are left out (rejects.jsonl): %s"
        logger.warning(told, len(rejected), len(kept) + len(rejected), in_words(row["reason"] for row in rejected))
    write_jsonl(rejects, rejected)
    write_json(usage, totals)
    write_jsonl(corpus, kept)
    return {"rows": len(kept), "rejects": len(rejected)}


def _run(job, rows, field):
    with asker_of(job, job.inputs) as asker:
        job.facts = make_corpus(job.recipe, rows, field, asker, job.outputs)


def run_guidelines(job: Job) -> None:
    """Do the job of generate_guidelines."""
    _run(job, question_rows(job.inputs.questions, job.recipe["splits"]), "guideline")


def run_distilled(job: Job) -> None:
    """Do the job of distill_answers."""
    _run(job, asked_rows(job.inputs, job.recipe["splits"]), "answer")
