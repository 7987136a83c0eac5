"""Stages of corpora."""

from functools import cache
from pathlib import Path

from moult.base.files import derive_seed, digest, read_json
from moult.base.stage import Ref, Stage
from moult.config.checks import endpoints_of
from moult.corpora import contrasts as pairing
from moult.corpora import generated
from moult.corpora import refined as refining
from moult.corpora.refined import check_rounds
from moult.data.prompts import load_template
from moult.inference.asking import author
from moult.inference.recipes import client, decoded, endpoint
from moult.stages.datasets import data_ref
from moult.stages.foreseen import row_digests
from moult.stages.models import weights_of


def corpus(cfg, name):
    """What is asked of whom, for guidelines and for distilled answers."""
    entry = cfg.find("corpora", name)
    return {
        "name": name,
        "splits": list(entry.splits),
        "endpoint": endpoint(cfg, entry.endpoint),
        "prompt": load_template(entry.prompt),
        "decoding": decoded(entry.decoding),
        "cut": entry.cut,
        "seed": derive_seed(cfg.seed, entry.kind, name),
        "version": generated.VERSION,
    }


def refined(cfg, name):
    """What is asked of whom, how it is judged, and how often. Of its round a corpus knows nothing."""
    entry = cfg.find("corpora", name)
    return {
        "name": name,
        "splits": list(entry.splits),
        "slice": list(entry.slice) if entry.slice else None,
        "endpoint": endpoint(cfg, entry.endpoint),
        "judge": endpoint(cfg, entry.judge),
        "prompt": load_template(entry.prompt),
        "revise_prompt": load_template(entry.revise_prompt),
        "judge_prompt": load_template(entry.judge_prompt),
        "decoding": decoded(entry.decoding),
        "judge_decoding": decoded(entry.judge_decoding),
        "max_iterations": entry.max_iterations,
        "cut": entry.cut,
        "may_be_empty": entry.round is not None,
        "seed": derive_seed(cfg.seed, "refined", name),
        "version": refining.VERSION,
    }


def contrasts(cfg, name):
    """What is asked twice of whom, how either answer is decoded, and which pairs are kept."""
    entry = cfg.find("corpora", name)
    chosen, gate = entry.chosen, entry.gate
    if chosen.method == "beam":
        costly = {"method": "beam", "beams": chosen.beams, "length_penalty": chosen.length_penalty}
    else:
        costly = {
            "method": "consistency",
            "samples": chosen.samples,
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "top_k": chosen.top_k,
        }
    return {
        "name": name,
        "splits": list(entry.splits),
        "endpoint": endpoint(cfg, entry.endpoint),
        "prompt": load_template(entry.prompt or cfg.corpus_dataset(name).template),
        "rejected": decoded(entry.decoding),
        "chosen": costly,
        "gate": {
            "min_characters": gate.min_characters,
            "max_repetition": gate.max_repetition,
            "max_length_ratio": gate.max_length_ratio,
            "max_similarity": gate.max_similarity,
        },
        "seed": derive_seed(cfg.seed, entry.kind, name),
        "version": pairing.VERSION,
    }


# ---------------------------------------------------------------- slices of rounds


@cache
def _digests(cfg, dataset, splits):
    """Return a digest for each row of a dataset's splits, None where they cannot be known before it is prepared."""
    found = row_digests(cfg, dataset)
    return found and [row for split in splits for row in found.get(split, [])]


def _rows(cfg, entry):
    """Return the digest of the rows of a corpus' slice, None where it has none or they cannot be known yet."""
    rows = _digests(cfg, entry.dataset, tuple(entry.splits)) if entry.slice and entry.dataset else None
    return rows and digest(rows[slice(*entry.slice)])


def refined_slice(cfg, name):
    """Return the recipe of a refined corpus, with the digest of its slice where it is known."""
    rows = _rows(cfg, cfg.find("corpora", name))
    return refined(cfg, name) | ({"rows": rows} if rows else {})


def _is_made_as_planned(cfg, entry):
    """Tell whether a slice is there, refined by the recipe of today out of the rows of today."""
    made = Path("results", cfg.name, Ref("corpora", entry.name).manifest)
    if not _rows(cfg, entry) or not made.exists():
        return False
    return digest(read_json(made)["recipe"]) == digest(refined_slice(cfg, entry.name))


def check_rounds_of(cfg) -> None:
    """Raise a UserError where a dataset has other rows than `rounds` counts with, as far as they are known."""
    for entry in cfg.rounds:
        if found := _digests(cfg, entry.dataset, ("train",)):
            check_rounds(cfg.find("corpora", f"{entry.name}-r1").round.model_dump(), len(found), entry.dataset)


# ---------------------------------------------------------------- stages


