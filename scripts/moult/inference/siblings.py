"""Answers that were paid for before: by another name of the same job, by another job, or under another seed."""

import contextlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import digest
from moult.inference.journal import Journal, journals, passing, reading, root_of
from moult.inference.requests import ChatRequest, Request
from moult.inference.usage import answers_in

# Rows that are looked at in one query, so that no writer has to wait for long.
ROWS = 1000
# The seed in the text of a request. Within a message a quote is never bare, so that this stands in none.
_SEED = re.compile(r', "seed": \d+(?=, "schema": )')
logger = logging.getLogger(__name__)


def adopt(
    journal: Journal, missing: Mapping[str, Request], identity: Mapping[str, Any], others: Sequence[Path] | None = None
) -> dict[str, Any]:
    """Copy into a journal what has been paid for under another name or seed; return key → stored value of these.

    missing: key → request that the journal has no answer to. An answer to the very request is taken from whatever
    journal has it. A greedy request does not depend on its seed: it takes an answer to the same words by the same
    model, from this journal or another. No answer is taken twice by one job, because requests of a job that differ in
    their seeds alone are meant to be asked each. Other journals (paths; None: all beside this one) are only read, and
    left out while somebody writes to them.
    """
    found: dict[str, tuple[str, Any]] = {}
    others = list(journals(root_of(journal.path), but=journal.path)) if others is None else others
    for path in others:
        with passing(), reading(path) as other:
            exact = answers_in(other.known([key for key in missing if key not in found]), path)
            found |= {key: (other.origin(key), value) for key, value in exact.items()}
    journal.taken.update(origin for origin, _ in found.values())
    alike = defaultdict(list)
    for key, request in missing.items():
        if key not in found and isinstance(request, ChatRequest) and request.sampling.temperature == 0:
            alike[_words(json.dumps(request.as_dict(), ensure_ascii=False))].append(key)
    if alike:
        found |= _taken_alike(journal, alike, identity, journal.taken)
    for path in others:
        if any(alike.values()):
            with passing(), reading(path) as other:
                found |= _taken_alike(other, alike, identity, journal.taken)
    if found:
        logger.info("%d of them were answered in other journals, or here under another seed", len(found))
    copies = [(key, origin) for key, (origin, _) in found.items()]
    journal.keep([(key, missing[key].as_dict(), value) for key, (_, value) in found.items()], copies=copies)
    return {key: value for key, (_, value) in found.items()}


def _words(text):
    """Return the text of a request without its seed."""
    return _SEED.sub("", text, count=1)


def _taken_alike(journal, alike, identity, taken):
    """Return key → (origin, value) of the answers of a journal to requests of the same words, each taken once.

    alike: words → keys that are missing, of which the answered ones are removed. taken: origins, to be added to.
    """
    pairs = {}
    for key, words, request in _requests(journal, alike):
        origin = journal.origin(key)
        if alike[words] and origin not in taken and digest({"request": request, "identity": identity}) == key:
            taken.add(origin)
            pairs[key] = alike[words].pop(0), origin
    known = answers_in(journal.known(list(pairs)), journal.path)
    return {mine: (origin, known[key]) for key, (mine, origin) in pairs.items() if key in known}


def _requests(journal, wanted):
    """Yield (key, words, request) of the entries of a journal whose words are wanted, the oldest first."""
    last = 0
    query = "SELECT rowid, key, request FROM answers WHERE rowid > ? ORDER BY rowid LIMIT ?"
    while rows := journal.connection.execute(query, (last, ROWS)).fetchall():
        last = rows[-1][0]
        for _, key, text in rows:
            if isinstance(text, str) and (words := _words(text)) in wanted:
                with contextlib.suppress(ValueError, RecursionError):
                    yield key, words, json.loads(text)
