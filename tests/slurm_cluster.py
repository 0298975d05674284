"""A real Slurm of one machine in a temporary folder: munged, slurmctld and slurmd, without systemd or root's files.

Two partitions share the node: ``low``, whose jobs are pre-empted and requeued, and ``high``, whose jobs do that.

    python tests/slurm_cluster.py FOLDER COMMAND...    # run COMMAND with SLURM_CONF set, then stop the cluster
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=embench
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize={max_array_size}
JobRequeue=1
KillWait=25
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str | None:
    """Say why no Slurm can be started here, or return ``None``."""
    absent = [name for name in (*DAEMONS, "sbatch") if program(name) is None]
    if absent:
        return f"no {', '.join(absent)} here; on Debian: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd needs root"


def program(name: str) -> str | None:
    """Return the path of a program; daemons are often in ``/usr/sbin``, off a user's path."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


@contextmanager
def cluster(folder: Path, *, cpus: int | None = None, max_array_size: int = 1001) -> Iterator[dict[str, str]]:
    """Run a Slurm in ``folder`` and give the environment in which its commands find it."""
    host = socket.gethostname().partition(".")[0]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(
            host=host,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            folder=folder,
            ports=free_ports(2),
            cpus=cpus or os.cpu_count(),
            max_array_size=max_array_size,
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(config)}
    places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> None:
        with (folder / f"{name}.out").open("ab") as output:
            command = [str(program(name)), *options]
            started.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))

    try:
        start("munged", "--force", "--foreground", *(f"--{option}={folder}/munge/{f}" for option, f in places.items()))
        _wait(lambda: (folder / "munge" / "socket").exists(), "munged's socket")
        start("slurmctld", "-D", "-c", "-i")
        start("slurmd", "-D", "-N", host)
        _wait(lambda: "idle" in _said(environment, "sinfo", "--noheader", "--format=%t"), "an idle node")
        yield environment
    finally:
        _said(environment, "scancel", "--full", "--signal=KILL", "--user=root")
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _said(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait(happened: object, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {seconds:.0f} s; see the logs in the cluster's folder")
        time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    """Return ports of this machine on which nothing listens."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    if reason := missing():
        raise SystemExit(reason)
    with cluster(Path(sys.argv[1]).absolute()) as environment:
        raise SystemExit(subprocess.run(sys.argv[2:], env=environment, check=False).returncode)
