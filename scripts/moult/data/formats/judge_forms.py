"""The forms in which others published items that people judged, each read into one record (`base.rows.JudgeItem`).

What is wrong with a row is an `Unusable` that names the cell and says what to write. Cells that no form asks for are
left alone, whatever they hold.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moult.base.outside import Unreadable, parse_json
from moult.data.excerpts import printable
from moult.data.formats.messages import Unusable, kind_of

# How the forms spell verdicts; the verdicts of a spelling are those that a judge may give of such items.
LETTERS = {"A": "A", "B": "B", "Tie": "Tie"}
DECIDED = {"A": "A", "B": "B"}
ARROWS = {"A>B": "A", "B>A": "B"}
ORDINALS = {"1": "A", "2": "B"}
ORDINALS_OR_NONE = {"0": "Tie", "1": "A", "2": "B"}
FROM_NOUGHT = {"0": "A", "1": "B", "2": "Tie"}
# Lowest and highest grade that people could give.
TO_TEN, TO_FIVE = (0, 10), (1, 5)
# The groups by which Auto-J reports (its evaluation script, GAIR-NLP/auto-j), each with its scenarios.
GROUPS = {
    "Summarization": "note_summarization post_summarization text_summarization",
    "Exam Questions": "math_reasoning solving_exam_question_with_math solving_exam_question_without_math",
    "Code": "code_correction_rewriting code_generation code_simplification code_to_code_translation explaining_code",
    "Rewriting": "instructional_rewriting language_polishing paraphrasing text_correction text_simplification",
    "Creative Writing": "counterfactual creative_writing writing_advertisement writing_blog_post "
    "writing_marketing_materials writing_personal_essay writing_presentation_script writing_social_media_post "
    "writing_song_lyrics",
    "Functional Writing": "functional_writing writing_biography writing_cooking_recipe writing_email "
    "writing_job_application writing_legal_document writing_news_article writing_product_description "
    "writing_scientific_paper writing_technical_document",
    "General Communication": "analyzing_general asking_how_to_question brainstorming chitchat explaining_general "
    "open_question planning recommendation roleplay seeking_advice value_judgement verifying_fact",
    "NLP Tasks": "classification_identification data_analysis information_extraction keywords_extraction others "
    "question_generation ranking reading_comprehension text_to_text_translation title_generation topic_modeling",
}
GROUP_OF = {scenario: group for group, scenarios in GROUPS.items() for scenario in scenarios.split()}
# The groups by which JudgeBench reports, by the beginnings of its sources.
BEGINNINGS = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


class Cells:
    """The cells of a raw row; each method reads one, or raises `Unusable` with the remedy."""

    def __init__(self, row: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """names: field → what the file calls it, where that differs."""
        self.row, self.names = row, names

    def name(self, field: str) -> str:
        return self.names.get(field, field)

    def answer(self, field: str) -> str:
        """Return the text of an answer as it stands, an empty one too: a person judged it. A table's `true` is text."""
        value = self.row[field]
        if value is None:
            raise Unusable(f'{self.name(field)} is null, which nobody judged; write "" if the answer is empty')
        if isinstance(value, bool):
            return str(value).lower()
        return self._text(field, value)

    def needed(self, field: str) -> str:
        """Return a text without the blanks around it, which must hold something."""
        value = self.optional(field)
        if value is None:
            raise Unusable(f"{self.name(field)} is empty; write the question that was answered")
        return value

    def optional(self, field: str) -> str | None:
        """Return a text without the blanks around it; None where the cell is missing, null or empty."""
        value = self.row.get(field)
        return None if value is None else self._text(field, value).strip() or None

    def label(self, field: str, spellings: Mapping[str, str], value: Any = None) -> str:
        """Return a verdict: A, B or Tie. value: the cell, where it is part of another one."""
        value = self.row[field] if value is None else value
        found = {spelling.lower(): verdict for spelling, verdict in spellings.items()}
        text = value.strip().lower().removesuffix(".0") if isinstance(value, str) else None
        if text not in found:
            raise Unusable(f"{self.name(field)} is {_shown(value)}; write one of {', '.join(spellings)}")
        return found[text]

    def grade(self, field: str, scale: tuple[int, int], value: Any = None) -> float:
        """Return a number on a scale (lowest, highest). value: the cell, where it is part of another one."""
        value = self.row[field] if value is None else value
        try:
            number = float(value) if isinstance(value, str) else math.nan
        except ValueError:
            number = math.nan
        if not scale[0] <= number <= scale[1]:
            raise Unusable(f"{self.name(field)} is {_shown(value)}; write a number from {scale[0]} to {scale[1]}")
        return number

    def scores(self, *fields: str) -> dict[str, Any]:
        """Return {scores: dimension → 1 to 10, for each field}; nothing where one of the cells is missing or empty."""
        found = [self._scores(field) for field in fields if self.row.get(field) not in (None, "")]
        return {"scores": found} if len(found) == len(fields) else {}

    def _scores(self, field):
        value = self.row[field]
        if isinstance(value, str):
            # Of a table, a cell of JSON.
            with contextlib.suppress(Unreadable):
                value = parse_json(value)
        numbers = {}
        for name, score in value.items() if isinstance(value, dict) else ():
            with contextlib.suppress(TypeError, ValueError):
                numbers[name] = None if isinstance(score, bool) else float(score)
            if numbers.get(name) not in range(1, 11):
                raise Unusable(f"{self.name(field)}: {_shown(name)} has no whole number from 1 to 10; write one")
        if not numbers:
            raise Unusable(f'{self.name(field)} names no dimension; write e.g. {{"accuracy": 7}}, or leave it out')
        return {name: int(number) for name, number in numbers.items()}

    def _text(self, field, value):
        if not isinstance(value, str):
            raise Unusable(f"{self.name(field)} is {kind_of(value)}, not text; write it as text")
        return value


