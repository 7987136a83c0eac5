"""The distillation stage against the bare openai client, and 256 in flight: `python benchmarks/distillation.py`.

A server of its own process on loopback answers after a fixed time. Writes benchmarks/distillation.csv and prints it as
tables; two minutes on idle cores, and it wants two of them: one for the server.
"""

import argparse
import csv
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COLUMNS = (
    "part concurrency latency rows repetition way rows_per_s of_limit cpu_ms_per_row rss_mb_1024 rss_mb_end".split()
)
WAYS = ("moult", "openai")


def question_rows(n):
    """Return n questions as long as those of Stack Overflow are: about 1,000 characters."""
    body = "I have a table with a million rows and want to know how the features should be scaled before training. "
    return [
        {
            "uid": f"q:{i}",
            "split": "train",
            "field": "machine learning",
            "title": f"Question {i}?",
            "question": body * 9,
        }
        for i in range(n)
    ]


def recipe(url):
    """Return the recipe of a distilled corpus."""
    from moult.data.prompts import load_template

    return {
        "endpoint": {"name": "teacher", "url": url, "model": "m"},
        "prompt": load_template("meteor/distill"),
        "decoding": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 1024},
        "cut": "reject",
        "seed": 1,
    }


def moult(url, rows, concurrency):
    """The stage as the rule runs it: rows rendered, asked, journalled; corpus, rejects and usage written."""
    from moult.corpora.generated import generate_corpus, write_corpus
    from moult.inference.asking import Asker

    client = {"key": None, "concurrency": concurrency, "timeout": 60, "retries": 0, "price": None}
    with tempfile.TemporaryDirectory() as folder:
        with Asker(recipe(url)["endpoint"], Path(folder, "j.sqlite"), client) as asker:
            result = generate_corpus(recipe(url), rows, "answer", asker)
        paths = [Path(folder, name) for name in ("corpus.jsonl", "rejects.jsonl", "usage.json")]
        assert write_corpus(*paths, result) == {"rows": len(rows), "rejects": 0}


def bare(url, rows, concurrency):
    """The same requests by AsyncOpenAI, a semaphore and a gather; nothing is kept. Rendering is not counted."""
    import asyncio

    import openai
    from moult.data.prompts import render

    template = recipe(url)["prompt"]
    messages = [render(template, guideline="", **row) for row in rows]

    async def run():
        client, gate = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0), asyncio.Semaphore(concurrency)

        async def ask(one):
            async with gate:
                await client.chat.completions.create(
                    model="m", messages=one, temperature=0.7, top_p=1.0, max_tokens=1024, seed=1
                )

        begun = time.monotonic(), time.process_time()
        await asyncio.gather(*map(ask, messages))
        return time.monotonic() - begun[0], time.process_time() - begun[1]

    return asyncio.run(run())


def measured(way, url, n, concurrency):
    """Run one way in this process; return (seconds, CPU seconds), imports not counted."""
    rows = question_rows(n)
    if way == "openai":
        return bare(url, rows, concurrency)
    import httpx2  # noqa: F401  as for the other way

    begun = time.monotonic(), time.process_time()
    moult(url, rows, concurrency)
    return time.monotonic() - begun[0], time.process_time() - begun[1]


def resident_mb():
    """Return the memory that this process holds at the moment."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def long_run(url, n, concurrency):
    """From the first request to the last answer with many in flight; memory after 1,024 answers and at the end."""
    from moult.inference.remote import endpoint

    memory, seen, original = [], [0], endpoint.RemoteEndpoint.answer

    def watched(self, requests, missing):
        begun = time.monotonic()
        for arrived in original(self, requests, missing):
            yield arrived
            seen[0] += len(arrived)
            if seen[0] >= 1024 and not memory:
                memory.append(resident_mb())
        memory.append(resident_mb())
        memory.append(time.monotonic() - begun)

    endpoint.RemoteEndpoint.answer = watched
    cpu = time.process_time()
    moult(url, question_rows(n), concurrency)
    early, late, seconds = memory
    return seconds, time.process_time() - cpu, early, late


def table_row(part, way, n, concurrency, latency, repetition, found):
    """Return one row of the table; `of_limit` is the share of concurrency/latency that was reached."""
    seconds, cpu, *memory = found
    plain = {"part": part, "concurrency": concurrency, "latency": latency, "rows": n, "repetition": repetition}
    plain |= {"way": way, "rows_per_s": round(n / seconds, 1), "cpu_ms_per_row": round(cpu / n * 1000, 3)}
    plain["of_limit"] = round(n / seconds / (concurrency / latency), 4)
    return plain | dict(zip(("rss_mb_1024", "rss_mb_end"), [round(one, 1) for one in memory], strict=False))


def in_a_process(*arguments):
    """Run this file for one measurement; a process of its own, so that neither way warms the other."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    path = f"{HERE.parent / 'scripts'}"
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(path))
    return [float(word) for word in done.stdout.split()]


