"""Judges that grade the answers of a refined corpus, by a rubric and in the form that they were trained in."""

from typing import Any

from pydantic import Field

from moult.base.rows import Recipe
from moult.base.section import Section
from moult.data.fields import Form, Rubric
from moult.data.rubrics import DEFAULT, named_rubric
from moult.inference.judge_replies import read_grade


class Grading(Section):
    """How a judge that grades answers, such as one that is trained to, decides which of them stay."""

    form: Form = Field("json", description="Form of a grade: JSON enforced by a schema, the published line, or [[n]].")
    rubric: Rubric = Field(DEFAULT, description="Rubric by which all answers are graded.")
    accept: float = Field(8, ge=0, le=10, description="Grade from which an answer is accepted; 10 is the best.")


def grading_recipe(grading: Grading) -> Recipe:
    """Return form, rubric and accept, as plain JSON."""
    return {"form": grading.form, "rubric": named_rubric(grading.rubric), "accept": grading.accept}


def read_grading(recipe: Recipe, text: str) -> tuple[dict[str, Any], None] | tuple[None, str]:
    """Return (verdict, feedback, hints and grade; None) of a reply, or (None, why there is no grade in it).

    recipe: that of a refined corpus, whose `grading` says from which grade an answer is `correct`.
    """
    grading = recipe["grading"]
    found = read_grade(grading["form"], text, [one["name"] for one in grading["rubric"]["dimensions"]])
    if found is None:
        return None, f"the reply has no grade in the form that was asked for: {text[:80]!r}"
    # What stands before a grade in brackets is the reason for it.
    feedback = text if grading["form"] == "bracket" else found["feedback"] or ""
    verdict = "correct" if found["grade"] >= grading["accept"] else "incorrect"
    return {"verdict": verdict, "grade": found["grade"], "feedback": feedback, "hints": ""}, None
