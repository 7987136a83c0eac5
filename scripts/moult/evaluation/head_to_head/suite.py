"""The head-to-head suites of the config: their stages, and a SuiteKind for each kind of benchmark."""

from functools import partial
from typing import Any

from pydantic import Field

from moult.base.errors import UserError
from moult.base.files import derive_seed
from moult.base.stage import Local, Ref, Stage
from moult.data.prompts import load_template
from moult.evaluation.head_to_head import battling, scoring
from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
from moult.evaluation.head_to_head.checks import checks, flaws
from moult.evaluation.head_to_head.kind import Benchmark, Filed
from moult.evaluation.head_to_head.length_control import table_digest
from moult.evaluation.head_to_head.measured import (
    KEY,
    answering,
    baseline_of,
    entries,
    is_judged,
    known_both_ways,
    settings_of,
)
from moult.evaluation.head_to_head.tables import METHODS, panels, samples, suite_tables
from moult.evaluation.kinds import Baseline, SuiteKind, Unread
from moult.inference.plans import Asking, Plan
from moult.inference.recipes import client_of, compute_recipe, decoding_recipe, endpoint_recipe

# Tokens of a question that a judge is shown beside the answers.
QUESTION_TOKENS = 1024


# ---------------------------------------------------------------- the stages


def _answer_turns(cfg, suite, model):
    settings = settings_of(cfg, suite)
    return {
        "suite": suite,
        "model": model,
        "kind": settings.kind,
        "decoding": decoding_recipe(settings.decoding),
        "temperatures": getattr(settings, "temperatures", {}),
        "compute": compute_recipe(cfg, model),
        "limit": cfg.limit,
        "seed": derive_seed(cfg.seed, KEY, suite),
        "version": battling.VERSION,
    }


def _judge_battles(cfg, suite, measured):
    settings, entry = settings_of(cfg, suite), entries(cfg)[suite, measured]
    recipe = {"suite": suite, "model": measured, "kind": settings.kind, "limit": cfg.limit, "endpoint": {}}
    recipe |= {"of": None if isinstance(entry, str) else entry.of, "version": battling.VERSION}
    recipe["reads"] = ["questions"] if settings.questions else []
    if is_judged(cfg, suite, measured):
        baseline = baseline_of(cfg, suite)
        recipe |= {
            "endpoint": endpoint_recipe(cfg, settings.endpoint),
            "baseline": baseline.name if baseline else "the baseline",
            "prompt": load_template(settings.prompt),
            "decoding": decoding_recipe(settings.judging),
            "seed": derive_seed(cfg.seed, "judge_battles", suite),
        } | BENCHMARKS[settings.kind].recipe(settings)
        recipe["reads"] += ["theirs"] if baseline else []
        recipe["reads"] += ["references"] if getattr(settings, "references", None) else []
    return recipe


def _score_battles(cfg, suite, measured):
    settings = settings_of(cfg, suite)
    recipe = {"suite": suite, "model": measured, "kind": settings.kind, "limit": cfg.limit}
    recipe |= {"published": settings.published.get(measured), "version": scoring.VERSION}
    recipe |= {"difficulties": table_digest()} if settings.kind == "alpaca" else {}
    return recipe | {"seed": derive_seed(cfg.seed, "score_battles", suite)}


def _questions(settings):
    return _local(settings, "questions", settings.questions)


def _local(settings, name, path):
    """Return a file of a suite as an input; nothing where there is none, or it is still to be put there by hand."""
    return {name: Local(path)} if path and path not in settings.awaited else {}


def _answers(cfg, suite, entry):
    """Return where the answers of a model, or of a Filed, stand."""
    if isinstance(entry, str):
        return Ref("turns", f"{suite}/{entry}")
    return Local(entry.answers)


