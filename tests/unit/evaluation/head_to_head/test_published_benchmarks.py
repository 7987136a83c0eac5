"""What AlpacaEval, Arena-Hard and MT-Bench published of their judgements comes out of ours."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from moult.base.errors import UserError
from moult.evaluation.head_to_head.alpaca import preference_of, preferences
from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
from moult.evaluation.head_to_head.estimates import over_battles, over_questions
from moult.evaluation.head_to_head.length_control import (
    GAMED_WEIGHT,
    _features,
    _gamed,
    _sigmoid,
    difficulties_of,
    known_instructions,
    length_controlled,
)
from moult.evaluation.head_to_head.published_judgements import read_judgements
from moult.evaluation.head_to_head.scoring import read_ones, score_battles
from moult.evaluation.suites import KINDS
from moult.report.plots import draw_scores

DATA = Path(__file__).parents[3] / "reference" / "head_to_head"
WITH_MISSING_ROWS = {"gpt35_turbo_instruct": (804, 17.68, 14.90), "text_davinci_001": (803, 8.91, 6.46)}


def table(name):
    with open(DATA / name, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


LEADERBOARD = {row["model"]: row for row in table("alpaca_leaderboard.csv")}
MODELS = [column.split(":")[0] for column in table("alpaca_annotations.csv")[0] if column.endswith(":chars")]
WHOLE = [model for model in MODELS if model not in WITH_MISSING_ROWS]


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Return model → its battles, read from a file of the published form with lengths in place of the texts."""
    folder, rows, found = tmp_path_factory.mktemp("annotations"), table("alpaca_annotations.csv"), {}
    baseline = [one.baseline_chars for one in known_instructions().values()]
    for model in MODELS:
        with open(folder / f"{model}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["index", "len_1", "len_2", "preference"])
            for row in rows:
                if row[f"{model}:preference"]:
                    at = int(row["index"])
                    writer.writerow([at, baseline[at], row[f"{model}:chars"], row[f"{model}:preference"]])
        found[model] = read_judgements(folder / f"{model}.csv", BENCHMARKS["alpaca"], model)
    return found


def scored(kind, battles, **more):
    recipe = {"suite": "s", "model": "m", "kind": kind, "published": None, "limit": None, "seed": 1} | more
    rows = score_battles(recipe, battles)
    return {(row["method"], row["task"], row["metric"]): row for row in rows if row["dataset"] == kind}


# ---------------------------------------------------------------- AlpacaEval


@pytest.mark.parametrize("model", MODELS)
def test_win_rates_are_the_published_ones(annotations, model):
    published, rows = LEADERBOARD[model], preferences(read_ones(annotations[model]))
    measured = BENCHMARKS["alpaca"].measured(read_ones(annotations[model]), 1)
    assert 100 * measured["win_rate"][1].value == pytest.approx(float(published["win_rate"]), abs=1e-9)
    assert 100 * measured["standard_error"][1].value == pytest.approx(float(published["standard_error"]), abs=1e-9)
    discrete = 100 * measured["discrete_win_rate"][1].value
    assert discrete == pytest.approx(float(published["discrete_win_rate"]), abs=1e-9)
    assert measured["win_rate"][0] == int(published["n_total"]) == len(rows)


@pytest.mark.parametrize("model", WHOLE)
def test_the_length_controlled_win_rate_is_the_published_one(annotations, model):
    """Theirs has a penalty: what it shifts is all that is left between the two."""
    rows, published = preferences(read_ones(annotations[model])), float(LEADERBOARD[model]["length_controlled_winrate"])
    value, finite = length_controlled(rows, difficulties_of(rows))
    assert finite and 100 * value.value == pytest.approx(published, abs=0.11)
    low, high = value.estimate((0, 1)).interval
    assert low < value.value < high


@pytest.mark.parametrize("model", sorted(LEADERBOARD))
def test_published_coefficients_give_the_published_rate(model):
    row = LEADERBOARD[model]
    if row["n_total"] == "805":
        difficulty = np.array([one.difficulty for one in known_instructions().values()])
        rate = _sigmoid(float(row["weight_difficulty"]) * difficulty + float(row["weight_model"])).mean()
        assert 100 * rate == pytest.approx(float(row["length_controlled_winrate"]), abs=1e-8)


def test_without_the_gamed_baselines_the_rates_are_others(annotations):
    apart = []
    for model in WHOLE:
        rows = preferences(read_ones(annotations[model]))
        alone = length_controlled(rows, difficulties_of(rows), gamed=False)[0].value
        apart.append(abs(100 * alone - float(LEADERBOARD[model]["length_controlled_winrate"])))
    assert max(apart) > 0.5 and sum(one > 0.11 for one in apart) >= 3


@pytest.mark.parametrize("model", WITH_MISSING_ROWS)
def test_rows_are_joined_by_instruction_and_not_by_their_number(annotations, model):
    n, by_row, by_instruction = WITH_MISSING_ROWS[model]
    rows = preferences(read_ones(annotations[model]))
    right = difficulties_of(rows)
    neighbours = [one.difficulty for one in known_instructions().values()][: len(rows)]
    assert len(rows) == n
    published = float(LEADERBOARD[model]["length_controlled_winrate"])
    wrong = 100 * length_controlled(rows, neighbours)[0].value
    assert wrong == pytest.approx(by_row, abs=0.01) and wrong == pytest.approx(published, abs=0.12)
    assert 100 * length_controlled(rows, right)[0].value == pytest.approx(by_instruction, abs=0.005)
    found = scored("alpaca", annotations[model])["alpaca_published", "", "length_controlled_win_rate"]
    assert 100 * found["value"] == pytest.approx(by_instruction, abs=0.005) and found["n"] == n


@pytest.mark.parametrize(
    "model", ["alpaca-7b", *(pytest.param(one, marks=pytest.mark.soak) for one in WHOLE if one != "alpaca-7b")]
)
def test_the_published_cross_validated_fit_is_near(annotations, model):
    """Their fit, with scikit-learn: L1, ten C, five folds by row, weighted log loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold

    rows = preferences(read_ones(annotations[model]))
    own, (gamed, liked) = _features(rows, difficulties_of(rows)), _gamed()
    features = np.vstack([gamed, own])
    wished = np.append(liked, [row.preference for row in rows])
    shares = np.append(np.full(len(liked), GAMED_WEIGHT), np.ones(len(rows)))
    n = len(wished)
    twice, wanted = np.vstack([features, features]), np.repeat([1, 0], n)
    weights = np.concatenate([wished * shares, (1 - wished) * shares])
    folds = list(GroupKFold(5).split(twice, wanted, np.tile(np.arange(n), 2)))

    def fitted(c, at):
        model = LogisticRegression(
            C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123, max_iter=1000, tol=1e-6
        )
        return model.fit(twice[at], wanted[at], sample_weight=weights[at])

    def loss(c):
        return sum(
            log_loss(wanted[out], fitted(c, at).predict_proba(twice[out]), sample_weight=weights[out])
            for at, out in folds
        )

    best = min(np.logspace(-4, 4, 10), key=loss)
    everything = np.arange(2 * n)
    coefficients = fitted(best, everything).coef_[0]
    rate = 100 * _sigmoid(own[:, 1] * coefficients[1] + coefficients[2]).mean()
    assert rate == pytest.approx(float(LEADERBOARD[model]["length_controlled_winrate"]), abs=0.16)


def test_log_probabilities_give_every_preference():
    none = 0
    for row in table("alpaca_logprobs.csv"):
        logprobs = {letter: float(row[f"logprob_{letter}"]) for letter in "mM" if row[f"logprob_{letter}"]}
        found = preference_of(logprobs, row["switched"] == "1")
        if found is None:
            none += 1
        else:
            assert found == pytest.approx(float(row["preference"]), abs=1e-6)
    assert none == 3


def test_other_questions_and_other_baselines_leave_the_difficulty_out(annotations):
    model = WHOLE[0]
    battles = read_ones(annotations[model])
    others = [row | {"lengths": [row["lengths"][0] + 1, row["lengths"][1]]} for row in battles]
    measured = scored("alpaca", others)
    assert measured["alpaca_published", "", "difficulties_known"]["value"] == 0
    assert scored("alpaca", battles)["alpaca_published", "", "difficulties_known"]["value"] == 1
    assert 0 < measured["alpaca_published", "", "length_controlled_win_rate"]["value"] < 1


def test_a_model_that_wins_everything_has_a_rate_without_an_interval(annotations):
    won = [row | {"value": 2.0} for row in read_ones(annotations[WHOLE[0]])[:40]]
    measured = scored("alpaca", won)
    row = measured["alpaca_published", "", "length_controlled_win_rate"]
    assert row["value"] > 0.999 and row["ci_low"] is None
    assert measured["alpaca_published", "", "fit_is_finite"]["value"] == 0


# ---------------------------------------------------------------- Arena-Hard


def test_arenas_battles_give_the_published_rate_and_its_interval():
    battles = read_judgements(DATA / "arena_battles.csv", BENCHMARKS["arena"], "gpt-3.5-turbo-0125")
    measured = BENCHMARKS["arena"].measured(battles, 1)
    rate, by_battles = (measured[name][1] for name in ("win_rate", "win_rate_by_battles"))
    assert 100 * rate.value == pytest.approx(23.338048, abs=1e-6)
    said = [(row["uid"], row["value"], row["weight"]) for row in battles]
    low, high = (100 * (end - rate.value) for end in over_battles(said, 1, draws=5000).interval)
    assert low == pytest.approx(-1.67, abs=0.5) and high == pytest.approx(1.93, abs=0.5)
    assert by_battles.value == pytest.approx(rate.value)
    wide = [100 * (end - rate.value) for end in rate.interval]
    assert wide == [pytest.approx(-3.3, abs=0.3), pytest.approx(3.5, abs=0.3)]
    assert wide[1] - wide[0] > 1.5 * (high - low)


def test_a_game_without_a_verdict_is_dropped_and_its_partner_stays():
    name = "Llama-3-Base-8B-TR_KTO-Alpha_0.6-UltraFeedback"
    battles = read_judgements(DATA / "arena_judgements.jsonl", BENCHMARKS["arena"], "ours", of=name)
    measured = scored("arena", battles)
    assert 100 * measured["arena_published", "", "win_rate"]["value"] == pytest.approx(17.8383, abs=1e-4)
    assert sum(row["weight"] for row in read_ones(battles)) == 569
    assert sum(row["status"] == "unknown" for row in battles) == 19
    assert (len({row["uid"] for row in battles}), measured["arena_published", "", "win_rate"]["n"]) == (193, 192)
    assert measured["arena_published", "", "unknown_rate"]["value"] == pytest.approx(19 / 386, abs=1e-6)


def test_the_interval_over_questions_covers():
    """Games of a question agree, and strong verdicts weigh three: what Arena's own interval takes for independent."""
    assert coverage(range(60)) >= 0.9


@pytest.mark.soak
def test_the_interval_over_questions_covers_in_four_hundred_runs():
    assert 0.93 <= coverage(range(400)) <= 0.97


def coverage(seeds):
    def drawn(random, questions):
        """Return (outcomes, weights), [questions, 2 games]: verdicts of one leaning per question."""
        leaning = random.normal(-0.8, 1.2, questions)[:, None] + random.normal(0, 0.6, (questions, 2))
        return np.where(abs(leaning) < 0.3, 0.5, leaning > 0), np.where(abs(leaning) > 1.5, 3, 1)

    outcomes, weights = drawn(np.random.default_rng(12345), 400_000)
    truth, held = (outcomes * weights).sum() / weights.sum(), 0
    for seed in seeds:
        outcomes, weights = drawn(np.random.default_rng(seed), 200)
        games = zip(outcomes.tolist(), weights.tolist(), strict=True)
        said = [(str(at), o, w) for at, (os, ws) in enumerate(games) for o, w in zip(os, ws, strict=True)]
        low, high = over_questions(said, seed, (0, 1)).interval
        held += low <= truth <= high
    return held / len(seeds)


# ---------------------------------------------------------------- MT-Bench


@pytest.mark.parametrize(
    ("model", "turns"),
    [("mistral-orpo-trl", (7.73125, 6.6, 7.165625)), ("mistral-orpo-capybara", (7.125, 6.5125, 6.81875))],
)
def test_scores_of_both_turns_are_the_published_ones(model, turns):
    battles = read_judgements(DATA / "mt_judgements.jsonl", BENCHMARKS["mt"], "ours", of=model)
    measured = scored("mt", battles)
    found = [measured["mt_published", "", name]["value"] for name in ("turn_1", "turn_2", "score")]
    assert found == list(turns)
    assert measured["mt_published", "", "judged_twice"]["value"] == 0


def test_a_score_of_minus_one_counts_nowhere_and_a_turn_judged_twice_counts_twice(tmp_path):
    rows = [(81, 1, 8), (81, 1, 4), (81, 2, -1), (82, 1, 9), (82, 2, 8.5)]
    path = tmp_path / "gpt-4_single.jsonl"
    lines = [
        {"question_id": q, "turn": t, "model": "m", "judge": ["gpt-4", "single-v1"], "score": s} for q, t, s in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = scored("mt", read_judgements(path, BENCHMARKS["mt"], "ours", parts={"81": "writing", "82": "math"}))
    assert measured["mt_published", "", "score"]["value"] == pytest.approx((8 + 4 + 9 + 8.5) / 4)
    assert measured["mt_published", "", "turn_2"]["value"] == 8.5
    assert measured["mt_published", "", "judged_twice"]["value"] == 1
    assert measured["mt_published", "category: writing", "score"]["value"] == 6


# ---------------------------------------------------------------- files that are wrong


def test_a_file_of_several_models_needs_to_say_which():
    with pytest.raises(UserError, match="has judgements of 2 models; write `of`"):
        read_judgements(DATA / "mt_judgements.jsonl", BENCHMARKS["mt"], "ours")
    with pytest.raises(UserError, match="has no judgement of 'mistral-orpo-trI'; did you mean 'mistral-orpo-trl'"):
        read_judgements(DATA / "mt_judgements.jsonl", BENCHMARKS["mt"], "ours", of="mistral-orpo-trI")


def test_judgements_of_other_questions_are_refused():
    with pytest.raises(UserError, match="has no judgement of any of these questions"):
        read_judgements(DATA / "arena_battles.csv", BENCHMARKS["arena"], "ours", parts={"1": None})


@pytest.mark.parametrize(
    ("kind", "row", "told"),
    [
        ("mt", {"question_id": 81, "turn": 1, "score": 11}, "score 11 is not from 0 to 10"),
        ("mt", {"question_id": 81, "turn": 1}, "has the columns of no known form"),
        ("alpaca", {"index": 1, "len_1": 3, "len_2": 3, "preference": 2.5}, "preference 2.5 is not from 1 to 2"),
        ("alpaca", {"index": 905, "len_1": 3, "len_2": 3, "preference": 2}, "a judgement cannot be read"),
        ("arena", {"question_id": "x", "games": 3}, "a judgement cannot be read"),
    ],
)
def test_a_judgement_that_is_none_is_a_sentence(tmp_path, kind, row, told):
    path = tmp_path / "judgements.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"judgements.jsonl, row 1: .*{told}"):
        read_judgements(path, BENCHMARKS[kind], "ours")


def test_a_judge_of_whom_nothing_could_be_read_has_a_row_that_says_nothing_and_a_note():
    battles = read_judgements(DATA / "arena_battles.csv", BENCHMARKS["arena"], "m")
    unread = [row | {"status": "unknown", "value": None} for row in battles]
    (kind,) = (one for one in KINDS if one.key == "head_to_head" and one.fields is BENCHMARKS["arena"].fields)
    recipe = {"suite": "s", "model": "m", "kind": "arena", "published": None, "limit": None, "seed": 1}
    rows = score_battles(recipe, unread)
    row = next(row for row in rows if row["metric"] == "win_rate")
    assert (row["n"], row["ci_low"], row["ci_high"]) == (0, 0, 1)
    assert next(row for row in rows if row["metric"] == "unknown_rate")["value"] == 1
    as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    (suite,) = kind.tables(kind, as_text, [])
    assert (
        suite["tables"] == [] and "no judgement could be read" in suite["notes"][0] and "<svg" in draw_scores(as_text)
    )
    others = score_battles(recipe | {"model": "n"}, [row | {"model": "n"} for row in battles])
    as_text += [{name: "" if value is None else str(value) for name, value in row.items()} for row in others]
    (suite,) = kind.tables(kind, as_text, [])
    assert [row["model"] for row in suite["tables"][0]["rows"]] == ["n"]
