"""Makes the probing sets beside it, each by a rule: `python resources/holmes/make.py`.

They lie on disk as those of Holmes do. A pattern and its words are written out below, so that anybody can check by hand
which label a row has. No sentence stands in two splits of a set, and labels are balanced.
"""

import csv
import random
import re
from pathlib import Path

HERE = Path(__file__).parent
SPLITS = {"train": 64, "dev": 24, "test": 48}
# What a control of the published code is called → the ending of its file.
CONTROLS = {"NONE": "none", "PERMUTATION": "perm", "RANDOM_WEIGHTS": "rand-weights", "RANDOMIZATION": "randomization"}

WOMEN, MEN = ["Anna", "Clara", "Doris", "Fay", "Helen", "Irma"], ["Adam", "Ben", "Carl", "David", "Gus", "Hal"]
ANIMATE = ["dog", "nurse", "farmer", "child", "horse", "teacher", "pilot", "baker"]
THINGS = ["ladder", "kettle", "lantern", "anchor", "basket", "violin", "window", "hammer"]
VERBS = {"lift": "lifted", "paint": "painted", "clean": "cleaned", "drop": "dropped", "carry": "carried"}
VERBS |= {"wash": "washed", "push": "pushed", "watch": "watched"}
INTRANSITIVE = ["sleep", "wait", "smile", "return", "arrive", "stumble"]
ADVERBS = ["slowly", "quietly", "gladly", "often"]
ADJECTIVES = ["old", "red", "heavy", "broken", "clean", "green"]
ANTONYMS = [("hot", "cold"), ("big", "small"), ("happy", "sad"), ("rich", "poor"), ("early", "late"), ("new", "old")]
SYNONYMS = [
    ("big", "large"),
    ("happy", "glad"),
    ("rich", "wealthy"),
    ("small", "little"),
    ("quick", "fast"),
    ("sad", "unhappy"),
]


def third(verb):
    """Return the third person singular."""
    if verb.endswith("y"):
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("sh", "ch", "s")) else f"{verb}s"


def plural(noun):
    return {"child": "children"}.get(noun, f"{noun}s")


def at(sentence, word, group=None, context=0):
    """Return a word of a sentence as (text, sentence, first character, behind the last[, span group])."""
    start = re.compile(rf"\b{word}\b").search(sentence).start()
    told = (word, context, start, start + len(word))
    return told if group is None else (*told, group)


def agreement(draw, label):
    """The verb agrees with the subject (0), or with the noun beside it (1)."""
    subject, beside, verb = draw(ANIMATE), draw(THINGS), draw(INTRANSITIVE)
    many = draw([True, False])
    subject, beside = (plural(subject), beside) if many else (subject, plural(beside))
    verb = verb if many == (label == 0) else third(verb)
    return (f"The {subject} near the {beside} {verb} {draw(ADVERBS)}.",), []


def anaphor(draw, label):
    """The reflexive has the gender of the subject (0), or not (1)."""
    she = draw([True, False])
    reflexive = "herself" if she == (label == 0) else "himself"
    return (f"{draw(WOMEN if she else MEN)} {draw(list(VERBS.values()))} {reflexive} {draw(ADVERBS)}.",), []


def determiner(draw, label):
    """The demonstrative agrees with its noun in number (0), or not (1)."""
    many, noun = draw([True, False]), draw(THINGS)
    word = "these" if many == (label == 0) else "this"
    noun = plural(noun) if many else noun
    return (f"{draw(WOMEN + MEN)} {draw(list(VERBS.values()))} {word} {draw(ADJECTIVES)} {noun}.",), []


def length(draw, _):
    """Twentieths of the number of words: a regression."""
    things = [f"the {draw(THINGS)}" for _ in range(draw(range(1, 7)))]
    sentence = f"{draw(WOMEN + MEN)} {third(draw(list(VERBS)))} {' and '.join(things)}."
    return (sentence,), [], len(sentence.split()) / 20


def tense(draw, label):
    """The verb is present (0) or past (1)."""
    verb = draw(list(VERBS))
    return (f"The {draw(ANIMATE)} {VERBS[verb] if label else third(verb)} the {draw(ADJECTIVES)} {draw(THINGS)}.",), []


def part_of_speech(draw, label):
    """The word is a noun (0), a verb (1), an adjective (2), a determiner (3)."""
    noun, verb, adjective = draw(THINGS), third(draw(list(VERBS))), draw(ADJECTIVES)
    sentence = f"{draw(WOMEN + MEN)} {verb} the {adjective} {noun}."
    return (at(sentence, (noun, verb, adjective, "the")[label]),), [sentence]


def animacy(draw, label):
    """The marked noun is a thing (0), or alive (1); either may be the subject of a passive."""
    alive, thing, verb = draw(ANIMATE), draw(THINGS), draw(list(VERBS.values()))
    sentence = draw([f"The {alive} {verb} the {thing}.", f"The {thing} was {verb} by the {alive}."])
    return (at(sentence, alive if label else thing),), [sentence]


def role(draw, label):
    """The first span is who acts (0), or what is acted upon (1), of the verb in the second; active or passive."""
    (old, red), verb = draw.sample(ADJECTIVES, 2), draw(list(VERBS.values()))
    who, thing = draw(ANIMATE), draw(THINGS)
    active = f"The {old} {who} {verb} the {red} {thing}."
    sentence = draw([active, f"The {red} {thing} was {verb} by the {old} {who}."])
    span = (red, thing) if label else (old, who)
    return (*(at(sentence, word, 0) for word in span), at(sentence, verb, 1)), [sentence]


