"""What the executor plugin is told, where no Slurm is needed to see it; the rest is in tests/cluster."""

import inspect
import os

import pytest
import snakemake_executor_plugin_slurm as plugin
from moult.jobs.slurm import cancel_leftovers, keep_to_squeue, record_run


@pytest.mark.parametrize(("at_first", "later"), [(300, 300), (None, None)])
def test_a_controller_that_is_away_does_not_change_how_it_is_asked(monkeypatch, at_first, later):
    """The plugin's look-up is replaced where it uses it; where there was no answer at the start, it is left alone."""
    answers = iter([at_first])
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: next(answers, None))
    keep_to_squeue()
    assert plugin.get_min_job_age() == later
    assert "get_min_job_age()" in inspect.getsource(plugin.Executor.check_active_jobs)


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """Return a function that sets Slurm's queue, as {job: (run, folder)}, and `gone`, the jobs that were cancelled."""
    monkeypatch.chdir(tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "squeue").write_text(f"#!/bin/sh\n[ -e {tmp_path}/gone ] || cat {tmp_path}/queue\n")
    (commands / "scancel").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/gone\n')
    for name in ("squeue", "scancel"):
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)

    def holds(jobs):
        (tmp_path / "gone").unlink(missing_ok=True)
        (tmp_path / "queue").write_text("".join(f"{job}|{run}|{place}\n" for job, (run, place) in jobs.items()))

    return holds


def test_jobs_are_cancelled_only_by_the_one_scheduler_of_a_folder_and_only_of_its_experiment(queue, tmp_path):
    runs, told, gone = tmp_path / "runs", [], tmp_path / "gone"
    for experiment, run in (("first", "run-1"), ("second", "run-2"), ("first", "run-3")):
        record_run(runs, experiment, run)
    here, jobs = str(tmp_path), {}
    jobs |= {"11": ("run-1", here), "12": ("run-2", here), "13": ("run-3", here), "14": ("somebody's|own", here)}
    jobs |= {"15": ("run-1", "/elsewhere")}
    queue(jobs)
    cancel_leftovers(runs, "first", False, told.append)
    assert not gone.exists() and told == [
        "another build is at work in this folder: Slurm jobs 11, 13 of first are not cancelled"
    ]
    cancel_leftovers(runs, "third", True, told.append)
    assert not gone.exists() and len(told) == 1
    cancel_leftovers(runs, "first", True, told.append)
    assert gone.read_text() == "11 13\n" and told[1].endswith("Slurm jobs 11, 13")
    assert [path.name for path in runs.iterdir()] == ["run-2"]
    # Once that is done, the same numbers are nobody's.
    queue(jobs)
    cancel_leftovers(runs, "first", True, told.append)
    assert not gone.exists()
