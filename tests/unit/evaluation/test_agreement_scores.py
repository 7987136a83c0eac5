"""Judges that others measured come out as they published; and what is true of any judge."""

import random
from pathlib import Path

import numpy as np
import pytest
from moult.base.files import read_csv, write_jsonl
from moult.data.rubrics import load_rubrics
from moult.evaluation import metrics
from moult.evaluation.agreement_scores import COMPARE, differences, items_of, measured, score_verdicts
from moult.evaluation.foreign_verdicts import foreign_rows
from moult.evaluation.item_judging import by_baseline, by_files

DATA = Path(__file__).parents[2] / "data" / "judge"
RECIPE = {"judge": {"name": "theirs"}, "rubrics": load_rubrics(), "rubric": "default", "form": "line"}
RECIPE |= {"pairs": ["compare"], "orders": ["original", "swapped"], "seed": 1}


def item(number, human, **more):
    """A judged pair without texts, of a file that has it in row `number`."""
    plain = {"uid": f"d:test:{number}", "dataset": "d", "mode": "compare", "question": "", "human": human}
    plain |= dict.fromkeys(("category", "scenario", "tag", "annotators", "reference"))
    plain |= {"answer_1": "", "answer_2": "", "labels": ["A", "B", "Tie"], "source": f"file:{number + 1}"}
    return plain | more


def values(rows, seed=1, method=COMPARE):
    """Return metric → value, with few resamples: intervals are not looked at."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metrics, "RESAMPLES", 2)
        return {name: estimate.value for name, (_, estimate) in measured(method, rows, seed).items()}


def test_auto_j():
    rows = read_csv(DATA / "autoj.csv")
    items = [
        item(int(row["row"]), "AB"[int(row["label"])] if row["label"] != "2" else "Tie", tag=row["group"])
        for row in rows
    ]
    verdicts = by_files(RECIPE, items, {"d": DATA / "autoj.csv"})
    found = values(verdicts)
    told = [round(100 * found[name], 2) for name in ("agreement_both", "consistency", "agreement_forward")]
    assert told == [54.96, 83.41, 59.99] and len(items) == 1392
    groups = {"Summarization": (45.83, 73.61), "Exam Questions": (38.89, 69.44), "Code": (47.5, 75.83)}
    groups |= {"Rewriting": (49.17, 74.17), "Creative Writing": (59.72, 87.04), "Functional Writing": (61.67, 81.67)}
    groups |= {"General Communication": (55.21, 92.36), "NLP Tasks": (57.58, 86.36)}
    for group, published in groups.items():
        of_group = values([row for row in verdicts if row["tag"] == group])
        assert (round(100 * of_group["agreement_both"], 2), round(100 * of_group["consistency"], 2)) == published


STATISTICS = read_csv(DATA / "llmbar" / "statistics.csv")


def llmbar(row):
    """Return the verdicts of one of LLMBar's judges."""
    path = DATA / "llmbar" / f"{row['subset']}--{row['evaluator'].replace('/', '-')}.jsonl"
    labels = [label for _, (_, label, _) in foreign_rows(path)]
    items = [item(number, label, labels=["A", "B"]) for number, label in enumerate(labels)]
    return by_files(RECIPE, items, {"d": path})


@pytest.mark.parametrize("row", STATISTICS, ids=lambda row: f"{row['subset']} {row['evaluator']}")
def test_llmbar(row):
    found = values(llmbar(row))
    ours = {"correct_forward": "forward_of_all", "correct_swapped": "swapped_of_all", "correct_both": "both_of_all"}
    ours |= {"correct_average": "agreement_of_all", "same_winner": "consistency_of_all"}
    for theirs, name in ours.items():
        assert 100 * found[name] == pytest.approx(float(row[theirs]), abs=1e-9)