def served(cfg, endpoint_name: str) -> str | None:
    """Return the model of this build that an endpoint serves, None of a remote one."""
    return cfg.find("endpoints", endpoint_name).serve


def _asked(cfg, name):
    """The questions or the corpus that is asked about, and the model that answers, if it is ours."""
    entry = cfg.find("corpora", name)
    found = {"questions": Ref("datasets", entry.dataset)} if entry.dataset else {"asked": Ref("corpora", entry.asked)}
    model = served(cfg, entry.endpoint)
    return found | ({"served": Ref("models", model)} if model else {})


def _refined_from(cfg, name):
    """The questions, and the models that answer and judge, where they are ours."""
    entry = cfg.find("corpora", name)
    # The recipe has the digest of a slice's rows: what changes elsewhere in the dataset is no change here. Where the
    # recipe has changed, they may not be settled: behind a job that is to run, Snakemake looks at no params.
    form = "settled" if _is_made_as_planned(cfg, entry) else "artefact"
    found = {"questions": data_ref(cfg, entry.dataset or entry.corpus, form)}
    for part, asked in (("served", entry.endpoint), ("judge", entry.judge)):
        if model := served(cfg, asked):
            found |= weights_of(cfg, part, model, entry)
    return found


def _client(cfg, name):
    return client(cfg, cfg.find("corpora", name).endpoint)


def _refining_clients(cfg, name):
    """How both endpoints are dealt with, and of which round the corpus is."""
    entry = cfg.find("corpora", name)
    clients = {part: client(cfg, getattr(entry, part)) for part in ("endpoint", "judge")}
    return clients | {"round": entry.round.model_dump() if entry.round else None}


def _at_work(cfg, name):
    """The model that is in memory; of several that answer and judge, one at a time is: the largest."""
    asked = [served(cfg, one) for one in endpoints_of(cfg.find("corpora", name))]
    return max(filter(None, asked), key=lambda model: cfg.inherited(model, "parameters"), default=None)


def _load(cfg, name):
    entry = cfg.find("corpora", name)
    answer, answers, rows = entry.decoding.max_tokens, 1, 1
    if entry.kind == "refined":
        # What was said of an answer is in the prompt of the next.
        answer += entry.judge_decoding.max_tokens + answer
        answers = entry.max_iterations
    elif entry.kind == "contrasts":
        beam = entry.chosen.method == "beam"
        answers = 1 + (entry.chosen.beams if beam else entry.chosen.samples)
        rows = entry.chosen.beams if beam else 1
    return {"answer": answer, "answers": answers, "at_least": rows, "datasets": [cfg.corpus_dataset(name)]}


def _author_in_words(recipe, facts):
    by, decoding = author(recipe["endpoint"]), recipe["decoding"]
    limits = f"temperature {decoding['temperature']:g}, at most {decoding['max_tokens']} tokens"
    return f"{facts['rows']:,} rows by {by}", f"{facts['rows']:,} rows written by {by}, {limits}"


def _refining_in_words(recipe, facts):
    accepted = f"{facts['rows']:,} of {facts['rows_in']:,} rows by {author(recipe['endpoint'])}"
    often = f"at most {recipe['max_iterations']} answers each, {facts['revised']:,} accepted after revision"
    return accepted, f"{accepted}, accepted by {author(recipe['judge'])}; {often}"


def _pairs_in_words(recipe, facts):
    pairs, chosen = f"{facts['rows']:,} pairs by {author(recipe['endpoint'])}", recipe["chosen"]
    beam = chosen["method"] == "beam"
    of = f"the best beam of {chosen['beams']}" if beam else f"the closest sample of {chosen['samples']}"
    return pairs, f"{pairs}, chosen: {of}"


def _corpus_stage(rule, kind, doing, words, recipe=corpus, client=_client, inputs=_asked):
    """Return the stage that writes one kind of corpus."""
    return Stage(
        rule=rule,
        makes="corpora",
        doing=doing,
        wildcards=("corpus",),
        names=lambda cfg: [(one.name,) for one in cfg.corpora if one.kind == kind],
        recipe=recipe,
        client=client,
        inputs=inputs,
        model=_at_work,
        needs="inference",
        workload=_load,
        words=words,
    )


STAGES = (
    _corpus_stage("generate_guidelines", "guidelines", "writing the guidelines {corpus}", _author_in_words),
    _corpus_stage("distill_answers", "distilled", "distilling the answers {corpus}", _author_in_words),
    _corpus_stage(
        "refine_answers",
        "refined",
        "refining the answers {corpus}",
        _refining_in_words,
        recipe=refined_slice,
        client=_refining_clients,
        inputs=_refined_from,
    ),
    _corpus_stage(
        "contrast_answers",
        "contrasts",
        "contrasting answers for the pairs {corpus}",
        _pairs_in_words,
        recipe=contrasts,
    ),
)
