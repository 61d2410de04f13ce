import os
import signal
import subprocess
import sys
import threading
import time

import portpicker
import pytest

from hrnet_jax.runs.signals import Stopped, stop_request
from tests.command import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def wait_for(request):
    deadline = time.monotonic() + 10
    while request.signal is None:
        assert time.monotonic() < deadline, "the signal was not heard"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")]
)
def test_a_signal_is_heard_and_the_block_goes_on(number, code, name, capfd):
    before = signal.getsignal(number)
    with stop_request() as request:
        assert not request.is_due(1)
        assert list(request.watch([1, 2])) == [1, 2]
        os.kill(os.getpid(), number)
        wait_for(request)
        assert request.is_due(2)
        assert request.is_due(3)
        with pytest.raises(Stopped, match=f"Stopped by {name}") as stopped:
            list(request.watch([1, 2]))
    assert stopped.value.exit_code == code
    assert f"{name}: finishing the step and saving; a second signal stops at once." in (
        capfd.readouterr().err
    )
    assert signal.getsignal(number) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_nothing_is_asked_for():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with stop_request() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.is_due(1)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


TWICE = """
import ctypes, os, signal
from hrnet_jax.runs.signals import stop_request
with stop_request() as request:
    os.kill(os.getpid(), signal.SIGTERM)
    while request.signal is None:
        pass
    os.kill(os.getpid(), signal.SIGINT)
    ctypes.CDLL(None).sleep(60)  # like a step of a minute: no Python runs in the main thread
"""


def test_a_second_signal_does_not_wait_for_the_step():
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert "SIGINT again: stopping at once." in done.stderr
    assert time.monotonic() - begin < 50


HOST = """
import sys, time
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from hrnet_jax.runs.signals import stop_request
with stop_request() as request:
    print("ready", flush=True)
    for step in range(1, 1000):
        if request.is_due(step):
            print(step, request.stopped().exit_code, flush=True)
            break
        time.sleep(0.02 + 0.02 * int(sys.argv[2]))  # one is slower
    else:
        print("never", flush=True)
jax.distributed.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_hosts_agree_on_one_step(number):
    """Though only one of them gets the signal, and one is ahead of the other."""
    port = str(portpicker.pick_unused_port())
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, port, str(index)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for host in hosts:
        assert host.stdout.readline() == "ready\n"
    time.sleep(0.5)
    hosts[1].send_signal(number)
    answers = [host.communicate(timeout=60)[0].split() for host in hosts]
    assert answers[0][0] == answers[1][0] != "never"
    assert answers[1][1] == str(128 + number)
