"""Processes on cores of their own: started, waited for, measured and ended."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time


class Failure(Exception):
    """What went wrong, and the next step."""


PORTS = itertools.count(20_000 + os.getpid() % 5_000)


def free_port():
    """A port of loopback that nobody has, below those that the kernel gives to clients.

    One of the latter could be taken by a client, even by the one that waits for the server: it then
    connects to itself.
    """
    for port in PORTS:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the count doesn't end")


def pinned(cores, command):
    """The command, on these cores alone."""
    return ["taskset", "-c", ",".join(map(str, cores)), *map(str, command)]


class Server:
    """A running server, with all that it started."""

    def __init__(self, name, command, cores, port, log, stdout=None):
        self.name, self.port, self.log = name, port, log
        self.spawned = time.perf_counter()
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                pinned(cores, command),
                stdin=subprocess.DEVNULL,
                stdout=stdout or errors,
                stderr=errors,
                env=plain_environment(),
                start_new_session=True,
            )

    def wait_until_it_listens(self, seconds=20, pause=0.005):
        """Until a connection is accepted; a server that ends or takes too long is a failure."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.last_words()}")
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=1)
            except OSError as error:
                refusal = error
            time.sleep(pause)
        raise Failure(f"{self.name} does not listen after {seconds} s ({refusal}):\n{self.last_words()}")

    def last_words(self):
        """The end of its log, for messages."""
        with open(self.log, errors="replace") as log:
            return "".join(log.readlines()[-20:]) or f"(nothing in {self.log})"

    def cpu_ns(self):
        """Time on a CPU so far, of all its processes and their threads."""
        return sum(cpu_ns(process) for process in tree(self.process.pid))

    def end(self):
        """Ends it, and what it started, for certain."""
        processes = tree(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        for process in processes:
            # Its session tells that the number has not gone to somebody else.
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process) == self.process.pid:
                    os.kill(process, signal.SIGKILL)
        self.process.wait()


def plain_environment():
    """The environment without what would change unitgate's configuration."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UNITGATE_") and name != "RUST_LOG"
    }


def parent(process):
    """The parent of a process; None if there is no such process."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(root):
    """A process and all below it."""
    children = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        children.setdefault(parent(process), []).append(int(process))
    found, ahead = [], [root]
    while ahead:
        process = ahead.pop()
        found.append(process)
        ahead.extend(children.get(process, []))
    return found


def busy_ns(core):
    """Time that a core was not idle so far, whoever used it; to 10 ms."""
    with open("/proc/stat") as stat:
        ticks = next(line.split()[1:] for line in stat if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, ticks[:8])
    return (user + nice + system + irq + softirq + stolen) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(process):
    """Time on a CPU of all threads that a process has, to the nanosecond."""
    total = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{process}/task/{thread}/schedstat") as schedstat:
                    total += int(schedstat.read().split()[0])
    return total
