"""Stages of corpora: one for each rule that writes some, by what its kinds say of themselves."""

from functools import cache
from pathlib import Path

from moult.base.files import digest, read_json
from moult.base.stage import Ref, Stage, none
from moult.config.experiment import Config
from moult.corpora.kinds import KINDS
from moult.corpora.refined import check_rounds
from moult.inference.plans import Asking
from moult.stages.datasets import data_ref
from moult.stages.foreseen import row_digests
from moult.stages.models import weights_of


@cache
def _digests(cfg, dataset, splits):
    """Return a digest for each row of a dataset's splits, None where they cannot be known before it is prepared."""
    found = row_digests(cfg, dataset)
    return found and [row for split in splits for row in found.get(split, [])]


def _rows(cfg, entry):
    """Return the digest of the rows of a corpus' slice, None where it has none or they cannot be known yet."""
    # Not every kind can be made of a slice.
    part = getattr(entry, "slice", None)
    rows = _digests(cfg, entry.dataset, tuple(entry.splits)) if part and entry.dataset else None
    return rows and digest(rows[slice(*part)])


def _recipe(cfg, name):
    """What the kind says, and the digest of the rows where only a slice of a dataset is asked about."""
    entry = cfg.find("corpora", name)
    rows = _rows(cfg, entry)
    return entry.recipe(cfg) | ({"rows": rows} if rows else {})


def _is_made_as_planned(cfg, entry):
    """Tell whether a slice is there, made by the recipe of today out of the rows of today."""
    made = Path("results", cfg.name, Ref("corpora", entry.name).manifest)
    if not _rows(cfg, entry) or not made.exists():
        return False
    return digest(read_json(made)["recipe"]) == digest(_recipe(cfg, entry.name))


def check_rounds_of(cfg: Config) -> None:
    """Raise a UserError where a dataset has other rows than `rounds` counts with, as far as they are known."""
    for entry in cfg.rounds:
        if found := _digests(cfg, entry.dataset, ("train",)):
            check_rounds(cfg.find("corpora", f"{entry.name}-r1").round.model_dump(), len(found), entry.dataset)


def served(cfg: Config, endpoint: str) -> str | None:
    """Return the model of this build that an endpoint serves, None of a remote one."""
    return cfg.find("endpoints", endpoint).serve


def _inputs(cfg, name):
    """The questions or the corpus that is asked about, and the models that answer, where they are ours."""
    entry = cfg.find("corpora", name)
    # The recipe has the digest of a slice's rows: what changes elsewhere in the dataset is no change here. Where the
    # recipe has changed, they may not be settled: behind a job that is to run, Snakemake looks at no params.
    form = "settled" if _is_made_as_planned(cfg, entry) else "artefact"
    found = {"questions": data_ref(cfg, entry.dataset, form)} if entry.dataset else {}
    for key, names in entry.reads.items():
        several = [data_ref(cfg, one, form) for one in ([names] if isinstance(names, str) else names)]
        found[key] = several[0] if isinstance(names, str) else several
    for field, model in entry.models.items():
        found |= weights_of(cfg, field, model, entry)
    for field, asked in entry.endpoints.items():
        if model := served(cfg, asked):
            found |= weights_of(cfg, "served" if field == "endpoint" else field, model, entry)
    return found


def _at_work(cfg, name):
    """The model that is in memory; of several that answer and judge, one at a time is: the largest."""
    entry = cfg.find("corpora", name)
    asked = [*(served(cfg, one) for one in entry.endpoints.values()), entry.models.get("model")]
    return max(filter(None, asked), key=lambda model: cfg.inherited(model, "parameters"), default=None)


def _load(cfg, name):
    entry = cfg.find("corpora", name)
    load = {"answer": entry.answer_tokens, "answers": entry.most_answers, "at_least": entry.most_beams}
    if entry.takes == "samples":
        # What is scored is in memory, too; a reward model writes nothing about it.
        source = cfg.find("corpora", entry.asked)
        load |= {"answer": entry.answer_tokens + source.answer_tokens}
        load |= {"answers": source.most_answers} if entry.endpoints else {}
    return load | {"datasets": [cfg.corpus_dataset(name)]}


