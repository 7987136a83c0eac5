"""Corpora: text that a model or an endpoint generates, row by row, rejects with reasons."""

import logging
from pathlib import Path

from moult.batch_api import BatchEndpoint
from moult.chat import ChatRequest, Sampling, ask_all
from moult.endpoints import RemoteEndpoint
from moult.errors import UserError
from moult.files import derive_seed, read_json, read_jsonl, write_json, write_jsonl
from moult.journal import Journal
from moult.prompts import render
from moult.spending import Budget, usage_of
from moult.tables import read_rows

# Raise when the same recipe would now ask something else.
VERSION = 1
logger = logging.getLogger(__name__)


def served_identity(model_manifest, compute, version):
    """Return who answers when a model of this build does: its weights' hash, engine and dtype; not its name."""
    return {
        "content": read_json(model_manifest)["content"],
        "engine": compute["engine"],
        "dtype": compute["dtype"],
        "version": version,
    }


def identity_of(endpoint, model_manifest):
    """Return who answers, as plain JSON: a remote model by its address, a model of this build by its weights."""
    if "url" in endpoint:
        return {"url": endpoint["url"], "model": endpoint["model"]}
    from moult import generate

    return served_identity(model_manifest, endpoint["compute"], generate.VERSION)


def open_endpoint(endpoint, client, model, model_manifest, journal):
    """Return (identity, opener) of an endpoint's recipe: `opener()` loads the model or opens the client.

    journal: the open Journal; its name is what the job's spending is counted under, and it knows of batches under way.
    """
    identity = identity_of(endpoint, model_manifest)
    if "url" in endpoint:
        settings = endpoint | client
        budget = Budget.of(client, journal.path)
        if client.get("mode") == "batch":
            return identity, lambda: BatchEndpoint(settings, budget, journal, identity)
        if underway := journal.connection.execute("SELECT COUNT(*) FROM in_batch").fetchone()[0]:
            logger.warning("%d requests are in batches: in mode chat they are asked, and paid, once more", underway)
        return identity, lambda: RemoteEndpoint(settings, budget)
    from moult import generate

    return identity, lambda: generate.load_engine(Path(model), **endpoint["compute"])


def question_rows(folder, splits):
    """Return the rows of a prepared stackoverflow dataset as what a question prompt needs."""
    return [
        {
            "uid": row["uid"],
            "dataset": row["dataset"],
            "split": row["split"],
            "field": row["meta"]["field"],
            "title": row["title"],
            "question": row["text"],
        }
        for split in splits
        for row in read_rows(folder, split)
    ]


def asked_rows(inputs, splits):
    """Return the rows that a corpus asks about, by its job's inputs: those of another corpus, or a dataset's."""
    if "asked" in inputs.keys():
        return [row for row in read_jsonl(inputs.asked) if row["split"] in splits]
    return question_rows(inputs.questions, splits)


def make_corpus(running, rows, field, inputs, outputs):
    """Generate a corpus and write its three files, as a job with its inputs and outputs; return the counts."""
    result = generate_corpus(
        running.recipe,
        rows,
        field,
        client=running.client,
        journal=running.journal,
        endpoint_model=inputs.get("served"),
        endpoint_manifest=inputs.get("served_manifest"),
    )
    return write_corpus(outputs.corpus, outputs.rejects, outputs.usage, result)


def corpus_requests(recipe, rows):
    """Return what a corpus asks, a request per row, each with a seed of its own."""
    sampling, requests = Sampling(**recipe["decoding"]), []
    for row in rows:
        messages = tuple(render(recipe["prompt"], **({"guideline": ""} | row)))
        requests.append(ChatRequest(messages, sampling, seed=derive_seed(recipe["seed"], list(messages))))
    return requests


def generate_corpus(recipe, rows, field, *, client=None, journal, endpoint_model=None, endpoint_manifest=None):
    """Ask for one text per row; return (rows with `field`, rejects, usage).

    recipe: prompt (template), decoding, endpoint, seed, cut ("keep" or "reject" what stopped for length), version.
    client: how a remote endpoint is dealt with (see `recipes.client`).
    A row's seed comes from its own request, so that neither order nor neighbours change its answer.
    """
    requests = corpus_requests(recipe, rows)
    values = ask(recipe["endpoint"], requests, client, journal, endpoint_model, endpoint_manifest)
    kept, rejects = [], []
    for row, value in zip(rows, values, strict=True):
        reason = flaw_of(value, recipe["cut"])
        if reason:
            rejects.append({"uid": row["uid"], "reason": reason, "text": value["text"]})
        else:
            kept.append(row | {field: value["text"], f"{field}_by": author(recipe["endpoint"])})
    logger.info("%d rows in, %d out, %d rejected", len(rows), len(kept), len(rejects))
    return kept, rejects, usage_of(values, recipe["endpoint"] | (client or {}))


def ask(endpoint, requests, client, journal, model=None, model_manifest=None):
    """Return a stored answer per request of an endpoint's recipe; what the journal has is not asked again."""
    if not requests:
        raise UserError("the corpus has no rows to ask about: the stage before it rejected all of them.")
    with Journal(journal) as answers:
        identity, opener = open_endpoint(endpoint, client, model, model_manifest, answers)
        return ask_all(requests, identity=identity, open_answerer=opener, journal=answers)


def author(endpoint):
    """Return the name of the model that an endpoint's recipe asks."""
    return endpoint.get("model") or endpoint["serve"]


def flaw_of(value, cut):
    """Return why a stored answer is none, or None; one that reached max_tokens where `cut` is "reject"."""
    if value["finish_reason"] == "error":
        return f"error: {value['error']}"
    if not value["text"]:
        return "empty answer"
    if value["finish_reason"] == "length" and cut == "reject":
        return "cut: reached max_tokens"
    return None


def write_corpus(corpus, rejects, usage, result):
    """Write the three files of a corpus; `result` is what `generate_corpus` returned. Return the counts."""
    kept, rejected, totals = result
    if not kept:
        raise UserError(f"{corpus}: every row was rejected, the first for {rejected[0]['reason']!r}.")
    write_jsonl(rejects, rejected)
    write_json(usage, totals)
    write_jsonl(corpus, kept)
    return {"rows": len(kept), "rejects": len(rejected)}
