"""What a judge is asked about answers: the same messages when it is trained and when it judges."""

from collections.abc import Mapping, Sequence
from typing import Any

from moult.base.files import derive_seed
from moult.base.rows import Message, Question, Recipe, Template
from moult.data.prompts import as_material, render
from moult.data.rubrics import DEFAULT, rubric_of
from moult.inference.requests import ChatRequest, Sampling

# Longer justifications are cut short by the schema, where the model is ours: a weak one may never end.
JUSTIFICATION = 240


def pair_schema(criteria: Sequence[str], longest: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of a reply: a justification, then for each answer an integer from 1 to 10 per criterion
    and overall. longest: characters of the justification; None for remote models, of which not all take a limit.
    """
    return _schema(("answer_1", "answer_2"), criteria, longest)


def grade_schema(criteria: Sequence[str], longest: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of a reply about one answer; see `pair_schema`."""
    return _schema(("answer",), criteria, longest)


def _schema(answers, criteria, longest):
    score = {"type": "integer", "enum": list(range(1, 11))}
    text = {"type": "string"} | ({"maxLength": longest} if longest else {})
    scores = _closed({name: score for name in (*criteria, "overall")})
    return _closed({"justification": text} | dict.fromkeys(answers, scores))


def _closed(properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def dimensions_of(asked: Recipe, item: Mapping[str, Any]) -> list[str]:
    """Return the names of the dimensions by which an item is judged."""
    return [one["name"] for one in asked["rubrics"][rubric_of(item["category"], asked["rubrics"], asked["rubric"])]]


def judge_messages(asked: Recipe, item: Mapping[str, Any], shown: Sequence[str]) -> list[Message]:
    """Return the chat that shows a judge the question of an item and one answer, or two in this order.

    asked: rubrics (name → dimensions, see `data.rubrics`), rubric (that of items whose category has none), prompts
    (grade and compare → template), form (of the reply: json, line or bracket), references (whether they are shown).
    Nothing of an item reaches the judge outside a fence: of its category it sees the name of the rubric.
    """
    mode = "grade" if len(shown) == 1 else "compare"
    return render(asked["prompts"][mode], **judge_fields(asked, item, shown))


def judge_fields(asked: Recipe, item: Mapping[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a judge's template for an item and one answer, or two; see `judge_messages`."""
    texts = _texts(item["question"], shown)
    if asked["references"] and item["reference"]:
        texts["reference"] = item["reference"]
    rubric = rubric_of(item["category"], asked["rubrics"], asked["rubric"])
    return _fields(asked["form"], asked["rubrics"][rubric], None if rubric == asked["rubric"] else rubric, texts)


def _texts(question, shown):
    names = ("answer",) if len(shown) == 1 else ("answer_1", "answer_2")
    return {"question": question} | dict(zip(names, shown, strict=True))


def _fields(form, dimensions, kind, texts):
    fields = {"reference": None} | as_material(texts) | {"form": form, "dimensions": dimensions}
    return fields | {"category": kind and kind.replace("-", " ")}


def reply_schema(asked: Recipe, item: Mapping[str, Any], answers: int, served: bool) -> dict[str, Any]:
    """Return the JSON schema of a reply about one answer of an item, or two. served: by a model of this build."""
    return _reply_schema(dimensions_of(asked, item), answers, served)


def _reply_schema(criteria, answers, served):
    build = grade_schema if answers == 1 else pair_schema
    return build(criteria, JUSTIFICATION if served else None)


def judge_request(asked: Recipe, item: Mapping[str, Any], shown: Sequence[str], served: bool) -> ChatRequest:
    """Return the request that shows a judge an item; see `judge_messages`. asked: decoding and seed too. served: by a
    model of this build."""
    messages = judge_messages(asked, item, shown)
    schema = reply_schema(asked, item, len(shown), served) if asked["form"] == "json" else None
    seed = derive_seed(asked["seed"], messages)
    return ChatRequest(tuple(messages), Sampling(**asked["decoding"]), seed=seed, schema=schema)


def in_scale(human: float, scale: Sequence[float]) -> float:
    """Return a grade of people on the scale that judges are asked for: 1 to 5 becomes 1 to 10, 0 to 10 stays."""
    low, high = scale
    return human if high == 10 else 1 + (human - low) * 9 / (high - low)


def question_request(
    judging: Recipe, template: Template, row: Question, shown: Sequence[str], served: bool, seed: Sequence[Any]
) -> ChatRequest:
    """Return the request that shows a judge a question and one answer to it, or two, in the words of `judge_messages`.

    judging: form, rubric ({name, dimensions}, of all questions), decoding. template: grade or compare. seed: what the
    request's seed depends on beside its messages: the job's, then whatever tells repeated requests apart.
    """
    rubric = judging["rubric"]
    texts = _texts("\n\n".join(filter(None, (row["title"], row["question"]))), shown)
    kind = None if rubric["name"] == DEFAULT else rubric["name"]
    messages = render(template, **_fields(judging["form"], rubric["dimensions"], kind, texts))
    criteria = [one["name"] for one in rubric["dimensions"]]
    schema = _reply_schema(criteria, len(shown), served) if judging["form"] == "json" else None
    drawn = derive_seed(seed[0], messages, *seed[1:])
    return ChatRequest(tuple(messages), Sampling(**judging["decoding"]), seed=drawn, schema=schema)