def _judge_inputs(cfg, suite, measured):
    settings, entry, baseline = settings_of(cfg, suite), entries(cfg)[suite, measured], baseline_of(cfg, suite)
    found: dict[str, Any] = _questions(settings)
    if not isinstance(entry, str) and entry.judgements:
        found["judgements"] = Local(entry.judgements)
    if is_judged(cfg, suite, measured):
        found["ours"] = _answers(cfg, suite, entry)
        if baseline and baseline.model:
            found["theirs"] = _answers(cfg, suite, baseline.model)
        elif baseline:
            found |= _local(settings, "theirs", baseline.answers)
        found |= _local(settings, "references", getattr(settings, "references", None))
        if served := _judge(cfg, suite, measured):
            found["served"] = Ref("models", served)
    return found


def _judge(cfg, suite, measured):
    """Return the model of this build that judges, None where nobody is asked or the judge is remote."""
    if not is_judged(cfg, suite, measured):
        return None
    return cfg.find("endpoints", settings_of(cfg, suite).endpoint).serve


def _client(cfg, suite, measured):
    return client_of(cfg, settings_of(cfg, suite).endpoint) if is_judged(cfg, suite, measured) else None


def _answering_load(cfg, suite, _):
    settings = settings_of(cfg, suite)
    return {"answer": BENCHMARKS[settings.kind].turns * settings.decoding.max_tokens, "datasets": []}


def _judging_load(cfg, suite, _):
    """A judge reads two answers."""
    settings = settings_of(cfg, suite)
    return {"answer": QUESTION_TOKENS + 2 * settings.decoding.max_tokens + settings.judging.max_tokens, "datasets": []}


def _asks(cfg, known, suite, measured):
    """What a judge is asked; answers that are not written yet are counted with 0 to their max_tokens."""
    if not is_judged(cfg, suite, measured):
        return None
    settings, recipe = settings_of(cfg, suite), _judge_battles(cfg, suite, measured)
    benchmark, endpoints = BENCHMARKS[settings.kind], {"endpoint": settings.endpoint}
    try:
        questions = battling.questions_of(recipe, settings.questions)
        inputs = _judge_inputs(cfg, suite, measured)
        sides, lacking = [], set()
        for place in ("ours", "theirs"):
            if place not in inputs:
                sides.append(battling.baselines_of(questions))
            elif isinstance(inputs[place], Local):
                sides.append(battling.answers_in(inputs[place].path, questions))
            else:
                found = {row["uid"]: (tuple(row["turns"]), row["reason"]) for row in known.rows(inputs[place]) or ()}
                missing = [one for one in questions if one.uid not in found]
                lacking |= {one.uid for one in missing}
                sides.append(found | {one.uid: (("",) * len(one.turns), None) for one in missing})
    except UserError as error:
        known.note(str(error))
        return Asking(endpoints, recipe, None)
    shown = battling.planned(recipe, questions, sides[0], sides[1], {})[0]
    if lacking:
        known.note(f"{len(lacking)} answers are not written yet: counted with 0 to their max_tokens a request")
    sure = [benchmark.request(recipe, one) for one in shown if one.question.uid not in lacking]
    guessed = tuple(benchmark.request(recipe, one) for one in shown if one.question.uid in lacking)
    plan = Plan(sure, settings.judging.max_tokens)
    return Asking(endpoints, recipe, {"endpoint": plan}, guessed, (0, 2 * settings.decoding.max_tokens))


def _battles_in_words(recipe, facts):
    status = ", ".join(f"{count:,} {status}" for status, count in facts["status"].items())
    judges = ", ".join(f"{judge} ({source})" for source, judge in facts["judges"])
    return "", f"{recipe['model']} judged by {judges}: {status}"


