"""Pairs out of scored samples: which answers are taken, why a prompt has no pair, and what is told of the pairs."""

import random

import pytest
from moult.base.errors import UserError
from moult.base.files import write_jsonl
from moult.base.rows import columns_of
from moult.base.sample_rows import PolicyAnswer, PolicyPair
from moult.corpora.preferences import Preferences, build_preferences
from moult.training.pairs import read_pairs


def sample(uid, number, reward, text=None, **more):
    plain = {"uid": f"d:train:{uid}", "dataset": "d", "split": "train", "sample": number}
    plain |= {"prompt": [{"role": "user", "content": f"Q{uid}"}], "answer": text or f"answer {uid} {number} {reward}"}
    return plain | {"answer_by": "m", "finish_reason": "stop", "tokens": 4, "reward": reward} | more


def recipe(**more):
    plain = {"splits": ["train"], "sources": ["a", "b"], "target": "own", "rm": "reward", "pairing": "weighted"}
    plain |= {
        "ties": "first",
        "min_margin": None,
        "cut": "reject",
        "min_characters": 1,
        "max_length_ratio": None,
        "seed": 3,
    }
    return plain | more


def corpora(a, b=(), own=()):
    """Return corpora of one prompt: their rewards, or samples."""
    found = {}
    for name, rows in (("a", a), ("b", b), ("own", own)):
        whole = [row if isinstance(row, dict) else sample(1, number, row) for number, row in enumerate(rows)]
        found[name] = [dict(row, answer=f"{name} {row['answer']}") if "as" not in row else row for row in whole]
    return found


def one_pair(recipe, corpora):
    kept, rejects, facts = build_preferences(recipe, corpora)
    assert facts["rows_in"] == 1 and len(kept) + len(rejects) == 1
    if rejects:
        return rejects[0]["reason"]
    (pair,) = kept
    told = [[(one["corpus"], one["reward"], one["policy"]) for one in pair[side]] for side in ("chosen", "rejected")]
    return *told, pair["margin"]


def test_weighted_pairs_are_the_best_source_the_target_s_best_and_its_worst():
    found = one_pair(recipe(), corpora([1.0, 3.0], [2.0, 2.5], [0.5, 2.0, 1.0]))
    assert found == ([("a", 3.0, "source"), ("own", 2.0, "target")], [("own", 0.5, "target")], 1.5)
    found = one_pair(recipe(pairing="best_of_each"), corpora([1.0, 3.0], [2.0, 2.5], [0.5, 2.0]))
    chosen = [("a", 3.0, "source"), ("b", 2.5, "source"), ("own", 2.0, "target")]
    assert found == (chosen, [("own", 0.5, "target")], 1.5)
    found = one_pair(recipe(pairing="best_worst"), corpora([1.0, 3.0], [2.0, -2.5], [0.5, 2.0]))
    assert found == ([("a", 3.0, "source")], [("b", -2.5, "source")], 5.5)


def test_the_best_answers_are_rows_to_train_on(tmp_path):
    from moult.data.examples import training_examples

    rows, rejects, facts = build_preferences(
        recipe(pairing="best", target=None), {"a": [sample(1, 0, 1.0), sample(2, 0, 4.0)], "b": [sample(1, 0, 2.0)]}
    )
    assert [(row["uid"], row["reward"]) for row in rows] == [("d:train:1", 2.0), ("d:train:2", 4.0)] and not rejects
    assert facts["won"] == {"a": 1, "b": 1} and facts["margin"] == {}
    write_jsonl(tmp_path / "best.jsonl", rows)
    examples, _ = training_examples([tmp_path / "best.jsonl"], {"best": None}, "train")
    assert [(one.uid, one.messages, one.answer) for one in examples] == [
        ("best/d:train:1", [{"role": "user", "content": "Q1"}], "answer 1 0 2.0"),
        ("best/d:train:2", [{"role": "user", "content": "Q2"}], "answer 2 0 4.0"),
    ]