def _shown(value):
    return repr(printable(value)) if isinstance(value, str) else "null" if value is None else kind_of(value)


@dataclass(frozen=True)
class Form:
    """A published form. needed: the columns that tell it and that each row has; read: (cells, category of the file) →
    the record; ids: columns that name a row together, none where rows have no name."""

    name: str
    needed: tuple[str, ...]
    read: Callable[[Cells, str], dict[str, Any]]
    ids: tuple[str, ...] = ("id",)


def form_of(row: Mapping[str, Any], names: Mapping[str, str]) -> Form:
    """Return the form of a row by its columns; `Unusable` where it lacks one, or is of no form."""

    def fits(form):
        there = sum(column in row for column in form.needed)
        return there / len(form.needed), there

    best = max(FORMS, key=fits)
    missing = [column for column in best.needed if column not in row]
    if 2 * len(missing) >= len(best.needed):
        forms = ", ".join(form.name for form in FORMS)
        raise Unusable(f"has the columns of no known form ({forms}); map yours with `columns: {{question: ...}}`")
    if missing:
        asked = names.get(missing[0], missing[0])
        raise Unusable(f"has no {asked!r}, a column of {best.name}; add it, or map it with `columns`")
    return best


def _item(cells, mode, question, human, **more):
    """Return a record; what a form has nothing of is None."""
    item = {"mode": mode, "question": question, "human": human}
    item |= dict.fromkeys(("answer", "answer_1", "answer_2", "reference", "annotators", "tag", "origin", "feedback"))
    category = cells.optional("category")
    item |= {"category": category and category.lower(), "scenario": cells.optional("scenario")}
    return item | more


def _compared(cells, question, first, second, human, spellings, **more):
    """Return the record of two answers. spellings: declare the verdicts that there are."""
    answers = {"answer_1": cells.answer(first), "answer_2": cells.answer(second)}
    labels = sorted(set(spellings.values()))
    return _item(cells, "compare", question, human, labels=labels, **answers, **more)


def _graded(cells, question, answer, human, scale, **more):
    return _item(cells, "grade", question, human, scale=list(scale), answer=cells.answer(answer), **more)


def _instruction(cells):
    """An instruction and its input, of which one may be empty."""
    found = [text for text in map(cells.optional, ("instruction", "input")) if text]
    return "\n\n".join(found) or cells.needed("instruction")


def _meld_pair(cells, category):
    human = cells.label("label", LETTERS)
    more = {"reference": cells.optional("reference")}
    return _compared(cells, cells.needed("question_body"), "answer1_body", "answer2_body", human, LETTERS, **more)


def _meld_grade(cells, category):
    more = {"reference": cells.optional("reference")}
    return _graded(cells, cells.needed("question_body"), "answer_body", cells.grade("label", TO_TEN), TO_TEN, **more)


def _meld_length(cells, category):
    tag = cells.optional("tag")
    if tag not in ("long", "short"):
        raise Unusable(f"{cells.name('tag')} is {_shown(tag)}; write long or short, what the right answer is")
    human = cells.label("label", DECIDED)
    item = _compared(cells, cells.needed("question"), "answer1_body", "answer2_body", human, DECIDED, tag=tag)
    longer = len(item["answer_1"]) - len(item["answer_2"])
    if longer and (tag == "long") != ((longer > 0) == (human == "A")):
        raise Unusable(f"tag is {tag}, but label {human} names the other answer by length; correct one of them")
    return item


