"""Preference pairs out of corpora and datasets."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import digest, read_jsonl
from moult.base.rows import Dropped
from moult.data.formats import format_of

# Share of the train pairs that is held out where there is no dev pair.
HELD_OUT = 0.1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Chat messages up to the answer, the answers to prefer (one or more), and those to prefer them to.

    sources: how many of the answers to prefer, the first ones, are of models that this one learns from; those behind
    them are its own.
    """

    uid: str
    messages: list
    chosen: list[str]
    rejected: list[str]
    sources: int = 0


def read_pairs(
    paths: Sequence[str | Path], names: Sequence[str], seed: int, fused: bool = False
) -> tuple[list[Pair], list[Pair], list[Dropped]]:
    """Return (train, dev, dropped) pairs of preference corpora and prepared datasets, uids made unique across them.

    Where no pair is of the dev split, a tenth of train is held out by the seed: something must watch for collapse.
    fused: each row is to have one or more answers of sources to prefer, and one of the model's own behind them.
    UserError for a row that is no pair or not such a one, or for fewer than two pairs.
    """
    pairs: dict[str, list[Pair]] = {"train": [], "dev": []}
    dropped: list[Dropped] = []
    for path, name in zip(paths, names, strict=True):
        if fused and Path(path).is_dir():
            raise UserError(
                f"{path}: its answers are of nobody known, and the loss wants some of sources; take a corpus."
            )
        for split in pairs if Path(path).is_dir() else ():
            if Path(path, f"{split}.parquet").exists():
                found, without = format_of(path).pairs(path, split)
                pairs[split] += [Pair(f"{name}/{uid}", prompt, [good], [bad]) for uid, prompt, good, bad in found]
                dropped += [{"split": split, "uid": f"{name}/{uid}", "reason": reason} for uid, reason in without]
        if Path(path).is_dir():
            continue
        for number, row in enumerate(read_jsonl(path), start=1):
            pair = _pair(row, name, f"{path}, row {number}")
            if fused and not 0 < pair.sources == len(pair.chosen) - 1:
                raise UserError(
                    f"{path}, row {number}: {pair.sources} of {len(pair.chosen)} chosen answers are of sources; the "
                    "loss wants one or more of `policy: source`, and one of the model's own behind; make such a corpus."
                )
            if row["split"] in pairs:
                pairs[row["split"]].append(pair)
    if not pairs["dev"]:
        order = sorted(pairs["train"], key=lambda pair: digest([seed, pair.uid]))
        held = {pair.uid for pair in order[: max(1, round(HELD_OUT * len(order)))]}
        logger.warning("no dev pair: %d of %d train pairs are held out", len(held), len(order))
        pairs["dev"] = [pair for pair in pairs["train"] if pair.uid in held]
        pairs["train"] = [pair for pair in pairs["train"] if pair.uid not in held]
    if not pairs["train"]:
        raise UserError(
            f"{', '.join(map(str, paths))}: {len(pairs['dev'])} pairs are too few to train on and to hold one out; ask "
            "more questions, or loosen the gate of the corpus (its rejects say what it took)."
        )
    return pairs["train"], pairs["dev"], dropped


def _pair(row, name, place):
    try:
        chosen, rejected = ([answer["content"] for answer in row[side]] for side in ("chosen", "rejected"))
        sources = sum(1 for _ in itertools.takewhile(lambda answer: answer.get("policy") == "source", row["chosen"]))
        pair = Pair(f"{name}/{row['uid']}", row["prompt"], chosen, rejected, sources)
        row["split"]  # noqa: B018
    except (KeyError, TypeError) as error:
        raise UserError(f"{place}: is no preference pair ({error!r}); make the corpus again.") from None
    if not chosen or not rejected:
        raise UserError(
            f"{place}: is no preference pair: it has {len(chosen)} chosen and {len(rejected)} rejected answers; make "
            "the corpus again."
        )
    return pair
