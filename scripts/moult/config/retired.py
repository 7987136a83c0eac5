"""Retired words of the config: still read, each with a sentence that says what to write instead."""

# Keys of corpora and of rounds, and methods of `chosen`: the word that was → the word that is.
KEYS = {"cut": "truncated"}
METHODS = {"consistency": "minimum_bayes_risk"}


def in_todays_words(expanded: dict) -> tuple[dict, list[str]]:
    """Return an expanded config without retired words, and a sentence for each that was there.

    A key that stands beside the one that replaces it stays: it is refused as unknown. What `rounds` was written out
    into has no sentence of its own.
    """
    mended, sentences = dict(expanded), []
    for kind in ("corpora", "rounds"):
        entries = expanded.get(kind)
        if not isinstance(entries, list):
            continue
        mended[kind] = []
        for entry in entries:
            new, told = _entry(kind, entry) if isinstance(entry, dict) else (entry, [])
            mended[kind].append(new)
            sentences += told if isinstance(new, dict) and "round" not in new else []
    return mended, sentences


def _entry(kind, entry):
    told, place = [], f"{kind} {entry.get('name', '')!r}"
    new = dict(entry)
    for old in KEYS.keys() & entry.keys():
        if KEYS[old] not in entry:
            new[KEYS[old]] = new.pop(old)
            told.append(f"{place}: the key `{old}` is called `{KEYS[old]}` now; write `{KEYS[old]}: {entry[old]}`.")
    chosen = entry.get("chosen")
    if isinstance(chosen, dict) and (method := METHODS.get(str(chosen.get("method")))):
        new["chosen"] = chosen | {"method": method}
        told.append(f"{place}, chosen: the method is called `{method}` now; write `method: {method}`.")
    return new, told