@pytest.mark.parametrize(
    ("settings", "rows", "reason"),
    [
        ({}, ([1.0], [], [sample(1, 0, 1.0, "x", **{"as": 1})] * 3), "all answers of the target are equal"),
        ({}, ([1.0], [], []), "no answer of the target"),
        ({}, ([], [], [1.0, 2.0]), "no answer of a source"),
        ({"pairing": "best_of_each"}, ([1.0], [], [1.0, 2.0]), "no answer of b"),
        ({"min_margin": 0.5}, ([3.0], [], [1.0, 1.4]), "margin below min_margin"),
        ({"min_margin": 0.0}, ([0.5], [], [1.0, 1.4]), "margin below min_margin"),
        ({"min_characters": 100}, ([3.0], [], [1.0, 1.4]), "the best source answer is shorter than min_characters"),
        ({}, ([sample(1, 0, 9.0, " ", **{"as": 1})], [], [1.0, 2.0]), "an answer of a source is empty"),
        (
            {},
            ([1.0], [], [1.0, sample(1, 1, 2.0, finish_reason="length")]),
            "an answer of the target is cut: reached max_tokens",
        ),
        (
            {},
            ([sample(1, 0, 9.0, "y", **{"as": 1})], [], [sample(1, 0, 1.0, "y", **{"as": 1}), 2.0]),
            "a preferred answer and the other one are equal",
        ),
        (
            {"max_length_ratio": 1.5},
            ([sample(1, 0, 9.0, "long " * 9)], [], [1.0, 2.0]),
            "lengths differ by more than max_length_ratio",
        ),
        (
            {"pairing": "best_worst"},
            ([sample(1, 0, 1.0, "x", **{"as": 1})], [sample(1, 0, 2.0, "x", **{"as": 1})], []),
            "all answers are equal",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_prompt_without_a_pair_has_its_reason(settings, rows, reason):
    assert one_pair(recipe(**settings), corpora(*rows)) == reason


def test_target_s_best_and_worst_of_one_text_are_no_pair():
    """Two equal texts with unequal scores, beside a third one that is neither best nor worst."""
    own = [sample(1, 0, 3.0, "x", **{"as": 1}), sample(1, 1, 1.0, "x", **{"as": 1}), sample(1, 2, 2.0, "z")]
    assert one_pair(recipe(), corpora([4.0], [], own)) == "a preferred answer and the other one are equal"


def test_what_is_cut_may_be_kept():
    own = [sample(1, 0, 1.0), sample(1, 1, 2.0, finish_reason="length")]
    assert one_pair(recipe(cut="keep"), corpora([3.0], [], own))[2] == 1.0


def test_ties_go_by_the_declared_rule():
    tied = [sample(1, number, 2.0, "w" * length) for number, length in enumerate((9, 3, 6))]
    rows = corpora(tied, [sample(1, 0, 2.0, "w" * 3)], [0.0, 1.0])

    def first(**more):
        (pair,), _, _ = build_preferences(recipe(**more), rows)
        return pair["chosen"][0]["corpus"], pair["chosen"][0]["sample"]

    assert first() == ("a", 0)
    # Of two as short one is drawn; by the seed, and by nothing else.
    assert {first(ties="shortest", seed=seed) for seed in range(20)} == {("a", 1), ("b", 0)}
    assert len({first(ties="drawn", seed=seed) for seed in range(40)}) == 4
    assert len({first(ties="drawn", seed=4) for _ in range(3)}) == 1
    shuffled = {name: list(reversed(samples)) for name, samples in reversed(rows.items())}
    for seed in range(10):
        (pair,), _, _ = build_preferences(recipe(ties="drawn", seed=seed), shuffled)
        assert (pair["chosen"][0]["corpus"], pair["chosen"][0]["sample"]) == first(ties="drawn", seed=seed)


def test_pairs_are_those_that_sorting_everything_finds():
    """Many prompts at random, against the plain way: all samples in memory, sorted."""
    draw = random.Random(4)
    pool = {
        name: [sample(uid, number, draw.randint(0, 6)) for uid in range(60) for number in range(draw.randint(1, 4))]
        for name in ("a", "b", "own")
    }
    kept, rejects, facts = build_preferences(recipe(), {name: [dict(row) for row in pool[name]] for name in pool})
    assert len(kept) + len(rejects) == 60 == facts["rows_in"] and len(kept) > 30
    for pair in kept:
        mine = {name: [row for row in pool[name] if row["uid"] == pair["uid"]] for name in pool}
        best = max([*mine["a"], *mine["b"]], key=lambda row: row["reward"])
        worst, good = (choose(mine["own"], key=lambda row: row["reward"]) for choose in (min, max))
        assert [one["content"] for one in pair["chosen"]] == [best["answer"], good["answer"]]
        assert pair["rejected"][0]["content"] == worst["answer"]
    every = [len(row["answer"]) for name in pool for row in pool[name]]
    assert facts["characters"]["all samples"] == pytest.approx(sum(every) / len(every), abs=1e-6)
    won = [pair["chosen"][0]["corpus"] for pair in kept]
    assert facts["won"] == {name: won.count(name) for name in ("a", "b")}
    lengths = [[len(one["content"]) for one in (*pair["chosen"], *pair["rejected"])] for pair in kept]
    for place, name in enumerate(("source_best", "target_best", "target_worst")):
        assert facts["characters"][name] == pytest.approx(sum(one[place] for one in lengths) / len(kept), abs=1e-6)
    share = sum(one > other for one, other, _ in lengths) / len(kept)
    assert facts["longer"]["source's best longer than target's best"] == pytest.approx(share, abs=1e-6)
    margins = sorted(pair["margin"] for pair in kept)
    assert facts["margin"]["lowest"] == margins[0] and facts["margin"]["highest"] == margins[-1]


def test_a_prompt_is_the_same_in_corpora_of_several_datasets():
    other = [row | {"uid": f"e:train:{uid}", "dataset": "e"} for uid in (1, 2) for row in [sample(uid, 0, 9.0)]]
    own = [sample(uid, number, number) for uid in (1, 2) for number in range(2)]
    kept, rejects, _ = build_preferences(recipe(sources=["a"]), {"a": other, "own": own})
    assert len(kept) == 2 and not rejects and [row["uid"] for row in kept] == ["e:train:1", "e:train:2"]


def test_training_reads_the_sources_first_and_the_target_last(tmp_path):
    rows, _, _ = build_preferences(
        recipe(pairing="best_of_each"),
        {
            name: [sample(uid, number, number, f"{name} {uid} {number}") for uid in range(4) for number in range(2)]
            for name in ("a", "b", "own")
        },
    )
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    assert list(rows[0]) == columns_of(PolicyPair)
    assert list(rows[0]["chosen"][0]) == columns_of(PolicyAnswer)
    train, dev, dropped = read_pairs([tmp_path / "pairs.jsonl"], ["pairs"], 1)
    assert len(train) + len(dev) == 4 and not dropped
    for pair in (*train, *dev):
        uid = pair.uid.removeprefix("pairs/d:train:")
        assert pair.chosen == [f"{name} {uid} 1" for name in ("a", "b", "own")] and pair.rejected == [f"own {uid} 0"]


def test_nothing_to_pair_is_one_sentence():
    with pytest.raises(UserError, match=r"a, own: no sample is of a prompt of \['dev'\] and of the share"):
        build_preferences(recipe(splits=["dev"]), {"a": [sample(1, 0, 1.0)], "own": []})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sources": ["a"]}, "`weighted` needs `sources` and a `target`"),
        ({"pairing": "best"}, "name corpora of scores, or a `target`"),
        ({"sources": ["a", "a"], "target": "own"}, "a corpus stands twice among sources and target"),
        ({"sources": ["a"], "target": "own", "max_length_ratio": 2}, "max_length_ratio: is for `length: matched`"),
    ],
)
def test_what_cannot_be_paired_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Preferences(kind="preferences", name="p", **settings)
