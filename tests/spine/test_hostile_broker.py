"""A broker that wants the agent's memory: no limit that a broker enforces helps against itself."""

import queue
import re
from pathlib import Path

import pytest

from tests.conformance.repository import Repository
from tests.spine.hostile_broker import PUBACK, HostileBroker, publish_head
from tests.spine.processes import Program, free_port, until
from wire import topics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEVICE = "cam-0"
BOMB_BYTES = 250_000_000
MAX_GROWTH_BYTES = 8 * 1024**2
CONFIG = """
[device]
id = "{device}"
[broker]
url = "{scheme}://127.0.0.1:{port}"
[serve]
listen = "127.0.0.1:{listen}"
[state]
dir = "state"
[trust]
root = "root.json"
"""


def one_message(session):
    """One message of 250 MB, and the agent says why it takes nothing of it."""
    session.send(publish_head(topics.Desired(DEVICE).text, BOMB_BYTES))
    session.send_much(BOMB_BYTES)
    session.until_published("payload_too_large")


def many_messages(session):
    """250 MB of messages that are each as long as a message may be, for the loop and the fetcher."""
    for topic in (topics.Desired(DEVICE).text, topics.Chunk("c" * 64).text):
        head = publish_head(topic, 60_000)
        for _ in range(BOMB_BYTES // 2 // 60_000):
            session.send(head)
            session.send_much(60_000)
    session.send(publish_head(topics.Ack(DEVICE).text, 1, qos=1) + b"?")
    while session.receive()[0] != PUBACK:  # all before it has been taken
        pass


def one_frame(session):
    """Good messages without end, in one WebSocket frame that is kept until its end."""
    message = publish_head(topics.ControllerPresence().text, 60_000) + b"x" * 60_000
    session.send_raw(session.frame_head(BOMB_BYTES))
    for _ in range(BOMB_BYTES // len(message)):
        session.send_raw(message)


def never_released(session):
    """Messages at QoS 2, which a client keeps until the broker releases them."""
    for mid in range(1, BOMB_BYTES // 60_000):
        session.send(publish_head(topics.Desired(DEVICE).text, 60_000, qos=2, mid=mid))
        session.send_much(60_000)


def figure(pid, name):
    """Return one of the kernel's figures of a process, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", text)[1])


@pytest.mark.parametrize(
    ("scheme", "attack", "is_hung_up"),
    [
        ("mqtt", one_message, False),
        ("ws", one_message, False),
        ("mqtt", many_messages, False),
        ("ws", one_frame, True),
        ("mqtt", never_released, True),
    ],
)
def test_a_broker_cannot_fill_the_memory(tmp_path, scheme, attack, is_hung_up):
    connected, survived = queue.Queue(), queue.Queue()
    begin = queue.Queue()

    def first_calm_then_hostile(session):
        session.until_published('"online"')
        connected.put(None)
        begin.get()
        attack(session)
        survived.put(None)
        while True:  # until the agent hangs up
            session.receive()

    with HostileBroker(first_calm_then_hostile, is_websocket=scheme == "ws") as broker:
        text = CONFIG.format(device=DEVICE, scheme=scheme, port=broker.port, listen=free_port())
        (tmp_path / "agent.toml").write_text(text)
        (tmp_path / "root.json").write_bytes(Repository().bootstrap)
        agent = Program("agent", ["fleet-agent", "run", "--config", "agent.toml"], tmp_path)
        agent.start()
        try:
            connected.get(timeout=120)
            until("a runtime is there", lambda: agent.children("agent.runtime"))
            Path(f"/proc/{agent.pid}/clear_refs").write_text("5")  # the peak counts from here
            before = figure(agent.pid, "VmRSS")
            begin.put(None)
            if is_hung_up:
                connected.get(timeout=120)  # it has hung up, and tries again
                assert survived.empty()
            else:
                survived.get(timeout=120)
                assert connected.empty(), "it has hung up: a poisoned topic would keep it away"
            growth = figure(agent.pid, "VmHWM") - before
            print(  # noqa: T201
                f"{scheme} {attack.__name__}: {before / 2**20:.1f} MiB, {growth / 2**20:+.2f} MiB"
            )
            assert growth < MAX_GROWTH_BYTES
            begin.put(None)
            assert agent.end() == 0
            assert "Traceback" not in agent.log.read_text()
        finally:
            begin.put(None)
            agent.put_away()
