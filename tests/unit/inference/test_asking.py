"""Who answers: equal weights are loaded once, two models are never in memory together, what was answered stays."""

import sys
import types
import weakref

import pytest
from moult.base.files import write_json
from moult.inference.asking import Asker, EnginePool, asker_of
from moult.inference.engines import loading
from moult.inference.engines.vllm import VllmEngine
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from openai_server import OpenAIServer

COMPUTE = {"engine": "transformers", "dtype": "float32", "batch_size": 1, "threads": 1}
CLIENT = {"key": None, "concurrency": 1, "timeout": 5, "retries": 0, "price": {"input": 1.0, "output": 1.0}}


def requests(*texts):
    return [ChatRequest(({"role": "user", "content": text},), Sampling(max_tokens=3)) for text in texts]


def remote(server, model):
    return {"name": model, "url": server.url, "model": model}


@pytest.fixture
def served(tmp_path, pico_model):
    """Return a function that opens the Asker of weights that are known by a letter."""

    def asker(letter, pool):
        manifest = tmp_path / f"{letter}.manifest.json"
        write_json(manifest, {"content": letter})
        return Asker({"name": letter, "serve": letter, "compute": COMPUTE}, pool, model=pico_model, manifest=manifest)

    return asker


@pytest.fixture
def models(monkeypatch):
    """Return the models that were loaded, as weak references; a load asserts that there is none beside it."""
    loaded, load = [], loading.load_engine

    def watched(*given, **more):
        assert not [one for one in loaded if one()]
        engine = load(*given, **more)
        loaded.append(weakref.ref(engine.model))
        return engine

    monkeypatch.setattr(loading, "load_engine", watched)
    return loaded


def test_equal_weights_are_loaded_once_and_two_models_are_never_in_memory_together(tmp_path, served, models):
    with served("a", tmp_path / "j.sqlite") as student:
        twin, judge = served("a", student.pool), served("b", student.pool)
        student.ask(requests("one"))
        twin.ask(requests("two"))
        twin.label_logprobs([LabelRequest(({"role": "user", "content": "one"},), ("yes", "no"))])
        assert len(models) == 1 and models[0]()
        judge.ask(requests("one"))
        assert len(models) == 2 and not models[0]()
        # What the journal has needs no model.
        twin.ask(requests("one", "two"))
        assert len(models) == 2 and models[1]()
        student.ask(requests("three"))
        assert len(models) == 3
        # Leaving an asker that is a guest in a pool closes nothing.
        with twin:
            pass
        assert models[2]()
    assert not models[2]()
    assert [asker.usage()["calls"] for asker in (student, twin, judge)] == [2, 3, 1]


def test_what_was_answered_before_a_job_died_is_not_asked_again(tmp_path, served, monkeypatch):
    wanted, asked, load = requests("a", "a b", "a b c", "a b c d"), [], loading.load_engine

    def dying(*given, **more):
        engine = load(*given, **more)
        complete = engine._complete

        def one(*batch):
            if len(asked) == 3:
                raise KeyboardInterrupt
            asked.append(batch)
            return complete(*batch)

        engine._complete = one
        return engine

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loading, "load_engine", dying)
        with served("a", tmp_path / "j.sqlite") as asker:
            asker.ask(wanted)
    # The file is whole and free for the next job, which has one request left.
    asked.pop()
    with served("a", tmp_path / "j.sqlite") as asker, served("a", tmp_path / "undisturbed.sqlite") as other:
        monkeypatch.setattr(loading, "load_engine", dying)
        values = asker.ask(wanted)
        monkeypatch.setattr(loading, "load_engine", load)
        assert len(asked) == 3 and values == other.ask(wanted)


def test_a_job_says_in_one_line_who_answers(tmp_path):
    recipe = {"endpoint": {"name": "teacher", "url": "http://x", "model": "big"}, "model": "own", "compute": COMPUTE}
    recipe |= {"judge": {"name": "judge", "serve": "base", "compute": COMPUTE}}
    running = types.SimpleNamespace(recipe=recipe, client=CLIENT, journal=tmp_path / "j.sqlite")
    inputs = {"judge": "models/base", "judge_manifest": "models/base.manifest.json", "model": "models/own"}
    teacher = asker_of(running, inputs)
    assert (teacher.author, teacher.client, teacher.model) == ("big", CLIENT, None)
    running.client = {"endpoint": CLIENT, "judge": None, "round": None}
    assert asker_of(running, inputs).client == CLIENT
    judge = asker_of(running, inputs, "judge", teacher.pool)
    assert (judge.author, judge.client, judge.pool) == ("base", {}, teacher.pool)
    assert (judge.model, judge.manifest) == ("models/base", "models/base.manifest.json")
    running.client = None
    own = asker_of(running, inputs, "model")
    assert own.endpoint == {"name": "own", "serve": "own", "compute": COMPUTE} and own.model == "models/own"
    assert not list(tmp_path.iterdir())


def test_a_remote_endpoint_counts_what_another_asker_of_the_job_has_spent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = CLIENT | {"spending": "journal/spending/x", "budget": 1.0}
    with (
        OpenAIServer() as server,
        Asker({"name": "a", "url": server.url, "model": "m"}, "journal/r/j.sqlite", client) as one,
    ):
        other = Asker({"name": "b", "url": server.url, "model": "n"}, one.pool, client)
        for text in ("first", "second"):
            one.ask(requests(text))
            other.ask(requests(text))
    (counted,) = (tmp_path / "journal/spending/x").iterdir()
    spent = sum(asker.usage()["cost_usd"] for asker in (one, other))
    assert len(server.paid) == 4 and float(counted.read_text().split()[0]) == pytest.approx(spent)


def test_vllm_is_shut_down_before_another_model_loads(tmp_path, monkeypatch):
    """vLLM runs on GPUs alone: here stands what its release of a card consists of, in its order."""
    done = []
    core = types.SimpleNamespace(shutdown=lambda: done.append("shutdown"))
    engine = VllmEngine.__new__(VllmEngine)
    engine.llm = types.SimpleNamespace(llm_engine=types.SimpleNamespace(engine_core=core))

    def clean():
        assert engine.llm is None
        done.append("cleaned")

    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.distributed", types.SimpleNamespace(cleanup_dist_env_and_memory=clean))
    pool = EnginePool(tmp_path / "j.sqlite")
    pool.load("first", lambda: engine)
    pool.load("second", lambda: done.append("loaded"))
    assert done == ["shutdown", "cleaned", "loaded"]
    pool.close()
