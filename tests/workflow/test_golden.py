"""A change of shape makes nobody's results, and no paid answer, again; see tests/golden/record.py."""

import json

import pytest
from golden import record


@pytest.mark.parametrize("config", record.configs())
def test_jobs_are_those_that_are_recorded(tmp_path, config):
    lines = (json.loads(line) for line in (record.HERE / "jobs.jsonl").read_text().splitlines())
    recorded = [line for line in lines if line["config"] == config]
    found = record.jobs(config, tmp_path)
    assert {line["rule"] for line in found} == {line["rule"] for line in recorded}
    for ours, theirs in zip(found, recorded, strict=True):
        assert ours == theirs


def test_keys_are_those_that_are_recorded():
    assert record.keys() == json.loads((record.HERE / "keys.json").read_text())
