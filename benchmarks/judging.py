"""What does judging cost a model here? `python benchmarks/judging.py MODEL [--csv benchmarks/judging.csv]`

MODEL is a folder in Hugging Face layout. The pairs of resources/judge/injections.yaml, as they are and with one attack
each, are judged in both orders by the rubric `default`: in batches of 16 and one a call, in the enforced form and in
free text (the published line). Each way is a process of its own, float32, one thread. A line of the table: way, form,
requests, answer tokens, seconds of CPU and of the clock without the load, seconds of the load, and MB: the peak of the
process, what it held before the load, the weights, and how often these go into what the peak adds. An answer ends at 64
tokens, so that both forms write as much.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from moult.base.files import write_csv  # noqa: E402
from moult.data.prompts import load_template  # noqa: E402
from moult.data.rubrics import named_rubric  # noqa: E402
from moult.evaluation.judging import pair_request  # noqa: E402
from moult.inference.engines.loading import load_engine  # noqa: E402

WAYS = (("batches of 16", 16, "json"), ("one a call", 1, "json"), ("batches of 16", 16, "line"))
COLUMNS = (
    "way form requests answer_tokens cpu_seconds seconds load_seconds peak_mb before_mb weights_mb peak_of_weights"
).split()


def requests_of(form, pairs):
    """Return the requests in both orders, in the enforced form (json) or in free text (line)."""
    recipe = {"endpoint": {"serve": "judge"}, "questions": {"seed": 0}, "prompt": load_template("judge/compare")}
    recipe |= {"rubric": named_rubric("default"), "form": form}
    recipe |= {"decoding": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64}}
    orders = [order for pair in pairs for order in ((pair, "good", "weak"), (pair, "weak", "good"))]
    return [pair_request(recipe, pair, (pair[one], pair[other])) for pair, one, other in orders]


def megabytes():
    """Return what this process has held at most."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def measure(model, way, batch, form):
    """Return a line of the table."""
    data = yaml.safe_load((ROOT / "resources" / "judge" / "injections.yaml").read_text(encoding="utf-8"))
    attacked = [pair | {"weak": f"{pair['weak']} {data['attacks']['answer']['order']}"} for pair in data["pairs"]]
    requests = requests_of(form, data["pairs"] + attacked)
    import torch  # noqa: F401  # what a process holds for any model
    import transformers.models.llama.modeling_llama  # noqa: F401

    before, begun = megabytes(), time.perf_counter()
    engine = load_engine(Path(model), batch_size=batch)
    loaded, cpu = time.perf_counter(), time.process_time()
    answers = [answer for several in engine.answer(requests, list(range(len(requests)))) for _, answer in several]
    line = way, form, len(requests), sum(answer.completion_tokens for answer in answers)
    seconds = (round(one, 1) for one in (time.process_time() - cpu, time.perf_counter() - loaded, loaded - begun))
    weights = round(sum(tensor.numel() * 4 for tensor in engine.model.parameters()) / 1e6)
    peak = megabytes()
    memory = peak, before, weights, round((peak - before) / weights, 2)
    return dict(zip(COLUMNS, (*line, *seconds, *memory), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--csv", help="write the table here, too")
    parser.add_argument("--way", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options.model, *WAYS[options.way])))
        return
    lines = []
    for number in range(len(WAYS)):
        command = [sys.executable, __file__, options.model, "--way", str(number)]
        lines.append(
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        )
        print(*lines[-1].values(), sep="\t", flush=True)
    if options.csv:
        write_csv(options.csv, lines, COLUMNS)


if __name__ == "__main__":
    main()