def test_the_published_kappas_of_llmbar_count_the_second_answer_as_another_class():
    (row,) = (row for row in STATISTICS if (row["subset"], row["evaluator"]) == ("Natural", "GPT-4/Vanilla"))
    verdicts = llmbar(row)
    found = values(verdicts)
    assert round(found["kappa_forward"], 3) == 0.898 and round(found["kappa_swapped"], 3) == 0.918
    from sklearn.metrics import cohen_kappa_score

    pairs = [(one.human, one.said["original"]) for one in items_of(verdicts)]
    truth = [{"A": 1, "B": 2}[human] for human, _ in pairs]
    # The verdict 2 stands as 0 beside labels of 1 and 2.
    wrong = [{"A": 1, "B": 0}[winner] for _, winner in pairs]
    assert cohen_kappa_score(truth, wrong) == pytest.approx(float(row["published_kappa_forward"]), abs=1e-9)
    assert round(float(row["published_kappa_forward"]), 3) == 0.268


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Skywork-Reward-Llama-3.1-8B.csv", (62.29, 59.09, 64.29, 76.79, 50.00)),
        ("internlm2-7b-reward.csv", (59.43, 56.49, 61.22, 71.43, 50.00)),
        ("o1-mini.jsonl", (65.71, 58.44, 62.24, 82.14, 78.57)),
    ],
)
def test_judgebench(name, published):
    path = DATA / f"judgebench-{name}"
    groups = dict(zip(("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench"), "krmc", strict=True))
    sources = {row["pair_id"]: row["source"] for row in read_csv(DATA / "judgebench-internlm2-7b-reward.csv")}
    items = []
    for number, (of, label, _) in (found for found in foreign_rows(path)):
        (tag,) = (tag for beginning, tag in groups.items() if sources[of["id"]].startswith(beginning))
        items.append(item(number, label, uid=f"d:test:{of['id']}", tag=tag, labels=["A", "B"]))
    verdicts = by_files(RECIPE, items, {"d": path})
    told = [values(verdicts)] + [values([row for row in verdicts if row["tag"] == tag]) for tag in "krmc"]
    assert tuple(round(100 * found["vote"], 2) for found in told) == published
    if name.startswith("o1"):
        assert round(350 * (1 - told[0]["consistency"])) == 110


def test_pandalm():
    words = {"0": "Tie", "1": "A", "2": "B"}
    items = []
    for row in read_csv(DATA / "pandalm.csv"):
        people = [words[row[f"annotator{number}"]] for number in (1, 2, 3)]
        items.append(item(int(row["idx"]), max(people, key=people.count), annotators=people))
    recipe = RECIPE | {"orders": ["original"]}
    found = values(by_files(recipe, items, {"d": DATA / "pandalm.csv"}))
    assert [round(found[f"people_kappa_{pair}"], 3) for pair in ("1_2", "1_3", "2_3")] == [0.852, 0.879, 0.862]
    told = [found[name] for name in ("agreement_forward", "macro_precision", "macro_recall", "macro_f1")]
    assert [round(value, 4) for value in told] == [0.6677, 0.5738, 0.5750, 0.5743]
    assert 0.85 < found["people_kappa"] < 1 and 0.85 < found["people_agreement"] < 1


# ---------------------------------------------------------------- properties


def judged(items, judge):
    """Return verdict rows of a judge: (item, order) → its winner in the item's own order, or None: unread."""
    rows = []
    for one in items:
        for order in ("original", "swapped"):
            winner = judge(one, order)
            status = "ok" if winner else "unknown"
            row = {"uid": one["uid"], "dataset": "d", "judge": "j", "method": COMPARE, "order": order, "status": status}
            row |= {"winner": winner, "scores": None, "lengths": [len(one["answer_1"]), len(one["answer_2"])]}
            rows.append(
                row | {key: one[key] for key in ("human", "labels", "annotators", "category", "scenario", "tag")}
            )
    return rows


def people(n, labels="AB", seed=0, **more):
    chance = random.Random(seed)
    return [
        item(
            number,
            chance.choice(labels),
            answer_1="x" * chance.randint(0, 300),
            answer_2="x" * chance.randint(0, 300),
            **more,
        )
        for number in range(n)
    ]


def shown_first(order):
    return "A" if order == "original" else "B"


def noise(seed):
    chance = random.Random(seed)
    return lambda one, order: chance.choice("AB")


def test_orders_that_change_places_change_first_wins_alone():
    items = [one | {"human": chance} for one, chance in zip(people(300), ["A", "B", "Tie"] * 100, strict=True)]
    chance = random.Random(3)
    rows = judged(items, lambda one, order: chance.choice(["A", "A", "B", "Tie", None]))
    turned = [row | {"order": {"original": "swapped", "swapped": "original"}[row["order"]]} for row in rows]
    before, after = values(rows), values(turned)
    for name in ("agreement", "agreement_both", "consistency", "kappa", "vote", "tie_rate", "unread_rate"):
        assert before[name] == pytest.approx(after[name], abs=1e-12), name
    assert (
        before["kappa_forward"] == after["kappa_swapped"] and before["agreement_forward"] == after["agreement_swapped"]
    )
    assert after["first_wins"] == pytest.approx(1 - before["first_wins"], abs=1e-12) != before["first_wins"]