def _pandalm(cells, category):
    """Three people's verdicts; the majority is the label, and a label that the file has must be it."""
    fields = ("annotator1", "annotator2", "annotator3")
    annotators = [cells.label(field, ORDINALS_OR_NONE) for field in fields]
    human = majority(annotators)
    if human is None:
        raise Unusable("the three annotators say three different things, so there is no verdict; leave the row out")
    if cells.row.get("label") is not None and cells.label("label", ORDINALS_OR_NONE) != human:
        told = ", ".join(str(cells.row[field]) for field in fields)
        raise Unusable(f"label is {_shown(cells.row['label'])}, but the annotators say {told}; correct one of them")
    more = {"annotators": annotators, "origin": cells.optional("motivation_app")}
    return _compared(cells, _instruction(cells), "response1", "response2", human, ORDINALS_OR_NONE, **more)


def _feedback_bench(cells, category):
    more = {"reference": cells.optional("reference"), "feedback": cells.optional("gpt4_feedback")}
    human = cells.grade("gpt4_score", TO_FIVE)
    return _graded(cells, cells.needed("instruction"), "response", human, TO_FIVE, **more)


def _judgebench(cells, category):
    origin = cells.optional("source")
    groups = [group for beginning, group in BEGINNINGS.items() if origin and origin.startswith(beginning)]
    more = {"origin": origin, "tag": groups[0] if groups else None}
    human = cells.label("label", ARROWS)
    return _compared(cells, cells.needed("question"), "response_A", "response_B", human, ARROWS, **more)


def _llmbar(cells, category):
    """Rows have no name and do not say their subset: the file does."""
    human = cells.label("label", ORDINALS)
    return _compared(cells, cells.needed("input"), "output_1", "output_2", human, ORDINALS, tag=category)


def _autoj(cells, category):
    group = GROUP_OF.get(cells.optional("scenario") or "")
    human = cells.label("label", FROM_NOUGHT)
    return _compared(cells, cells.needed("prompt"), "response 1", "response 2", human, FROM_NOUGHT, tag=group)


def _own_pair(cells, category):
    annotators = _annotators(cells, lambda value: cells.label("annotators", LETTERS, value))
    more: dict[str, Any] = {field: cells.optional(field) for field in ("reference", "tag", "feedback")}
    more |= cells.scores("scores_1", "scores_2")
    question, human = cells.needed("question"), cells.label("human", LETTERS)
    return _compared(cells, question, "answer_1", "answer_2", human, LETTERS, annotators=annotators, **more)


def _own_grade(cells, category):
    annotators = _annotators(cells, lambda value: cells.grade("annotators", TO_TEN, value))
    more: dict[str, Any] = {field: cells.optional(field) for field in ("reference", "tag", "feedback")}
    more |= cells.scores("scores")
    question, human = cells.needed("question"), cells.grade("human", TO_TEN)
    return _graded(cells, question, "answer", human, TO_TEN, annotators=annotators, **more)


def _annotators(cells, read):
    values = cells.row.get("annotators")
    if values in (None, ""):
        return None
    if not isinstance(values, list) or len(values) < 2:
        raise Unusable('annotators is no list of two or more; write e.g. ["A", "Tie"], or leave it out')
    return [read("" if value is None else value) for value in values]


def majority(verdicts: list[str]) -> str | None:
    """Return the verdict of more than half of several people, None where there is none."""
    verdict, count = Counter(verdicts).most_common(1)[0]
    return verdict if 2 * count > len(verdicts) else None


FORMS = (
    Form("MELD's pairs", ("question_body", "answer1_body", "answer2_body", "label"), _meld_pair),
    Form("MELD's grades", ("question_body", "answer_body", "label"), _meld_grade),
    Form("MELD's pairs of two lengths", ("question", "answer1_body", "answer2_body", "label", "tag"), _meld_length),
    Form(
        "PandaLM",
        ("instruction", "response1", "response2", "annotator1", "annotator2", "annotator3"),
        _pandalm,
        ("idx",),
    ),
    # A question has five answers, of the scores 1 to 5, all under one idx.
    Form("Feedback-Bench", ("instruction", "response", "gpt4_score"), _feedback_bench, ("idx", "gpt4_score")),
    Form("JudgeBench", ("question", "response_A", "response_B", "label"), _judgebench, ("pair_id",)),
    Form("LLMBar", ("input", "output_1", "output_2", "label"), _llmbar, ()),
    Form("Auto-J", ("prompt", "response 1", "response 2", "label"), _autoj, ()),
    Form("pairs of your own", ("question", "answer_1", "answer_2", "human"), _own_pair),
    Form("grades of your own", ("question", "answer", "human"), _own_grade),
)
