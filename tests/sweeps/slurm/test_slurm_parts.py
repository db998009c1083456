"""What Slurm's commands print, and what is made of it; no cluster is needed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frontrunner import config as configuration
from frontrunner.errors import Cancelled, ConfigError, Preempted, RunError, Stopped, TimeLimit
from frontrunner.sweeps import slurm_cluster, slurm_job, slurm_queue
from frontrunner.sweeps.launcher import JobState, State
from frontrunner.sweeps.plan import build_launcher
from frontrunner.sweeps.slurm import Slurm
from frontrunner.sweeps.slurm_queue import SlurmQueue
from frontrunner.sweeps.sweep import Sweep, read_job
from frontrunner.tracking import manifest

StandIns = Callable[..., Sweep]
Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """``programs(squeue="shell lines", …)``: the only commands of Slurm that there are."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("squeue", "sacct", "scontrol", "sinfo", "sbatch", "srun", "scancel"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")

    return make


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("2:30", 2.5),
        ("1:30:00", 90),
        ("1-0", 1440),
        ("1-02:30", 1590),
        ("7-00:00:30", 10080.5),
        ("infinite", None),
        ("1h", None),
        ("", None),
    ],
)
def test_times_are_slurms(text: str, minutes: float | None) -> None:
    assert slurm_cluster.minutes(text) == minutes


def test_sizes_and_gpus_are_slurms() -> None:
    assert slurm_cluster.megabytes("80GB") == 80 * 1024
    assert slurm_cluster.megabytes("500M") == slurm_cluster.megabytes("500") == 500
    assert slurm_cluster.megabytes("much") is None
    told = ["gpu:2", "gpu:a100:4(S:0-1),nvme:1", "nvme:3", "(null)", "gpu:a:1,gpu:b:2(S:0)", "gpu"]
    assert [slurm_cluster._gpus(gres) for gres in told] == [2, 4, 0, 0, 3, 1]


# ---------------------------------------------------------------------- why a signal came

FACTS = {"Restarts": "1", "PreemptTime": "None", "TimeLimit": "01:00:00", "RunTime": "00:10:00"}


@pytest.mark.parametrize(
    ("number", "facts", "meant"),
    [
        (signal.SIGUSR2, {"RunTime": "00:57:30"}, TimeLimit),
        (signal.SIGUSR2, {"RunTime": "00:57:30", "TimeLimit": "1-00:00:00"}, Preempted),
        (signal.SIGUSR2, {"PreemptTime": "2026-01-01T00:00:00", "RunTime": "00:59:00"}, Preempted),
        (signal.SIGUSR2, {}, Preempted),
        (signal.SIGTERM, {"PreemptTime": "2026-01-01T00:00:00"}, Preempted),
        (signal.SIGTERM, {"Restarts": "2", "RunTime": "00:00:00"}, Preempted),
        (signal.SIGTERM, {"RunTime": "01:00:03"}, TimeLimit),
        (signal.SIGTERM, {}, Cancelled),
        (signal.SIGTERM, {"TimeLimit": "UNLIMITED"}, Cancelled),
    ],
)
def test_a_signal_means_what_the_controller_knows(
    number: int, facts: dict[str, str], meant: type[Stopped]
) -> None:
    facts = {**FACTS, **facts}
    assert slurm_job.cause(number, facts, restarts=1, left=9999, warning=120) is meant


def test_without_an_answer_the_jobs_own_watch_counts() -> None:
    def meant(number: int, left: float) -> type[Stopped]:
        return slurm_job.cause(number, {}, restarts=0, left=left, warning=120)

    assert meant(signal.SIGUSR2, 100) is TimeLimit
    assert meant(signal.SIGUSR2, 3000) is Preempted
    assert meant(signal.SIGTERM, 100) is Cancelled
    assert meant(signal.SIGTERM, -1) is TimeLimit


def test_an_element_is_named_within_its_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "40")
    assert slurm_job.job_name() == "40"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert slurm_job.job_name() == "40_7"


def test_a_job_that_slurm_requeued_too_often_gives_up(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, restored: None
) -> None:
    sweep = stand_ins("often", {"one": {}})
    directory = sweep.directory(sweep.cells[0])
    manifest.RunRecord.open(directory)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    with pytest.raises(SystemExit, match=r"stopped 3 times, now by preemption or lost nodes"):
        slurm_job.run(str(sweep.folder), sweep.cells[0].identity, 3, 60, 120)
    error = manifest.RunRecord.read(directory).data["error"]
    assert error["type"] == "Preempted"


