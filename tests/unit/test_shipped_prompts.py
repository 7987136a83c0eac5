"""Every shipped prompt is filled by the code that uses it, from the fields that this code gives it and no others."""

import itertools
import json

import pytest
from moult.corpora.judgements import unexplained
from moult.corpora.refined import refine_answers
from moult.data.prompts import answered_example, label_messages, load_template, render, template_names
from moult.data.rubrics import load_rubrics
from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
from moult.evaluation.head_to_head.kind import Shown
from moult.evaluation.head_to_head.public_files import Question
from moult.evaluation.judging import pair_request
from moult.inference.asking import Asker
from moult.inference.judge_replies import VERDICTS
from moult.inference.judge_requests import judge_messages
from moult.inference.requests import corpus_requests
from openai_server import OpenAIServer

# As `moult.data.questions.question_rows` returns it.
ROW = {"uid": "q:1", "dataset": "q", "split": "train", "field": "ml", "title": "A title", "question": "What is asked?"}
DECODING = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 50}
CLIENT = {"key": None, "concurrency": 1, "timeout": 5, "retries": 0, "price": None}
TEACHER = {"name": "teacher", "model": "big"}


def asked(template):
    """A corpus asks about a row, with and without a guideline."""
    recipe = {"prompt": template, "decoding": DECODING, "seed": 1}
    plain, guided = corpus_requests(recipe, [ROW, ROW | {"guideline": "Think first."}])
    return plain.messages, guided.messages


def guided(template):
    """A corpus asks about a row, and a guideline is shown."""
    plain, guided = asked(template)
    assert "Think first." in guided[-1]["content"]
    return plain, guided


def trained(template):
    """A question and its answer train a model; the same template asks it."""
    example = answered_example(ROW, template, "An answer.")
    assert "An answer." in example.answer
    return example.messages, *asked(template)


def labelled(template):
    """A labelled row is put to a model."""
    label_set = {"task": "mood", "task_words": "mood of the speaker", "labels": ["good", "bad"]}
    messages, answers = label_messages(template, {"text": ROW["question"]}, label_set)
    assert len(set(answers)) == 2 and "good" in answers[0] and "bad" in answers[1]
    return (messages,)


def compared(template):
    """A judge compares two answers."""
    recipe = {"prompt": template, "decoding": DECODING, "criteria": ["tone"], "endpoint": TEACHER}
    messages = pair_request(recipe | {"questions": {"seed": 1}}, ROW, ("One.", "Another.")).messages
    assert all(text in messages[-1]["content"] for text in ("One.", "Another.", "tone"))
    return (messages,)


def explained(template):
    """An endpoint is told what people said, of an answer and of two, with and without a reference."""
    recipe = {"explain": template, "rubrics": load_rubrics(), "rubric": "default", "decoding": DECODING, "seed": 1}
    row = ROW | {"category": "math", "reference": "The right one.", "feedback": None}
    items = [row | {"mode": "grade", "answer": "One.", "human": 7.5, "scale": [0, 10]}]
    items += [row | {"mode": "compare", "answer_1": "One.", "answer_2": "Two.", "human": one} for one in ("A", "Tie")]
    for references in (True, False):
        for _, request in unexplained(recipe | {"references": references, "endpoint": TEACHER}, items):
            yield request.messages


def judging_items(template):
    """A judge grades an answer or compares two, in each form of reply, with and without a reference."""
    recipe = {"prompts": {"grade": template, "compare": template}, "rubrics": load_rubrics(), "rubric": "default"}
    shown = ["One.", "Another."] if "answer_2" in template["user"] else ["One."]
    row = ROW | {"category": "math", "reference": "The right one."}
    for form, references in itertools.product(("json", "line", "bracket"), (True, False)):
        yield judge_messages(recipe | {"form": form, "references": references}, row, shown)


