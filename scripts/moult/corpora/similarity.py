"""How much texts repeat themselves and each other."""

import re
from collections import Counter

# Orders of chrF's character n-grams, as published.
ORDERS = range(1, 7)
# Chinese and Japanese write no blanks between words: there a character counts as one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def repetition(text: str, order: int = 4) -> float:
    """Return the share of word n-grams that stood in the text before, 0 to 1 (Welleck et al. 2020, arXiv 1908.04319,
    seq-rep-4); 0 for a text with fewer words."""
    words = WORD.findall(text.lower())
    grams = [tuple(words[place : place + order]) for place in range(len(words) - order + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ngrams(text: str) -> list[Counter[str]]:
    """Return the character n-grams of a text without its blanks, counted, by order."""
    text = "".join(text.split())
    return [Counter(text[place : place + order] for place in range(len(text) - order + 1)) for order in ORDERS]


def chrf(one: list[Counter[str]], other: list[Counter[str]]) -> float:
    """Return the mean F1 of character n-grams, 0 to 1, of two `ngrams`: chrF (Popovic 2015) with beta 1, so that it is
    the same both ways; orders that neither text has do not count."""
    scores = []
    for mine, theirs in zip(one, other, strict=True):
        total = mine.total() + theirs.total()
        if total:
            scores.append(2 * (mine & theirs).total() / total)
    return sum(scores) / len(scores) if scores else 0.0
