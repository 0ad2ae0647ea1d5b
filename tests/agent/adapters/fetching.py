"""A device that fetches, on an in-memory broker."""

import queue

from agent.adapters.content_files import ContentStore
from agent.adapters.fetcher import Fetcher
from agent.core.trust import Allowed
from wire.link import Connected, Delivered, Disconnected
from wire.topics import Chunk, parse


class Device:
    """A fetcher on a link of its own."""

    def __init__(self, broker, root, second_source=None):
        self.events = queue.Queue()
        self.asked_again = queue.Queue()
        self.delivered = []
        self.refuse = None
        self.verdict = Allowed()
        self.store = ContentStore(root)
        self.link = broker.link("cam-01")
        self.fetcher = Fetcher(
            self.store,
            self.link,
            tell=self.events.put,
            ask_again=self.asked_again.put,
            check=self._check,
            authorise=lambda _assignment: self.verdict,
            second_source=second_source,
        )
        self.fetcher.start()
        self.link.start(self._sink, lambda: None)

    def _check(self, manifest):
        if self.refuse:
            raise self.refuse

    def _sink(self, event):
        match event:
            case Connected():
                self.fetcher.on_link(is_up=True)
            case Disconnected():
                self.fetcher.on_link(is_up=False)
            case Delivered(topic=topic, payload=payload):
                digest = parse(topic).digest
                self.delivered.append(digest)
                self.fetcher.on_chunk(digest, payload)

    def result(self):
        return self.events.get(timeout=120)

    def stop(self):
        self.fetcher.stop()
        self.link.stop()


def publish(link, payloads):
    for digest, payload in payloads.items():
        link.publish(Chunk(digest).text, payload, qos=1, retain=True)