@pytest.fixture
def restored() -> Any:
    """Signal handlers are as before once a test is over."""
    before = {n: signal.getsignal(n) for n in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ---------------------------------------------------------------------- how jobs stand


def jobs(*names: str) -> list[dict[str, str]]:
    return [{"launcher": "slurm", "job": name, "sweep": "/s"} for name in names]


def test_squeue_is_asked_once_and_understood(programs: Programs, tmp_path: Path) -> None:
    lines = [
        "1_0 PENDING 0 0 JobArrayTaskLimit",
        "1_1 RUNNING 0 0 None",
        "1_2 COMPLETING 1 0 None",
        "1_3 COMPLETED 0 0 None",
        "1_4 FAILED 0 256 NonZeroExitCode",
        "1_5 FAILED 0 9 JobLaunchFailure",
        "1_6 FAILED 0 35072 NonZeroExitCode",
        "1_7 CANCELLED 0 15 None",
        "1_8 TIMEOUT 0 0 TimeLimit",
        "1_9 NODE_FAIL 0 0 NodeDown",
        "1_10 OUT_OF_MEMORY 0 0 OutOfMemory",
        "1_11 PENDING 2 0 BeginTime",
        "1_12 PREEMPTED 0 0 None",
        "1_13 PENDING 0 0 SomethingNew",
        "99_0 RUNNING 0 0 None",
    ]
    told = "\n".join(lines)
    programs(squeue=f"echo \"$@\" >> {tmp_path}/asked\ncat <<'E'\n{told}\nE")
    found = SlurmQueue().states(jobs(*(f"1_{i}" for i in range(14)), "nonsense"))
    assert {job: (s.state, s.reason) for job, s in found.items()} == {
        "1_0": (State.QUEUED, "as many run as launcher.parallel allows"),
        "1_1": (State.RUNNING, ""),
        "1_2": (State.RUNNING, ""),
        "1_3": (State.DONE, ""),
        "1_4": (State.FAILED, "exit code 1"),
        "1_5": (State.KILLED, "signal 9 (SIGKILL)"),
        "1_6": (State.KILLED, "signal 9 (SIGKILL)"),
        "1_7": (State.KILLED, "cancelled"),
        "1_8": (State.TIMEOUT, "time limit"),
        "1_9": (State.NODE_FAIL, "its node failed"),
        "1_10": (State.KILLED, "out of memory: raise launcher.memory"),
        "1_11": (
            State.QUEUED,
            "requeued by Slurm, after preemption or the loss of its node (2 times so far)",
        ),
        "1_12": (State.PREEMPTED, "preempted"),
        "1_13": (State.QUEUED, "SomethingNew"),
    }
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs=1 " in asked


def test_what_the_controller_forgot_is_asked_of_sacct(programs: Programs) -> None:
    programs(
        squeue='echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1',
        sacct="printf '5_0|COMPLETED|0:0\\n5_1|CANCELLED by 1000|0:15\\n5_2|FAILED|9:0\\n"
        "5_[3-9]|PENDING|0:0\\n'",
    )
    found = SlurmQueue().states(jobs("5_0", "5_1", "5_2", "5_3"))
    assert [found[f"5_{i}"].state for i in range(4)] == [
        State.DONE,
        State.KILLED,
        State.KILLED,
        None,
    ]


def test_without_accounting_the_jobcomp_file_is_read(programs: Programs, tmp_path: Path) -> None:
    entry = (
        "JobId={} UserId=u(1) Name=x JobState={} Partition=low {}DerivedExitCode=0:0 ExitCode={} "
    )
    lines = [
        entry.format(7, "PENDING", "ArrayJobId=7 ArrayTaskId=0 ", "0:0"),
        entry.format(7, "FAILED", "ArrayJobId=7 ArrayTaskId=0 ", "1:0"),
        entry.format(8, "NODE_FAIL", "ArrayJobId=7 ArrayTaskId=1 ", "0:0"),
        entry.format(9, "COMPLETED", "", "0:0"),
        "cut short JobId=",
    ]
    (tmp_path / "completed").write_text("\n".join(lines))
    settings = f"JobCompType = jobcomp/filetxt\nJobCompLoc = {tmp_path}/completed"
    programs(squeue="exit 0", scontrol=f"echo '{settings}'")
    assert SlurmQueue().states(jobs("7_0", "7_1", "9", "10")) == {
        "7_0": JobState(State.FAILED, "exit code 1"),
        "7_1": JobState(State.NODE_FAIL, "its node failed"),
        "9": JobState(State.DONE),
        "10": JobState(None, "it ended, and Slurm no longer knows how"),
    }


def test_a_scheduler_that_hangs_or_fails_is_an_error(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_cluster, "PATIENCE", 0.3)
    programs(squeue="exec sleep 20")
    with pytest.raises(RunError, match=r"squeue did not answer within 0\.3 s"):
        SlurmQueue().states(jobs("1"))
    programs(squeue='echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(RunError, match="Unable to contact slurm controller"):
        SlurmQueue().states(jobs("1"))


def test_a_thousand_jobs_take_a_fraction_of_a_second(programs: Programs) -> None:
    programs(squeue="for i in {0..999}; do echo 1_$i RUNNING 0 0 None; done")
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        found = SlurmQueue().states(jobs(*(f"1_{i}" for i in range(1000))))
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.5  # of those that nothing else on this machine was in the way of
    assert set(found.values()) == {JobState(State.RUNNING)}


def test_cancelling_thousands_is_done_in_few_commands(programs: Programs, tmp_path: Path) -> None:
    programs(scancel=f"echo $# >> {tmp_path}/counts")
    SlurmQueue().cancel(jobs(*(f"1_{i}" for i in range(1200))))
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert counts == [slurm_queue.AT_ONCE, slurm_queue.AT_ONCE, 200]


# ---------------------------------------------------------------------- keys, and what is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("+launcher.gpu=1", r"unknown key 'launcher\.gpu'; did you mean 'gpus'"),
        ("launcher.time=soon", r"launcher\.time=soon is no time limit"),
        ("launcher.time=2", r"launcher\.warning=120 seconds leave nothing of launcher\.time=2"),
        ("launcher.memory=lots", r"launcher\.memory=lots is no amount"),
        ("launcher.cpus=0", r"launcher\.cpus=0 must be a whole number of at least 1"),
        ("launcher.setup=x", r"launcher\.setup=x must be a list"),
        ("+launcher.options.output=x", r"launcher\.options\.output: frontrunner sets it"),
        (
            "+launcher.families.pruning.gpu=1",
            r"unknown key 'launcher\.families\.pruning\.gpu'",
        ),
        ("+launcher.families.pruning=3", r"launcher\.families\.pruning must be keys and values"),
    ],
)
def test_wrong_keys_and_values_are_named(words: str, told: str, tiny: list[str]) -> None:
    cell = ["method=learning/cosmos", "launcher=slurm", *tiny, words]
    node = configuration.compose(cell).launcher
    with pytest.raises(ConfigError, match=told):
        build_launcher(node)


