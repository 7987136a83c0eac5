"""What a job leaves out at its start stays out, and the rest works as ever. Each case is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNUSED = "import sys; print(sorted({'deepspeed', 'torch._dynamo', 'scipy', 'sklearn', 'pandas'} & set(sys.modules)))"


def python(*lines):
    """Run lines in a fresh process; return what they print."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK", None)
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_an_engine_answers_and_scores_without_the_compiler_and_torch_has_it_afterwards(pico_model):
    *_, unused, compiled = python(
        "from moult.inference.requests import ChatRequest, LabelRequest, Sampling",
        "from moult.inference.engines.loading import load_engine",
        f"engine = load_engine({str(pico_model)!r})",
        "chat = ({'role': 'user', 'content': 'hello'},)",
        "assert len(list(engine.answer([ChatRequest(chat, Sampling(max_tokens=2))]))) == 1",
        "assert len(list(engine.label_logprobs([LabelRequest(chat, ('yes', 'no'))]))) == 1",
        UNUSED,
        "import torch",
        "weight = torch.nn.Parameter(torch.ones(2))",
        "optimizer = torch.optim.AdamW([weight])",
        "weight.sum().backward()",
        "optimizer.step()",
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist())",
    )
    assert unused == "[]"
    assert compiled == "[2.0, 2.0]"


@pytest.mark.slow
def test_nothing_stays_replaced_when_an_import_fails():
    (told,) = python(
        "import sys, torch, transformers.utils, transformers.utils.import_utils as more",
        "from moult.base.lean_imports import hide_packages, hide_compiler",
        "before = (transformers.utils.is_scipy_available, more.is_scipy_available)",
        "try:",
        "    with hide_packages('scipy', 'torch_distributed'), hide_compiler():",
        "        assert not transformers.utils.is_scipy_available() and not more.is_torch_distributed_available()",
        "        raise ImportError",
        "except ImportError:",
        "    pass",
        "assert before == (transformers.utils.is_scipy_available, more.is_scipy_available)",
        "print('torch._dynamo' in sys.modules, torch._dynamo.disable.__module__)",
    )
    assert told == "False torch._dynamo.decorators"


@pytest.mark.parametrize(("rank", "asked"), [(None, False), ("0", True)])
def test_deepspeed_is_asked_for_only_in_one_process_of_several(rank, asked):
    (told,) = python(
        "import os",
        f"os.environ.update({ {'LOCAL_RANK': rank} if rank else {} })",
        "from moult.base.lean_imports import hide_deepspeed",
        "hide_deepspeed()",
        "import importlib.util, accelerate.utils.other as other",
        "print(other.is_deepspeed_available() == (importlib.util.find_spec('deepspeed') is not None))",
    )
    assert told == str(asked or not _installed())


def _installed():
    import importlib.util

    return importlib.util.find_spec("deepspeed") is not None
