"""A Slurm cluster of one node, this machine, with its own keys, state and configuration in one folder.

Nothing outside this folder is changed, and no service manager is needed: the daemons are children of this process.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NODE = "localhost"
SECONDS_TO_START = 30

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# Without control groups, which a container often lacks, and without a data base.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
KillWait=3
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def one_node_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster in the empty ``folder``; yields the environment in which Slurm's commands use it.

    At the end, also after an error, its jobs are cancelled and its daemons ended.
    """
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o755)
    configuration = folder / "slurm.conf"
    configuration.write_text(_configuration(folder))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in _daemons(folder):
            with (folder / f"{command[0]}.out").open("wb") as output:
                daemons.append(
                    subprocess.Popen(
                        command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
                    )
                )
        _wait_until_idle(environment, daemons, folder)
        yield environment
    finally:
        _stop(daemons, environment)


def _configuration(folder: Path) -> str:
    machine = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"RealMemory=(\d+)", machine)
    assert found is not None, machine
    controller_port, node_port = _free_ports()
    return CONFIGURATION.format(
        host=socket.gethostname().split(".")[0],
        node=NODE,
        controller_port=controller_port,
        node_port=node_port,
        user=subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
        folder=folder,
        cpus=max(2, os.cpu_count() or 1),  # two processes of one run have to fit
        memory_mb=found[1],
    )


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _daemons(folder: Path) -> list[list[str]]:
    """The commands, each of which stays in the foreground."""
    munge = folder / "munge"
    key = munge / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"key-file": key, "socket": munge / "socket", "pid-file": munge / "pid",
             "seed-file": munge / "seed", "log-file": munge / "log"}  # fmt: skip
    return [
        # --force: the folder of a test may lie in one that others can write to, such as /tmp
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items())],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", NODE],
    ]


def _wait_until_idle(
    environment: dict[str, str], daemons: list[subprocess.Popen[bytes]], folder: Path
) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and not any(daemon.poll() is not None for daemon in daemons):
        asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    said = "\n".join(f"{file.name}:\n{file.read_text()[-1000:]}" for file in sorted(folder.glob("*.out")))
    raise RuntimeError(f"The Slurm cluster did not start.\n{said}")


def _stop(daemons: list[subprocess.Popen[bytes]], environment: dict[str, str]) -> None:
    if len(daemons) == 3:
        subprocess.run(
            ["scancel", "--state=PENDING", "-u", str(os.getuid())], env=environment, capture_output=True
        )
        subprocess.run(
            ["scancel", "--signal=KILL", "--full", "-u", str(os.getuid())],
            env=environment,
            capture_output=True,
        )
        end = time.monotonic() + 10
        while time.monotonic() < end:
            left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True).stdout
            if not left.strip():
                break
            time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in reversed(daemons):
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