def test_a_judge_that_always_says_a_agrees_with_nobody():
    found = values(judged(people(200), lambda one, order: shown_first(order)))
    assert (found["consistency"], found["first_wins"], found["agreement"], found["vote"]) == (0, 1, 0.5, 0)


def test_a_perfect_judge_is_one_everywhere():
    found = values(judged(people(300, ["A", "B", "Tie"]), lambda one, order: one["human"]))
    ones = "agreement agreement_forward agreement_swapped agreement_both consistency kappa kappa_forward macro_f1"
    for name in (*ones.split(), "weighted_precision", "forward_of_all", "consistency_of_all", "agreement_longer"):
        assert found[name] == pytest.approx(1), name
    assert found["first_wins"] == 0.5 and found["unread_rate"] == found["error_rate"] == 0


def test_identical_answers_give_one_half():
    """The two requests are one, and so are the replies: whatever is said first is said in both orders."""
    equal = [one | {"answer_1": "same", "answer_2": "same"} for one in people(50)]
    assert values(judged(equal, lambda one, order: shown_first(order)))["agreement"] == 0.5
    assert values(judged(equal, lambda one, order: "BA"["AB".index(shown_first(order))]))["agreement"] == 0.5


def test_noise_has_one_half_in_its_interval():
    inside = 0
    for seed in range(20):
        estimate = measured(COMPARE, judged(people(100, seed=seed), noise(seed)), seed)["agreement"][1].as_row()
        inside += estimate["ci_low"] <= 0.5 <= estimate["ci_high"]
    assert inside >= 17


def test_a_reply_that_was_turned_back_twice_is_caught(tmp_path):
    """Consistency falls to nothing where it should be whole; and the file's own form cannot be read as another's."""
    items = people(40)
    right = judged(items, lambda one, order: one["human"])
    twice = [row | {"winner": "BA"["AB".index(row["winner"])]} if row["order"] == "swapped" else row for row in right]
    found = values(twice)
    assert values(right)["consistency"] == 1 and found["consistency"] == 0
    assert 0.3 < found["first_wins"] < 0.7
    # What is read back from a file of this build is in the item's order already, and stays there.
    rows = [row | {"grade": None} for row in right]
    write_jsonl(tmp_path / "ours.jsonl", rows)
    again = by_files(RECIPE, items, {"d": tmp_path / "ours.jsonl"})
    assert values(again)["consistency"] == 1 and values(again)["agreement"] == 1
    with pytest.raises(KeyError):
        judged_twice(items[0])


def judged_twice(one):
    """Hand the one place that turns replies back a winner that it has turned back before."""
    from moult.evaluation import judging

    shown = {"winner": "A", "first": None, "second": None, "feedback": None}
    original = judging.read_pair
    judging.read_pair = lambda *_: shown
    try:
        recipe = RECIPE | {"model": None, "against": None, "criteria": [], "endpoint": {"model": "m"}}
        judging.judgement(recipe, one, "swapped", 0, {"text": "", "finish_reason": "stop", "error": None})
    finally:
        judging.read_pair = original


def test_a_planted_liking_is_found_with_its_sign():
    items = people(600, seed=5)
    chance = random.Random(5)

    def liking(for_length=0.0, for_first=0.0):
        def judge(one, order):
            lean = {"A": 1, "B": -1}[one["human"]] + chance.gauss(0, 1)
            lean += for_length * (len(one["answer_1"]) - len(one["answer_2"])) / 100
            lean += for_first * (1 if order == "original" else -1)
            return "A" if lean > 0 else "B"

        return measured(COMPARE, judged(items, judge), 1)

    for length in (1.0, -1.0):
        found = liking(for_length=length)
        row = found["length_correlation"][1].as_row()
        assert row["value"] * length > 0.1 and row["ci_low"] * row["ci_high"] > 0
        longer, shorter = found["agreement_longer"][1].value, found["agreement_shorter"][1].value
        assert (longer - shorter) * length > 0.1
        assert abs(found["first_wins"][1].value - 0.5) < 0.05
    for first in (0.7, -0.7):
        row = liking(for_first=first)["first_wins"][1].as_row()
        assert (row["value"] - 0.5) * first > 0 and (row["ci_low"] - 0.5) * (row["ci_high"] - 0.5) > 0
    unmoved = liking()["length_correlation"][1].as_row()
    assert unmoved["ci_low"] < 0 < unmoved["ci_high"]


