"""Corpora: text that a model or an endpoint generates, row by row, rejects with reasons."""

import logging

from moult.base.errors import UserError
from moult.base.files import write_json, write_jsonl
from moult.inference.asking import ask, author, flaw_of
from moult.inference.requests import corpus_requests
from moult.inference.spending import usage_of

# Raise when the same recipe would now ask something else.
VERSION = 1
logger = logging.getLogger(__name__)


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


def write_corpus(corpus, rejects, usage, result):
    """Write the three files of a corpus; `result` is what `generate_corpus` returned. Return the counts."""
    kept, rejected, totals = result
    if not kept:
        raise UserError(f"{corpus}: every row was rejected, the first for {rejected[0]['reason']!r}.")
    write_jsonl(rejects, rejected)
    write_json(usage, totals)
    write_jsonl(corpus, kept)
    return {"rows": len(kept), "rejects": len(rejected)}
