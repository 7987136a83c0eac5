"""What head-to-head suites of a config cannot do, and what is wrong with the files that they name."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moult.base.errors import UserError, nearest
from moult.base.stage import Experiment
from moult.evaluation.head_to_head import battling
from moult.evaluation.head_to_head.kind import Benchmark
from moult.evaluation.head_to_head.measured import KEY, entries, settings_of
from moult.evaluation.head_to_head.public_files import read_answers, read_questions
from moult.evaluation.head_to_head.published_judgements import read_judgements


def checks(benchmark: Benchmark, cfg: Experiment) -> Iterable[str]:
    """Return a sentence for each thing that a suite of this kind cannot do."""
    return _told(benchmark, cfg, _of_suite)


def flaws(benchmark: Benchmark, cfg: Experiment) -> Iterable[str]:
    """Return a sentence for each file of a suite of this kind that is none of its, as far as files are there."""
    return _told(benchmark, cfg, _of_files)


def _told(benchmark, cfg, sentences):
    """Return what `sentences` says of each suite of this kind and its evaluations, each once."""
    found = {}
    for entry in cfg.under(KEY):
        settings = settings_of(cfg, entry.suite)
        if settings.kind == benchmark.name:
            found |= dict.fromkeys(sentences(cfg, benchmark, settings, entry, f"suites {entry.suite!r}"))
    return found


def _of_suite(cfg, benchmark, settings, entry, place):
    asking = _asking(entry)
    for field in ("questions", "endpoint"):
        if asking and not getattr(settings, field):
            yield f"{place}, {field}: is needed to judge {asking[0]!r}; published judgements alone need none"
    baseline = getattr(settings, "baseline", None)
    if baseline and baseline.model and baseline.model not in cfg.names("models"):
        yield f"{place}, baseline: {baseline.model!r} is not there{nearest(baseline.model, cfg.names('models'))}"
    models = set(cfg.names("models"))
    for one in entry.files:
        if one.name in models:
            yield f"evaluations {entry.suite!r}, files {one.name!r}: a model has this name; give the files another"
    names = [name for suite, name in entries(cfg) if suite == entry.suite]
    for name in settings.published:
        if name not in names:
            yield f"{place}, published: {name!r} is not measured by this suite{nearest(name, names)}"


def _asking(entry):
    """Return the names that a judge is asked about."""
    return [*entry.models, *(one.name for one in entry.files if one.answers)]


def _of_files(cfg: Experiment, benchmark: Benchmark, settings: Any, entry: Any, place: str) -> Iterator[str]:
    """Read what a suite names, as far as it is there: a row that is wrong is known before anything is built."""

    def there(path):
        return path is not None and Path(path).is_file()

    if settings.questions and not there(settings.questions):
        return
    baseline, questions = getattr(settings, "baseline", None), None
    try:
        questions = read_questions(settings.questions, benchmark.turns) if settings.questions else None
        if questions is not None:
            if _asking(entry) and benchmark.pairs and baseline is None and not battling.baselines_of(questions):
                yield f"{place}, baseline: the questions come without answers to compare with; name one"
            for path, what in (
                (getattr(settings, "references", None), "reference"),
                (baseline and baseline.answers, "answer"),
                *((one.answers, "answer") for one in entry.files),
            ):
                if there(path):
                    read_answers(path, questions, what) if what == "reference" else battling.answers_in(path, questions)
        for one in entry.files:
            if there(one.judgements):
                parts = None if questions is None else {row.uid: row.part for row in questions}
                read_judgements(one.judgements, benchmark, one.name, one.of, parts)
    except UserError as error:
        yield f"{place}: {str(error).rstrip('.')}"