def refined(tmp_path, **prompts):
    """Return what the student and what the judge is asked about a row whose first answer is refused."""
    verdicts, answers = iter(["incorrect", "correct"]), iter(["An answer.", "A better answer."])
    asked = {"student": [], "judge": []}

    def reply(body):
        asked["judge" if "response_format" in body else "student"].append(body["messages"])
        if "response_format" not in body:
            return next(answers)
        return json.dumps({"feedback": "Too short.", "hints": "Say why.", "verdict": next(verdicts)})

    with OpenAIServer(reply) as server:
        endpoint = TEACHER | {"url": server.url}
        recipe = {f"{name}_prompt": load_template(f"meteor/{name}") for name in ("revise", "judge")}
        recipe |= {"prompt": load_template("meteor/answer"), "decoding": DECODING, "judge_decoding": DECODING}
        recipe |= {"endpoint": endpoint, "judge": endpoint, "max_iterations": 2, "cut": "reject", "seed": 1} | prompts
        with Asker(endpoint, tmp_path / "j.sqlite", CLIENT) as asker:
            refine_answers(recipe, [ROW], asker, Asker(endpoint, asker.pool, CLIENT))
    assert len(asked["student"]) == len(asked["judge"]) == 2
    return asked


def revised(template, tmp_path):
    """An answer that was refused is revised."""
    _, messages = refined(tmp_path, revise_prompt=template)["student"]
    assert all(text in messages[-1]["content"] for text in ("An answer.", "Too short.", "Say why."))
    return (messages,)


def judged(template, tmp_path):
    """A judge accepts an answer or not."""
    messages, _ = refined(tmp_path, judge_prompt=template)["judge"]
    assert "An answer." in messages[-1]["content"]
    return (messages,)


def graded_or_set_against(kind):
    """The judge of a head-to-head suite is shown answers: two, or those of the first turn and of both."""

    def use(template):
        question = Question("1", (ROW["question"], f"And then? {ROW['question']}"))
        recipe = {"prompt": template, "decoding": DECODING, "seed": 1, "endpoint": TEACHER}
        shown = [Shown(question, "original", ("One.", "Another."))]
        if kind == "mt":
            shown += [Shown(question, "turn_2", ("One.", "Another."), ("The right one.", "Its like."))]
            shown += [Shown(question, "turn_1", ("One.",)), Shown(question, "turn_1", ("One.",), ("The right one.",))]
        for one in shown:
            messages = BENCHMARKS[kind].request(recipe, one).messages
            assert all(text in messages[-1]["content"] for text in (*one.answers, *one.references))
            assert ("second question" in messages[-1]["content"]) == (kind == "mt" and len(one.answers) == 2)
            yield messages

    return use


# What uses the templates whose names begin so.
USES = {
    **{f"head_to_head/{kind}": graded_or_set_against(kind) for kind in BENCHMARKS},
    "judge/compare": judging_items,
    "judge/explain": explained,
    "judge/grade": judging_items,
    "judge/pair": compared,
    "meteor/answer": trained,
    "meteor/distill": guided,
    "meteor/guideline": asked,
    "meteor/judge": judged,
    "meteor/revise": revised,
    "mmla/": labelled,
}


# What follows a reply without a verdict has nothing of a row.
AGAIN = "head_to_head/arena_again"


@pytest.mark.parametrize("name", [name for name in template_names() if name != AGAIN])
def test_a_template_renders_from_what_its_use_gives_it(name, tmp_path):
    (use,) = (use for beginning, use in USES.items() if name.startswith(beginning))
    more = (tmp_path,) if use in (revised, judged) else ()
    for messages in use(load_template(name), *more):
        assert messages[-1]["role"] == "user" and ROW["question"] in messages[-1]["content"]
        assert [message["role"] for message in messages[:-1]] in ([], ["system"])
        assert "{{" not in str(messages)


def test_a_judge_without_a_verdict_is_told_all_five():
    (message,) = render(load_template(AGAIN))
    assert message["role"] == "user" and all(f"[[{verdict}]]" in message["content"] for verdict in VERDICTS)