def paraphrase(draw, label):
    """The second sentence says the same as the first in other words (1), or tells of another thing (0)."""
    name, verb = draw(WOMEN + MEN), third(draw(list(VERBS)))
    thing, other = draw.sample(THINGS, 2)
    return (f"{name} {verb} the {thing}.", f"The {thing if label else other} is what {name} {verb}."), []


def order(draw, label):
    """The two sentences are in the order in which things happened (0), or not (1)."""
    who, verb, thing = draw(ANIMATE), draw(list(VERBS.values())), draw(THINGS)
    pair = [
        f"First the {who} {verb} the {thing}.",
        f"Then the {who} went {draw(['home', 'away', 'to sleep', 'outside'])}.",
    ]
    return tuple(reversed(pair) if label else pair), []


def coreference(draw, label):
    """The pronoun of the second sentence is the marked person of the first (1), or the other one (0)."""
    she = draw([True, False])
    woman, man, verb = draw(WOMEN), draw(MEN), draw(list(VERBS.values()))
    first = (
        f"{woman} {verb} the {draw(THINGS)} of {man}."
        if draw([True, False])
        else f"{man} {verb} the {draw(THINGS)} of {woman}."
    )
    second = f"Later {'she' if she else 'he'} smiled {draw(ADVERBS)}."
    person = woman if she == (label == 1) else man
    return (at(first, person), at(second, "she" if she else "he", context=1)), [first, second]


def opposites(draw, label):
    """The two marked adjectives mean the same (0), or the opposite (1)."""
    pair = list(draw(ANTONYMS if label else SYNONYMS))
    if draw([True, False]):
        pair.reverse()
    subject, other = draw.sample(ANIMATE, 2)
    first, second = f"The {subject} was {pair[0]}.", f"The {other} looked {pair[1]}."
    return (at(first, pair[0]), at(second, pair[1], context=1)), [first, second]


# Name → (rule, probe type, labels, subfield, phenomenon).
SETS = {
    "rule-agreement": (agreement, "SENTENCE", 2, "morphology", "subject-verb agreement"),
    "rule-anaphor": (anaphor, "SENTENCE", 2, "morphology", "anaphor agreement"),
    "rule-determiner": (determiner, "SENTENCE", 2, "morphology", "determiner noun agreement"),
    "rule-length": (length, "SENTENCE", 1, "syntax", "sentence length"),
    "rule-tense": (tense, "SENTENCE", 2, "semantics", "tense"),
    "rule-part-of-speech": (part_of_speech, "SENTENCE_TOKENS", 4, "syntax", "part-of-speech"),
    "rule-animacy": (animacy, "SENTENCE_TOKENS", 2, "semantics", "subject animacy"),
    "rule-role": (role, "SENTENCE_SPANS", 2, "semantics", "semantic role labeling"),
    "rule-paraphrase": (paraphrase, "SENTENCE_PAIR_BI", 2, "reasoning", "object comparison"),
    "rule-order": (order, "SENTENCE_PAIR_CROSS", 2, "discourse", "sentence order"),
    "rule-coreference": (coreference, "SENTENCE_PAIR_TOKENS_BI", 2, "discourse", "coreference resolution"),
    "rule-opposites": (opposites, "SENTENCE_PAIR_TOKENS_CROSS", 2, "semantics", "synonym/antonym detection"),
}


class Draw:
    """A choice drawn by the seed of a set."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.sample = self.random.sample

    def __call__(self, choices):
        return self.random.choice(choices)


def rows_of(name):
    """Return the rows of a set: inputs, context, label, split; all different, labels in turn."""
    rule, _, labels, *_ = SETS[name]
    draw, seen, rows = Draw(name), {}, []
    for split, count in SPLITS.items():
        for number in range(count):
            label = number % max(2, labels)
            # A text is in one split alone, with whatever word of it is asked for.
            for _ in range(10_000):
                inputs, context, *value = rule(draw, label)
                text = tuple(context) or inputs
                if seen.get(text, split) == split and (inputs, text) not in seen:
                    break
            else:
                raise ValueError(f"{name} has too few sentences")
            seen[text] = split
            seen[inputs, text] = split
            rows.append((inputs, context, value[0] if value else label, split))
    return rows


def write(folder):
    """Write all sets into a folder."""
    for name, (_, kind, labels, subfield, phenomenon) in SETS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        with open(folder / name / "samples.csv", "w", encoding="utf-8", newline="") as handle:
            table = csv.writer(handle, lineterminator="\n")
            table.writerow(["inputs", "context", "topic", "org_label", "set-0", "string_label", "label", "id"])
            for number, (inputs, context, label, split) in enumerate(rows_of(name)):
                table.writerow([repr(inputs), repr(context) if context else "", "", label, split, label, label, number])
        inputs = 2 if kind.startswith("SENTENCE_PAIR") or kind == "SENTENCE_SPANS" else 1
        for control, ending in CONTROLS.items():
            lines = [f"control_task_type: {control}", f"num_inputs: {inputs}", f"num_labels: {labels}"]
            lines += ["num_probe_folds: 1", f"probe_name: {name}", f"probe_task_type: {kind}"]
            lines += [f"probes_samples_path: holmes/{name}/"]
            lines += [f"linguistic_subfield: {subfield}", f"linguistic_phenomena: {phenomenon}"]
            (folder / name / f"config-{ending}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(HERE)
