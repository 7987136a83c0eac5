"""A budget holds over jobs, processes and runs, and what was spent outlives a kill."""

import os
import signal
import subprocess
import sys

import pytest
from moult.base.errors import UserError
from moult.config.load import load
from moult.corpora.generated import generate_corpus
from moult.data.prompts import load_template
from moult.inference.asking import Asker
from moult.inference.recipes import client_of
from moult.inference.requests import Answer
from moult.inference.spending import Budget, spending_in
from moult.stages import BY_RULE
from openai_server import OpenAIServer

PRICE = {"input": 1.0, "output": 2.0}
# A hundred dollars at these prices.
ANSWER = Answer("", prompt_tokens=60_000_000, completion_tokens=20_000_000)
WORKERS = 4

JOB = """
import sys, threading, time
from moult.inference.requests import Answer
from moult.base.errors import UserError
from moult.inference.spending import Budget

path, limit, delay = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
budget = Budget(limit, {"input": 1.0, "output": 2.0}, path)
answer = Answer("", prompt_tokens=60_000_000, completion_tokens=20_000_000)

def work():
    try:
        while True:
            budget.check()
            time.sleep(delay)
            with one_at_a_time:
                budget.add(answer)
                print(budget.calls, flush=True)
    except UserError as error:
        print(error, flush=True)

one_at_a_time = threading.Lock()
workers = [threading.Thread(target=work) for _ in range(4)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
"""


def start(path, limit, delay=0.01):
    environment = os.environ | {"PYTHONPATH": "scripts"}
    arguments = [sys.executable, "-c", JOB, str(path), str(limit), str(delay)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_jobs_at_once_pass_the_budget_by_no_more_than_what_is_in_flight(tmp_path):
    jobs = [start(tmp_path / f"job{number}", 10_000) for number in range(2)]
    said = [job.communicate(timeout=60)[0] for job in jobs]
    assert 10_000 <= spending_in(tmp_path) < 10_000 + 2 * WORKERS * 100
    assert all(text.count("the budget of $10,000.0000 is spent") == WORKERS for text in said)


def test_what_was_spent_outlives_a_kill(tmp_path):
    job = start(tmp_path / "job", 1e9, delay=0.0)
    for _ in range(300):
        told = float(job.stdout.readline())
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    job.stdout.close()
    assert spending_in(tmp_path) >= told
    again = Budget(1e9, PRICE, tmp_path / "job")
    before = again.spent()
    again.add(ANSWER)
    assert again.spent() == before + 100


def test_a_job_sees_what_the_others_spent_and_a_raised_budget_goes_on(tmp_path):
    mine, other = (Budget(150, PRICE, tmp_path / name) for name in ("a", "b"))
    mine.check()
    other.add(ANSWER)
    mine.check()
    mine.add(ANSWER)
    with pytest.raises(UserError, match=r"budget of \$150.0000 is spent: \$200.0000 .*no row was rejected.*raise"):
        other.check()
    Budget(250, PRICE, tmp_path / "a").check()


def test_what_batches_may_cost_is_held_back(tmp_path):
    mine, other = (Budget(150, PRICE, tmp_path / name) for name in ("a", "b"))
    mine.add(ANSWER)
    mine.promise(60)
    with pytest.raises(UserError, match="is spent"):
        other.check()
    mine.promise(10)
    other.check()
    assert other.left() == 40


def test_without_a_price_nothing_is_counted_and_without_a_limit_nothing_stops(tmp_path):
    Budget(None, None, tmp_path / "a").add(ANSWER)
    assert not list(tmp_path.iterdir())
    free = Budget(None, PRICE, tmp_path / "a")
    free.add(ANSWER)
    free.check()
    # A budget that is set later counts what was spent before.
    with pytest.raises(UserError, match="is spent"):
        Budget(50, PRICE, tmp_path / "a").check()


def test_a_damaged_count_is_named(tmp_path):
    (tmp_path / "a").write_text("one hundred")
    with pytest.raises(UserError, match="a: does not hold two amounts of dollars .'one hundred'."):
        Budget(50, PRICE, tmp_path / "a")


def test_a_corpus_stops_at_its_budget_and_goes_on_when_it_is_raised(tmp_path):
    rows = [{"uid": f"q:{i}", "split": "train", "field": "ml", "title": f"t {i}", "question": "?"} for i in range(40)]
    client = {"key": None, "concurrency": WORKERS, "timeout": 5, "retries": 0, "price": PRICE}
    client["spending"], budget = str(tmp_path / "spending"), 0.001

    def build(server, budget):
        recipe = {
            "endpoint": {"name": "teacher", "url": server.url, "model": "big"},
            "prompt": load_template("meteor/distill"),
            "decoding": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 9},
            "cut": "keep",
            "seed": 1,
        }
        with Asker(recipe["endpoint"], tmp_path / "j.sqlite", client | {"budget": budget}) as asker:
            return generate_corpus(recipe, rows, "answer", asker)

    with OpenAIServer(lambda body: "four words of answer", delay=0.01) as server:
        with pytest.raises(UserError, match="is spent.*raise `budget`"):
            build(server, budget)
        paid = len(server.paid)
        each = spending_in(tmp_path / "spending") / paid
        print(f"budget {budget}, spent {paid * each}, {paid} answers of {each} dollars")
        assert budget <= paid * each < budget + WORKERS * each
        kept, rejects, usage = build(server, 1.0)
        assert len(kept) == 40 and not rejects and server.paid_twice() == 0
        # The same bill from both: what was counted on the way, and what the answers say.
        assert spending_in(tmp_path / "spending") == pytest.approx(usage["cost_usd"])


def config(**endpoint):
    plain = {"name": "teacher", "url": "http://127.0.0.1:9/v1", "model": "big"}
    return {
        "name": "x",
        "datasets": [{"name": "q", "format": "stackoverflow", "files": {"train": "q.tsv"}}],
        "endpoints": [plain | endpoint, plain | {"name": "unused"}],
        "corpora": [{"name": "d", "kind": "distilled", "dataset": "q", "endpoint": "teacher"}],
    }


def test_a_budget_needs_the_price_of_every_endpoint_that_is_used():
    with pytest.raises(UserError, match="endpoints 'teacher', price: is missing, but there is a `budget`") as raised:
        load(config() | {"budget": 5})
    assert "unused" not in str(raised.value)
    assert load(config(price={"input": 1, "output": 2}) | {"budget": 5}).budget == 5
    load(config())


def test_budget_price_and_mode_decide_no_answer_and_remake_nothing():
    one = load(config(price=PRICE) | {"budget": 5})
    other = load(config(price=PRICE | {"input": 9.0}, mode="batch", poll=1))
    assert BY_RULE["distill_answers"].recipe(one, "d") == BY_RULE["distill_answers"].recipe(other, "d")
    assert client_of(one, "teacher")["budget"] == 5 and client_of(other, "teacher")["mode"] == "batch"


def test_a_served_model_has_no_batch_mode():
    raw = config() | {"models": [{"name": "m", "fetch": {"path": "m"}, "parameters": 1}]}
    raw["endpoints"][0] = {"name": "teacher", "serve": "m", "mode": "batch"}
    with pytest.raises(UserError, match="mode: batch belongs to a remote endpoint"):
        load(raw)
