"""Training rows of judgements through the real Snakefile: an endpoint explains, a kill loses nothing."""

import json
import re

from judges import EXPLAINED, explaining, pairs
from moult.base.files import read_json, read_jsonl
from moult.config.load import load
from moult.inference.judge_replies import parse_pair_line
from moult.planning.estimate import Estimator
from openai_server import OpenAIServer
from pico_build import Folder
from processes import kill_group, wait_for

COUNT = 24


def write(folder):
    (folder / "pairs.json").write_text(json.dumps(pairs(COUNT)))
    (folder / "pico.yaml").write_text(json.dumps(EXPLAINED))


def test_a_killed_rendering_goes_on_and_asks_nothing_twice(tmp_path, monkeypatch):
    with OpenAIServer(explaining, delay=0.1) as server:
        write(tmp_path)
        folder = Folder(tmp_path, server)
        monkeypatch.chdir(tmp_path)
        (job,) = Estimator(load(folder.config)).jobs()
        assert (job["corpus"], job["rows"], job["ask"]) == ("said", COUNT, COUNT)
        target = "results/judged/corpora/said.jsonl"
        process = folder.start(target)
        wait_for(lambda: len(server.asked) >= 8)
        kill_group(process)
        assert not (tmp_path / target).exists()
        run = folder.snakemake()
        assert run.returncode == 0, run.stdout + run.stderr
        asked = [json.dumps(body) for body in server.asked]
        # Of those in flight when it was killed, at most `concurrency` are asked again.
        assert len(set(asked)) == COUNT and len(asked) - COUNT <= 2
        for body in server.asked:
            system, user = (message["content"] for message in body["messages"])
            (fence,) = set(re.findall(r"mark ([0-9a-f]{12})", system))
            outside = re.sub(rf"\[{fence} (\w+)\]\n.*?\n\[{fence} end of \1\]", "", user, flags=re.DOTALL)
            assert not re.search("PRIVATE|wrong|right [0-9]|of no rubric", outside + system)
    rows = read_jsonl(tmp_path / target)
    (reject,) = read_jsonl(tmp_path / "results/judged/corpora/said.rejects.jsonl")
    assert "contradicts people about the winner" in reject["reason"] and len(rows) == 2 * (COUNT - 1)
    for row in rows:
        winner = parse_pair_line(row["answer"])["winner"]
        shown = re.findall(r" answer_[12]\]\n(\w+)", row["prompt"][1]["content"])
        assert shown[winner == "second"].startswith("right")
    facts = read_json(tmp_path / "results/judged/corpora/said.manifest.json")["facts"]
    assert facts == {"rows": 46, "rejects": 1, "rows_in": 47}
    page = (tmp_path / "results/judged/report/index.html").read_text()
    assert "unexplained" not in page and "render_judgements" in page