def _environment(path):
    import os

    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def served(latency):
    """Start the test server in a process of its own; return it and its URL."""
    command = [sys.executable, HERE.parent / "tests" / "openai_server.py", "--delay", str(latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, server.stdout.readline().strip()


def compared(repetitions, seconds):
    """Yield the rows of the comparison, both ways one after the other, who is first changing each time."""
    for concurrency in (8, 32):
        n = int(seconds * concurrency / 0.05)
        for repetition in range(repetitions):
            for way in WAYS if repetition % 2 else WAYS[::-1]:
                server, url = served(0.05)
                found = in_a_process(way, url, n, concurrency)
                server.kill()
                yield table_row("stage", way, n, concurrency, 0.05, repetition, found)


def many(n, repetitions):
    """Yield the rows of the long run: 256 in flight, a second each."""
    for repetition in range(repetitions):
        server, url = served(1.0)
        found = in_a_process("long", url, n, 256)
        server.kill()
        yield table_row("long", "moult", n, 256, 1.0, repetition, found)


def summary(rows):
    """Return Markdown: the ratio of the two ways per concurrency, and the long run."""
    lines = ["| concurrency | repetitions | Moult, rows/s | openai, rows/s | ratio (median; range) | CPU ms a row |"]
    lines.append("|---|---|---|---|---|---|")
    stage = [row for row in rows if row["part"] == "stage"]
    for concurrency in dict.fromkeys(row["concurrency"] for row in stage):
        ours, theirs = ([row for row in stage if (row["concurrency"], row["way"]) == (concurrency, w)] for w in WAYS)
        rates = [statistics.median(float(row["rows_per_s"]) for row in way) for way in (ours, theirs)]
        cpu = [statistics.median(float(row["cpu_ms_per_row"]) for row in way) for way in (ours, theirs)]
        ratios = sorted(a["rows_per_s"] / b["rows_per_s"] for a, b in zip(ours, theirs, strict=True))
        told = f"{statistics.median(ratios):.1%} ({ratios[0]:.1%}–{ratios[-1]:.1%})"
        lines.append(
            f"| {concurrency} | {len(ours)} | {rates[0]:.0f} | {rates[1]:.0f} | {told} | {cpu[0]:.2f} / {cpu[1]:.2f} |"
        )
    for row in rows:
        if row["part"] == "long":
            lines += [
                "",
                f"{row['rows']:,} rows, {row['concurrency']} in flight, {row['latency']:g} s each: {row['rows_per_s']} "
                f"rows/s, {row['of_limit']:.1%} of concurrency/latency; {row['cpu_ms_per_row']} ms CPU a row; "
                f"{row['rss_mb_1024']} MB after 1,024 answers, {row['rss_mb_end']} MB at the end.",
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("WAY", "URL", "ROWS", "CONCURRENCY"), help="one measurement")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run of the comparison, at the limit")
    parser.add_argument("--rows", type=int, default=10240, help="of the long run; 0: leave it out")
    parser.add_argument("--out", type=Path, default=HERE / "distillation.csv")
    options = parser.parse_args()
    if options.one:
        way, url, n, concurrency = options.one
        run = long_run if way == "long" else lambda *arguments: measured(way, *arguments)
        print(*run(url, int(n), int(concurrency)))
        sys.exit()
    found = list(compared(options.repetitions, options.seconds)) + list(many(options.rows, 1 if options.rows else 0))
    with open(options.out, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print(summary(found))
