"""Whole processes, measured: wall and CPU seconds and the peak resident memory of the process tree. Linux, standard library only.

The benchmark drivers import it; it knows no engine. A driver must stay small itself: whatever needs memory (making data, checking
results) is a process of its own.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")


class Measured(NamedTuple):
    wall: float  # seconds
    cpu: float  # seconds, user and system, all processes
    peak: float  # MB (10^6 bytes) of resident memory, all processes at once
    work: float  # seconds of the work alone where the process says so in a line `work SECONDS` (without start and imports); else wall
    output: str = ""  # what it wrote to standard output


class Failed(Exception):
    """A measured command did not succeed; the text says which, and the end of what it wrote."""


def python(requirements, *pip_options):
    """The path of a Python that has these packages, made on the first call."""
    command = [REPOSITORY / "scripts" / "python-env", requirements, *pip_options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def cache_folder(name):
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smelt" / name


def smelt_binary(given):
    """The binary given, or the repository's release build."""
    path = Path(given) if given else Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "release" / "smelt"
    if not path.is_file():
        sys.exit(f"error: no binary at {path}: build it with `cargo build --release -p smelt`, or give --smelt PATH")
    return path.resolve()


def run(command, log, env=None):
    """Runs a command that is not measured; its output goes to the file `log`, whose end is shown where it fails."""
    with open(log, "w") as out:
        code = subprocess.run([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, env=env).returncode
    if code:
        raise Failed(f"{describe(command)} ended with {code}\n{tail(log)}")


def measure(command, log, env=None, every=0.01):
    """Runs a command and measures it. `log` is the stem of two files for its output.

    Memory is polled: the greatest sum over the tree of what is resident, and at least the high-water mark of any one process, which the
    kernel keeps, so that a short peak of a single process is not missed."""
    output, errors = Path(f"{log}.out"), Path(f"{log}.err")
    peak, seconds = 0, {}
    with open(output, "w") as out, open(errors, "w") as err:
        start = time.monotonic()
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=env)
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                wall = time.monotonic() - start
                break
            sum_now = 0
            for process in tree(child.pid):
                resident, high, cpu = sample(process)
                sum_now += resident
                peak = max(peak, high)
                seconds[process] = max(seconds.get(process, 0.0), cpu)
            peak = max(peak, sum_now)
            time.sleep(every)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise Failed(f"{describe(command)} ended with {child.returncode}\n{tail(output)}{tail(errors)}")
    # the kernel's sum lacks processes that nobody waited for (Spark's JVM); the polled one lacks the last moment
    cpu = max(usage.ru_utime + usage.ru_stime, sum(seconds.values()))
    text = output.read_text()
    work = re.search(r"^work ([\d.]+)$", text, re.MULTILINE)
    return Measured(wall, cpu, peak / 1e6, float(work[1]) if work else wall, text)


def tree(pid):
    found, todo = [], [pid]
    while todo:
        process = todo.pop()
        found.append(process)
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children") as f:
                    todo += [int(child) for child in f.read().split()]
        except OSError:
            pass  # it has ended
    return found


def sample(pid):
    """Resident bytes now, their high-water mark, and CPU seconds of the process alone; zeros where it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as f:
            resident = int(f.read().split()[1]) * PAGE
        with open(f"/proc/{pid}/status") as f:
            high = re.search(r"VmHWM:\s+(\d+) kB", f.read())
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return resident, int(high[1]) * 1024 if high else 0, (int(fields[11]) + int(fields[12])) / TICK
    except (OSError, IndexError, ValueError):
        return 0, 0, 0.0


def copy(source, target):
    """Replaces the folder `target` by a copy of `source`, and waits until it is on the disk: writing it back is not the engine's work."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    os.sync()


def medians(results):
    """Each figure's median over the rounds, alone."""
    return Measured(*(statistics.median(r[i] for r in results) for i in range(4)))


HEADS = ["wall", "without start-up", "CPU", "peak memory"]


def cells(m):
    """What stands below HEADS."""
    return [f"{m.wall:.2f} s", f"{m.work:.2f} s", f"{m.cpu:.2f} s", f"{m.peak:,.0f} MB"] if m else [""] * 4


def table(head, rows):
    """A Markdown table; numbers to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    align = ["--:" if any(re.match(r"^[\d.,]+ (s|MB)", row[i]) for row in rows) else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align, *rows])


def machine():
    """One line on where this was measured: processors, memory, load."""
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) * 1024 / 1e9
    return f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GB memory, load {os.getloadavg()[0]:.1f} at the start, {time.strftime('%Y-%m-%d')}"


def describe(command):
    return " ".join(Path(str(c)).name if str(c).startswith("/") else str(c) for c in command)


def tail(path, lines=30):
    text = Path(path).read_text(errors="replace").splitlines()[-lines:]
    return "".join(f"  {line}\n" for line in text)
