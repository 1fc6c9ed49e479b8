# SPDX-License-Identifier: Apache-2.0
"""What an engine asks of the system: pages once, threads that survive a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREPARE = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
import numpy as np
from test_engine import *
from thinmaps.run import cores, describe
def share_every_step():
    cores.usable_cores = lambda: 8
    describe.step_nanoseconds = lambda plan, steps, cost: np.full(len(steps), 2**30, np.int32)
network = small_network(height=400, width=300)
plan = build(network, schedule="layer")
inputs = [pictures(1, network)[0]]
"""


# A core that is built with sanitizers loads behind their run-time libraries only.
KEPT = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")


def said(code: str) -> list[str]:
    """What a process prints that has prepared a plan and an input."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path), **kept},
    )
    return done.stdout.split()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_warm_run_faults_no_page(threads: int) -> None:
    first, *warm = said(f"""
import resource
share_every_step()
engine = Engine(plan, threads={threads})
outputs = [np.empty(spec.shape, spec.dtype) for spec in engine.output_specs.values()]
def faults():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt + used.ru_majflt
for _ in range(20):
    before = faults()
    engine.run_into(inputs, outputs)
    print(faults() - before)
""")
    assert int(first) > 100, "the count counts"
    # A run that took memory would fault every time. A sanitizer, which keeps freed memory back,
    # gives the interpreter around the engine a fresh page now and then.
    assert warm[3:].count("0") >= 12, warm


def test_a_prefaulted_arena_is_resident_before_the_first_run() -> None:
    plain, prefaulted, arena = map(
        int,
        said("""
import resource
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
engines = []
for prefault in (False, True):
    before = resident()
    engines.append(Engine(plan, prefault=prefault))
    print(resident() - before)
print(plan.arena_bytes)
"""),
    )
    assert plain < arena // 2
    assert prefaulted > arena - 8192


def test_a_forked_process_goes_on_with_its_parents_engine() -> None:
    assert said("""
share_every_step()
engine = Engine(plan, threads=3)
expected = engine.maps(inputs[0])
child = os.fork()
if child == 0:
    made = engine.maps(inputs[0])
    same = all((made[name] == values).all() for name, values in expected.items())
    del engine
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(int((engine.maps(inputs[0])["head"] == expected["head"]).all()))
""") == ["0", "1"]


def test_an_engine_takes_no_more_threads_than_cores() -> None:
    assert said("""
import thinmaps
some = sorted(os.sched_getaffinity(0))
print(Engine(plan, threads=None).threads == len(some))
os.sched_setaffinity(0, some[:1])
for threads in (4, None):
    for engine in (Engine(plan, threads=threads), thinmaps.Engine(plan, threads=threads).native):
        print(engine.threads)
""") == ["True", "1", "1", "1", "1"]


def test_a_step_that_takes_little_time_wakes_nobody() -> None:
    """An engine of two threads whose steps are all short leaves the second one asleep."""
    assert said("""
import time
cores.usable_cores = lambda: 2
def switches(nanoseconds):
    describe.step_nanoseconds = lambda plan, steps, cost: np.full(len(steps), nanoseconds, np.int32)
    before = {*os.listdir("/proc/self/task")}
    engine = Engine(plan, threads=2)
    (helper,) = {*os.listdir("/proc/self/task")} - before
    time.sleep(0.1)
    def count():
        lines = open(f"/proc/self/task/{helper}/status").read().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    asleep = count()
    for _ in range(10):
        engine.maps(inputs[0])
    time.sleep(0.1)
    return count() - asleep
print(switches(1000) == 0, switches(2**30) > 0)
""") == ["True", "True"]
