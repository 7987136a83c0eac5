"""Prompts are tried at planning: with the fields that their job will show them, and with the labels of their rows."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from moult.base.errors import UserError
from moult.base.rows import CorpusRow, Question, RefinedRow, Template
from moult.config.experiment import Config
from moult.data.prompts import label_messages, load_template, render, render_answer

# Seconds for one prompt; the shipped ones take a thousandth.
PATIENCE = 2
# Of questions, and of the rows of a corpus that is asked about.
QUESTION = dict.fromkeys(Question.__annotations__, "?") | {"guideline": ""}
WRITTEN = QUESTION | dict.fromkeys((*CorpusRow.__annotations__, *RefinedRow.__annotations__), "?")


def prompts(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each prompt that asks for what its rows do not have, or gives labels no answers of their
    own."""
    trained = {name for model in cfg.models for name in (model.training.data if model.training else ())}
    answered = {cfg.corpus_dataset(name).name if name in cfg.by_name["corpora"] else name for name in trained}
    for dataset in cfg.datasets:
        if not dataset.template:
            continue
        place = f"datasets {dataset.name!r}, prompt"
        if dataset.shape == "labelled":
            yield from _tried(place, dataset.template, lambda template, of=dataset: _labelled(template, of))
        elif dataset.shape == "questions" and dataset.name in answered:
            yield from _tried(place, dataset.template, _trained)
    for corpus in cfg.corpora:
        asked = WRITTEN if corpus.asked else QUESTION
        for field, more in corpus.shown.items():
            name = getattr(corpus, field) or cfg.corpus_dataset(corpus.name).template
            if name is None:
                continue  # a prompt needs no template
            fields = asked | dict.fromkeys(more, "?")
            yield from _tried(
                f"corpora {corpus.name!r}, {field}", name, lambda template, of=fields: _shown(template, of)
            )
    for suite in cfg.suites:
        for field, more in suite.settings.shown.items():
            fields = QUESTION | dict.fromkeys(more, "?")
            name = getattr(suite.settings, field)
            yield from _tried(f"suites {suite.name!r}, {field}", name, lambda template, of=fields: _shown(template, of))


def _tried(place, name, flaw_of):
    """Yield why a prompt cannot be used, if it cannot: what `flaw_of` says of its template."""
    try:
        with _no_longer_than(PATIENCE):
            flaw = flaw_of(load_template(name))
    except UserError as error:
        told = str(error).removeprefix("prompt template: ").rstrip(".")
        flaw = told if told.startswith("cannot be filled") else f"cannot be filled: {told}"
    except TimeoutError:
        flaw = f"is not filled after {PATIENCE} seconds; write it without such loops"
    if flaw:
        yield f"{place}: {name!r} {flaw}"


def _shown(template, fields):
    """Fill a template, so that what it lacks is raised."""
    render(template, **fields)


def _labelled(template: Template, dataset: Any) -> str | None:
    """Return what is wrong with the answers that a template makes of the labels of a dataset."""
    if "answer" not in template:
        return 'has no `answer:`, the text that a label is learnt and scored as; add `answer: "{{ label }}"`'
    row = {"text": "?", "media": []}
    answers = label_messages(template, row, dataset.label_set)[1]  # type: ignore[arg-type]  # what a prompt needs
    if "" in answers:
        return 'makes an empty `answer:` of a label; write `answer: "{{ label }}"`'
    if len(set(answers)) < len(answers):
        return "makes the same `answer:` of several labels; let it say {{ label }}"
    return None


def _trained(template: Template) -> str | None:
    fields = {"title": "?", "question": "?"}
    render(template, **fields)
    if "answer" not in template:
        return 'has no `answer:`, the text that is learnt; add `answer: "{{ answer }}"`'
    if render_answer(template, **fields, answer="one") == render_answer(template, **fields, answer="another"):
        return "makes the same `answer:` of every answer; let it say {{ answer }}"
    return None


@contextlib.contextmanager
def _no_longer_than(seconds):
    """Raise a TimeoutError after so many seconds; in a thread, which has no alarm, never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