def test_families_have_resources_of_their_own(stand_ins: StandIns) -> None:
    sweep = stand_ins("families", {"one": {}})
    launcher = Slurm(cpus=2, time=30, families={"learning": {"time": "1:00:00", "gpus": 1}})
    assert launcher.resources(sweep.cells) == [
        "1 job: the default partition, 60 min, 2 CPUs, 1 GPU"
    ]


def test_no_sbatch_is_said(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="there is no sbatch on this machine"):
        Slurm().check(stand_ins("none", {"one": {}}).cells)


def test_a_process_for_each_device(stand_ins: StandIns, programs: Programs) -> None:
    (cell,) = stand_ins("ddp", {"one": {}}).cells
    cell.config["method"]["training"] = {}  # type: ignore[index]
    cell.config["runner"]["devices"] = 2  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"tasks_per_node=1 and runner\.devices=2 must be the"):
        Slurm().check([cell])
    Slurm(tasks_per_node=2).check([cell])


def test_arrays_are_as_large_as_the_cluster_allows(
    stand_ins: StandIns, programs: Programs, tmp_path: Path
) -> None:
    sweep = stand_ins("arrays", {f"cell{i}": {} for i in range(5)})
    programs(
        scontrol="echo 'MaxArraySize = 2'",
        sbatch=f'grep -h "array=" "$1" >> {tmp_path}/arrays; n=$(cat {tmp_path}/n 2>/dev/null || '
        f"echo 0)\nif [ $n -ge 2 ]; then echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; "
        f'exit 1; fi\necho $((n + 1)) > {tmp_path}/n; echo "Submitted batch job $((n + 10))"',
    )
    with pytest.raises(RunError, match=r"4 of 5 cells .*QOSMaxSubmit.* submit the rest"):
        Slurm(parallel=1).submit(sweep, sweep.cells)
    assert (tmp_path / "arrays").read_text().split() == ["#SBATCH", "--array=0-1%1"] * 2
    noted = [read_job(sweep.directory(cell)) for cell in sweep.cells]
    assert [job and job["job"] for job in noted] == ["10_0", "10_1", "11_0", "11_1", None]
    assert noted[3]
    assert noted[3]["log"] == str(sweep.logs / "11_1_0_log.out")
    assert os.listdir(sweep.logs)