STAGES = (
    Stage(
        rule="answer_turns",
        makes="turns",
        doing="answering the questions of {suite} with {model}",
        run="moult.evaluation.head_to_head.battling:run_answers",
        wildcards=("suite", "model"),
        names=answering,
        recipe=_answer_turns,
        inputs=lambda cfg, suite, model: {"model": Ref("models", model)} | _questions(settings_of(cfg, suite)),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_answering_load,
        words=lambda recipe, facts: ("", f"{facts['rows']:,} questions answered by {recipe['model']}"),
    ),
    Stage(
        rule="judge_battles",
        makes="battles",
        doing="judging the answers of {measured} to {suite}",
        run="moult.evaluation.head_to_head.battling:run_battles",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(entries(cfg)),
        recipe=_judge_battles,
        client=_client,
        inputs=_judge_inputs,
        model=_judge,
        needs="inference",
        workload=_judging_load,
        words=_battles_in_words,
        asks=_asks,
    ),
    Stage(
        rule="score_battles",
        makes="scores",
        doing="scoring the battles of {measured} under {suite}",
        run="moult.evaluation.head_to_head.scoring:run",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(entries(cfg)),
        recipe=_score_battles,
        inputs=lambda cfg, suite, measured: {
            "battles": Ref("battles", f"{suite}/{measured}"),
            "known": [Ref("battles", f"{suite}/{name}") for name in known_both_ways(cfg, suite, measured)],
        },
        words=lambda *_: ("", "scores of those battles, with intervals"),
    ),
)


# ---------------------------------------------------------------- the kinds


def _uses(benchmark, cfg):
    """Return (models, name) of the models that answer as baselines."""
    found = []
    for entry in cfg.under(KEY):
        settings, baseline = settings_of(cfg, entry.suite), baseline_of(cfg, entry.suite)
        if settings.kind == benchmark.name and baseline and baseline.model in cfg.names("models"):
            found.append(("models", baseline.model))
    return found


def _subjects(one):
    answered = f"turns/{one['recipe']['suite']}/{one['recipe']['model']}"
    models = [one["recipe"]["model"]] if any(parent.endswith(answered) for parent in one["parents"]) else []
    served = one["recipe"]["endpoint"].get("serve")
    return [f"models/{name}" for name in [*models, *([served] if served else [])]]


def _summary(battles):
    judges = dict.fromkeys(judge for one in battles for _, judge in one["facts"]["judges"])
    told = f"judged by {', '.join(judges)}"
    return told, f"{battles[0]['recipe']['kind']}, {told}"


def _suite_kind(benchmark: Benchmark) -> SuiteKind:
    kind = SuiteKind(
        key=KEY,
        fields=benchmark.fields,
        title="head-to-head",
        shape="questions",
        carved=(),
        measures=("models", "files"),
        refusal="a head-to-head suite measures `models`, and `files` of others",
        own_fields={
            "files": (
                list[Filed],
                Field([], description="Models of which a head-to-head suite has files: answers, judgements or both."),
            )
        },
        uses=partial(_uses, benchmark),
        published=(),
        methods={f"{benchmark.name}{ending}": words for ending, words in METHODS.items()},
        headline=benchmark.headline,
        baseline=Baseline("baseline", value=0.5) if benchmark.pairs else None,
        differences=partial(scoring.differences, benchmark.name),
        leads=True,
        measurement="battles",
        stages=STAGES,
        subjects=_subjects,
        summary=_summary,
        tables=suite_tables,
        section=(f"head-to-head-{benchmark.name}", f"Head to head: {benchmark.name}"),
        template="head_to_head.html.j2",
        metrics=benchmark.metrics,
        unread=Unread(
            "Judgements that say nothing",
            "nothing could be read",
            {"unknown_rate": "no verdict", "error_rate": "no reply", "unanswered_rate": "no answer to judge"},
        ),
        rejecting=("turns", "battles"),
        paid={"battles": "judging head to head"},
        checks=partial(checks, benchmark),
        flaws=partial(flaws, benchmark),
        panels=lambda rows: panels(kind, rows),
        samples=samples,
    )
    return kind


HEAD_TO_HEAD = tuple(map(_suite_kind, BENCHMARKS.values()))
