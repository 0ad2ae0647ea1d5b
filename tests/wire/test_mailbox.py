"""A mailbox: nothing is lost, nobody waits longer than he wants to."""

import signal
import subprocess
import sys
import threading
import time

from wire.mailbox import Mailbox

INTERRUPTED = """
import signal, sys, time
from wire.mailbox import Mailbox

# Each wait is interrupted, and over before it goes on.
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.02))
box = Mailbox()
for number in range(100):
    box.put(number)
    assert box.get(1.0) == number
    signal.setitimer(signal.ITIMER_REAL, 0.005)
    assert box.get(0.01) is None
"""


def test_it_keeps_the_order_and_says_when_it_is_empty():
    box = Mailbox()
    for number in range(3):
        box.put(number)
    assert len(box) == 3
    assert [box.get(0) for _ in range(4)] == [0, 1, 2, None]
    began_s = time.monotonic()
    assert box.get(0.05) is None
    assert time.monotonic() - began_s >= 0.05


def test_whatever_threads_put_in_comes_out_once_and_in_their_order():
    box = Mailbox()

    def fill(name):
        for number in range(2000):
            box.put((name, number))

    threads = [threading.Thread(target=fill, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    found = [box.get(60) for _ in range(6000)]
    for thread in threads:
        thread.join()
    assert box.get(0) is None
    for name in "abc":
        assert [number for who, number in found if who == name] == list(range(2000))


def test_a_signal_handler_may_fill_it_while_it_is_waited_on():
    box = Mailbox()
    before = signal.signal(signal.SIGALRM, lambda *_: box.put("told"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert box.get(60) == "told"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_no_wait_is_without_end_whatever_interrupts_it():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