def _asks(cfg, known, name):
    """What a corpus asks. Where prompts will hold earlier answers, the questions alone are known."""
    entry = cfg.find("corpora", name)
    if not entry.endpoints:
        return None
    recipe = entry.recipe(cfg)
    if entry.takes == "samples":
        return _asks_about_samples(cfg, known, entry, recipe)
    if any(plan.gains for plan in entry.plans(recipe, []).values()):
        sure, guessed, extra = known.questions(cfg.corpus_dataset(name).name, entry.splits), [], known.assumed
    else:
        sure, guessed, extra = _rows_to_ask(cfg, known, entry)
    if sure is None:
        return Asking(entry.endpoints, recipe, None)
    plans = entry.plans(recipe, sure)
    requests = tuple(entry.plans(recipe, guessed)["endpoint"].requests) if guessed else ()
    return Asking(entry.endpoints, recipe, plans, requests, extra)


def _asks_about_samples(cfg, known, entry, recipe):
    """What a corpus asks about samples; of those that are not there yet, how many and how long they will be at most."""
    source = cfg.find("corpora", entry.asked)
    if (written := known.rows(Ref("corpora", entry.asked))) is not None:
        rows = [row for row in written if row["split"] in entry.splits]
        return Asking(entry.endpoints, recipe, entry.plans(recipe, rows))
    rows = known.questions(source.dataset, [split for split in source.splits if split in entry.splits])
    if rows is None:
        return Asking(entry.endpoints, recipe, None)
    known.note(f"the samples of {source.name} are not there yet: counted with {source.answer_tokens:,} tokens at most")
    low, high = known.assumed
    guessed = source.awaited(source.recipe(cfg), rows)
    requests = tuple(entry.plans(recipe, guessed)["endpoint"].requests)
    return Asking(entry.endpoints, recipe, entry.plans(recipe, []), requests, (low, high + source.answer_tokens))


def _rows_to_ask(cfg, known, entry):
    """Return (rows as they will be asked, None where none are known; rows that lack something yet; how many tokens
    that is per row, at least and at most)."""
    if not entry.asked:
        rows = known.questions(entry.dataset, entry.splits)
        return (rows, [], (0, 0)) if rows is None or known.assumed == (0, 0) else ([], rows, known.assumed)
    source, reference = cfg.find("corpora", entry.asked), Ref("corpora", entry.asked)
    asked, guessed, (low, high) = _rows_to_ask(cfg, known, source)
    written = known.rows(reference) or []
    if asked is None:
        # Its dataset is not at hand, but its rows are.
        return ([row for row in written if row["split"] in entry.splits], [], (0, 0)) if written else (None, [], (0, 0))
    # A row that its dataset has as it was asked about is as it will be; one that was rejected will not be asked about.
    fields = asked[0].keys() - {"uid", "split"} if asked else set()
    found = {_words(row, fields): row for row in written}
    rejected = known.rejected(reference)
    sure, lacking = [], [*guessed]
    for row in asked:
        if (whole := found.get(_words(row, fields))) is not None:
            sure.append(whole | row)
        elif row["uid"] not in rejected:
            lacking.append(row)
    sure, lacking = ([row for row in rows if row["split"] in entry.splits] for rows in (sure, lacking))
    if lacking and source.writes == "guidelines":
        high += source.decoding.max_tokens
        known.note(
            f"{len(lacking)} guidelines of {source.name} are not written yet: counted with {low} to {high} tokens a row"
        )
    elif lacking:
        known.note(f"{len(lacking)} rows of the corpus {source.name} are not written yet")
    return sure, lacking, (low, high)


def _words(row, fields):
    """Return a digest of what makes a row's prompt, wherever the row stands."""
    return digest({name: row.get(name) for name in fields})


def _stage(kind):
    """Return the stage that writes one kind of corpus."""
    return Stage(
        rule=kind.rule,
        makes="corpora",
        doing=kind.doing,
        run=kind.run,
        wildcards=("corpus",),
        names=lambda cfg: [(entry.name,) for entry in cfg.corpora if isinstance(entry, kind)],
        recipe=_recipe,
        client=lambda cfg, name: cfg.find("corpora", name).client(cfg),
        inputs=_inputs,
        model=_at_work if kind.works_with_models else none,
        needs="inference",
        workload=_load,
        words=kind.words,
        asks=_asks,
    )


STAGES = tuple(map(_stage, KINDS))