def graded(n, seed, for_length=0.0):
    chance = np.random.default_rng(seed)
    human = chance.integers(0, 21, n) / 2
    lengths = np.exp(chance.normal(5, 1, n) + human / 10)
    grades = human + chance.normal(0, 1.5, n) + for_length * (np.log(lengths) - human / 10 - 5)
    rows = []
    for number in range(n):
        row = {"uid": str(number), "dataset": "d", "method": "grade", "order": "original", "status": "ok"}
        row |= {"grade": float(grades[number]), "human": float(human[number]), "scale": [0, 10]}
        rows.append(row | {"lengths": [int(lengths[number])], "category": None, "scenario": None, "tag": None})
    return rows


def test_lengths_move_a_grade_or_do_not():
    from moult.evaluation.association import partial_correlation

    for planted in (1.0, -1.0):
        row = measured("grade", graded(400, 1, planted), 1)["length_correlation"][1].as_row()
        assert row["value"] * planted > 0.1 and row["ci_low"] * row["ci_high"] > 0
    inside = 0
    for seed in range(200):
        rows = graded(300, seed)
        columns = ([row[name] for row in rows] for name in ("grade", "lengths", "human"))
        given, lengths, human = columns
        row = partial_correlation(given, [one[0] for one in lengths], human).as_row()
        inside += row["ci_low"] <= 0 <= row["ci_high"]
    assert 180 <= inside <= 196


def test_baselines_are_judges_of_their_own():
    items = people(200, ["A", "B", "Tie"])
    found = {}
    for name in ("random", "longest", "first", "constant"):
        found[name] = values(by_baseline(RECIPE | {"judge": {"name": name, "baseline": name}}, items))
    assert found["constant"]["tie_rate"] == 1 and found["first"]["first_wins"] == 1
    assert found["longest"]["length_correlation"] > 0.7 and found["longest"]["consistency"] == 1
    assert 0.2 < found["random"]["agreement"] < 0.47 and 0.2 < found["random"]["consistency"] < 0.47


def test_scores_hold_groups_means_and_published_values():
    rows = [
        row | {"dataset": name}
        for name in ("one", "two")
        for row in judged(people(60, tag=None), lambda one, order: one["human"])
    ]
    rows = [row | {"category": ("math", "coding")[number // 2 % 2]} for number, row in enumerate(rows)]
    recipe = {"suite": "s", "model": "j", "datasets": ["one", "two"], "limit": None, "seed": 1}
    recipe |= {"published": {"judge": "GPT-4", "datasets": {"one": "Auto-J"}}}
    scores = score_verdicts(recipe, rows)
    found = {(row["dataset"], row["task"], row["metric"]): row for row in scores}
    assert found["one", "category: math", "agreement"]["n"] == 30 and found["mean", "", "agreement"]["n"] == 120
    assert not any(row["paper"] for row in scores)
    all_of_it = [
        row | {"uid": f"{row['uid']}-{copy}"} for copy in range(24) for row in rows if row["dataset"] == "one"
    ][: 2 * 1392]
    (beside,) = (
        row
        for row in score_verdicts(recipe | {"datasets": ["one"]}, all_of_it)
        if row["paper"] and row["metric"] == "consistency" and row["dataset"] == "one"
    )
    assert beside["paper"] == 0.8628 and beside["paper_delta"] == pytest.approx(1 - 0.8628)


def test_a_judge_that_nobody_could_read_has_any_agreement():
    rows = judged(people(10), lambda one, order: None)
    n, estimate = measured(COMPARE, rows, 1)["agreement"]
    assert n == 0 and estimate.as_row() == {"value": 0.5, "ci_low": 0, "ci_high": 1}
    assert values(rows)["unread_rate"] == 1 and values(rows)["consistency_of_all"] == 1


def test_paired_differences_are_by_item(tmp_path):
    items = people(100)
    better = judged(items, lambda one, order: one["human"])
    worse = judged(
        items, lambda one, order: one["human"] if int(one["uid"].split(":")[-1]) >= 30 else shown_first(order)
    )
    paths = {("s", "good"): tmp_path / "good.jsonl", ("s", "bad"): tmp_path / "bad.jsonl"}
    write_jsonl(paths["s", "good"], better)
    write_jsonl(paths["s", "bad"], worse)
    (row,) = differences({"pairs": [["s", "good", "bad"], ["other", "x", "y"]], "seed": 1}, paths)
    assert (row["difference"], row["n"], row["method"]) == (0.3, 100, COMPARE) and row["p_mcnemar"] < 1e-6
