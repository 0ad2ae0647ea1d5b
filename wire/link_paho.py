"""The link over paho-mqtt, MQTT 3.1.1: the only module that imports paho.

paho's traps and what is done here about each:

- An exception that escapes a callback kills the network thread while `is_connected()` stays true:
  every callback only hands over, inside one guard that records the fault and drops the connection.
- Its own reconnect doubles without jitter, so that a fleet returns in step, and it resends from
  memory what may be stale: each connection gets a fresh client, and the wait between attempts is
  fully random up to a doubling cap.
- The network thread may still die (a fault inside paho): the keeper thread watches it.
- More than 10 unacknowledged messages break brokers that announce a receive maximum of 10.
- Its queue is unbounded by default: it is bounded here, and a full one is told to the caller.
- It buffers whatever length a packet declares, 250 MB included, which no broker's limit prevents when
  the broker is the attacker; so it does with a WebSocket frame, and it keeps a QoS 2 message for as
  long as the broker likes: `_CappedClient` keeps the beginning of what is over the cap, which then
  fails its decoder's own cap, and passes over the rest.
- It leaves Nagle's algorithm on, which holds each small packet back until the broker's delayed
  acknowledgement, 40 ms later: it is switched off as soon as there is a socket.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from .codec import MAX_MESSAGE_BYTES
from .endpoint import BrokerAddress, Endpoint, TlsFiles, parse_broker_url
from .errors import ModelfleetError
from .link import Connected, Delivered, Disconnected, LinkEvent, Published, Sink, WillFactory
from .topics import MAX_FILTERS_PER_SUBSCRIBE, Qos

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 30
"""A dead path is known within 1.5 keepalives, 45 s."""
CONNECT_TIMEOUT_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_CAP_S: Final = 60.0
MAX_INFLIGHT: Final = 10
"""HiveMQ announces a receive maximum of 10, the smallest met."""
MAX_QUEUED: Final = 256
"""Messages waiting inside paho, at most 16 MB; owners keep what must not be lost."""
MAX_PACKET_BYTES: Final = MAX_MESSAGE_BYTES + 1024
"""What is kept of a packet: a payload over its cap, behind a topic of 128 bytes, stays over it."""
MAX_FRAME_BYTES: Final = 1024 * 1024
"""A WebSocket frame is kept until it ends; brokers put some messages of at most 64 kB into one."""
READ_BYTES: Final = 64 * 1024
"""Read at once: `recv` sets aside as much memory as it is asked for."""
STABLE_S: Final = 10.0
"""A connection that lasted this long resets the wait before the next attempt."""


def retry_delay_s(attempt: int, chance: float) -> float:
    """Return the wait before connection attempt number `attempt` (from 0), fully jittered.

    Args:
        attempt: Failed attempts since the last stable connection.
        chance: A random number in [0, 1).
    """
    cap = min(RETRY_CAP_S, RETRY_FIRST_S * 2.0 ** min(attempt, 16))
    return 0.1 + chance * cap


class PahoLink:
    """A `wire.link.Link` to a real broker. Its keeper thread owns one client per connection."""

    def __init__(
        self,
        broker: str | Callable[[], Endpoint],
        client_id: str,
        *,
        tls: TlsFiles | None = None,
        first_wait_s: float = 0.0,
    ) -> None:
        """Take note of where to connect; `first_wait_s` passes before the first attempt.

        Args:
            broker: Its URL; or what is asked for it at each connection, and may raise
                ModelfleetError where there is none yet: then the link stays down, and asks again.
            client_id: Ours.
            tls: For the broker of a URL; its files are read anew at each connection.
            first_wait_s: Seconds.

        Raises:
            ConfigError: `broker_url`.
        """
        if isinstance(broker, str):
            parse_broker_url(broker)
            fixed = Endpoint(broker, tls or TlsFiles())
            self._endpoint: Callable[[], Endpoint] = lambda: fixed
        else:
            self._endpoint = broker
        self._client_id = client_id
        self._first_wait_s = first_wait_s
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._lost = threading.Event()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._address: BrokerAddress | None = None
        self._sink: Sink = lambda _event: None
        self._will: WillFactory = lambda: None
        self._keeper = threading.Thread(target=self._keep, name="link-keeper", daemon=True)
        self._is_up = False
        self._reason = ""

    def start(self, sink: Sink, will: WillFactory) -> None:
        """See `Link.start`."""
        self._sink = sink
        self._will = will
        self._keeper.start()

    def publish(self, topic: str, payload: bytes, *, qos: Qos, retain: bool) -> int | None:
        """See `Link.publish`."""
        with self._lock:
            if self._client is None or not self._is_up:
                return None
            info = self._client.publish(topic, payload, qos=qos, retain=retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def subscribe(self, filters: Sequence[str], *, qos: Qos) -> None:
        """See `Link.subscribe`."""
        with self._lock:
            if self._client is None:
                return
            for start in range(0, len(filters), MAX_FILTERS_PER_SUBSCRIBE):
                batch: list[tuple[str, int]] = [
                    (text, qos) for text in filters[start : start + MAX_FILTERS_PER_SUBSCRIBE]
                ]
                self._client.subscribe(batch)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """See `Link.unsubscribe`."""
        with self._lock:
            if self._client is not None and filters:
                self._client.unsubscribe(list(filters))

    def reconnect(self) -> None:
        """Connect anew, with what the files of `tls` hold by then; now, not when its turn comes."""
        self._hurry.set()
        self._lost.set()

    def is_alive(self) -> bool:
        """Return False only if the keeper thread has died."""
        return self._keeper.is_alive() or self._stopping.is_set()

    def stop(self) -> None:
        """See `Link.stop`."""
        self._stopping.set()
        self._hurry.set()
        self._lost.set()
        if self._keeper.is_alive() and threading.current_thread() is not self._keeper:
            self._keeper.join(timeout=CONNECT_TIMEOUT_S)

    def _keep(self) -> None:
        attempt = 0
        self._stopping.wait(self._first_wait_s)
        while not self._stopping.is_set():
            began_at_s = time.monotonic()
            self._connect_once()
            attempt = 0 if time.monotonic() - began_at_s > STABLE_S else attempt + 1
            # secrets, not random: no seed to share between devices that boot from one image.
            if self._hurry.wait(retry_delay_s(attempt, secrets.randbelow(10**6) / 10**6)):
                self._hurry.clear()
                attempt = 0

    def _connect_once(self) -> None:
        """Connect, and return when the connection has ended; report both."""
        self._lost.clear()
        self._reason = ""
        try:
            endpoint = self._endpoint()
            address = parse_broker_url(endpoint.url)
            client = self._make_client(address, endpoint.tls)
        except ModelfleetError as exc:
            self._emit(Disconnected(f"{exc}; {exc.hint}" if exc.hint else str(exc)))
            return
        except OSError as exc:  # ssl's errors are among them
            self._emit(Disconnected(f"cannot use the certificates: {exc}"))
            return
        try:
            client.connect(address.host, address.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as exc:
            self._emit(Disconnected(f"cannot reach {address}: {exc}"))
            return
        with self._lock:
            self._client = client
        client.loop_start()
        while not self._lost.wait(1.0):
            thread = client._thread  # noqa: SLF001 - paho offers no other way to see it die
            if thread is None or not thread.is_alive():
                self._reason = self._reason or "the network thread ended"
                break
        was_up = self._is_up
        if self._stopping.is_set() and was_up:
            client.disconnect()
        with self._lock:
            self._is_up = False
            self._client = None
        client.loop_stop()
        if was_up or not self._stopping.is_set():
            self._emit(Disconnected(self._reason or "connection lost"))

    def _make_client(self, address: BrokerAddress, tls: TlsFiles) -> Client:
        self._address = address
        client = _CappedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            transport="websockets" if address.is_websocket else "tcp",
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        if address.is_websocket:
            client.ws_set_options(path=address.path)
        if address.is_encrypted:
            client.tls_set_context(tls.context())
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if (will := self._will()) is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _guarded(self, hand_over: Callable[[], None]) -> None:
        try:
            hand_over()
        except Exception:  # a raise here would kill paho's thread without a trace
            log.exception("link sink failed; dropping the connection")
            self._lost.set()

    def _emit(self, event: LinkEvent) -> None:
        self._guarded(lambda: self._sink(event))

    def _on_socket_open(self, client: Client, _data: Any, opened: Any) -> None:
        def set_no_delay() -> None:
            # A duplicate, since a websocket's wrapper takes no options; they are of the connection.
            with socket.socket(fileno=os.dup(opened.fileno())) as same:
                same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        self._guarded(set_no_delay)

    def _on_connect(
        self,
        client: Client,
        _data: Any,
        _flags: ConnectFlags,
        code: ReasonCode,
        _p: Properties | None,
    ) -> None:
        if code.is_failure:
            self._reason = f"refused by {self._address}: {code}"
            self._lost.set()
            return
        self._is_up = True
        self._emit(Connected())

    def _on_disconnect(
        self,
        client: Client,
        _data: Any,
        _flags: DisconnectFlags,
        code: ReasonCode,
        _p: Properties | None,
    ) -> None:
        if not self._is_up and self._address is not None and self._address.is_encrypted:
            # In TLS 1.3 a broker refuses a certificate after it was shown, by hanging up.
            self._reason = self._reason or (
                f"{self._address} hung up on this certificate: revoked, expired or another fleet's?"
            )
        self._reason = self._reason or str(code)
        self._lost.set()

    def _on_message(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        def hand_over() -> None:
            try:
                topic = message.topic
            except UnicodeDecodeError:
                return
            self._sink(Delivered(topic, bytes(message.payload), bool(message.retain)))

        self._guarded(hand_over)

    def _on_publish(
        self, client: Client, _data: Any, mid: int, _code: ReasonCode, _p: Properties | None
    ) -> None:
        self._emit(Published(mid))


class _CappedClient(Client):
    """A client whose memory a broker cannot fill; everything it receives comes through here."""

    def _sock_recv(self, bufsize: int) -> bytes:
        """Return up to `bufsize` bytes, as many as the packet under way still declares.

        Raises:
            OSError: Ends the connection; as BlockingIOError, there is nothing to return yet.
        """
        packet = self._in_packet
        if packet["command"] & 0xF4 == 0x34:  # PUBLISH at QoS 2, or at 3, which does not exist
            raise ConnectionAbortedError("a message at a QoS that was not asked for")
        # A WebSocket's wrapper; asked of none else, since a socket has no such buffer.
        if len(getattr(self._sock, "_readbuffer", b"")) > MAX_FRAME_BYTES:
            raise ConnectionAbortedError("a WebSocket frame over the cap")
        # The last byte is always taken, so that paho sees the packet end.
        if len(packet["packet"]) < MAX_PACKET_BYTES or bufsize == 1:
            return super()._sock_recv(min(bufsize, READ_BYTES))
        passed_over = super()._sock_recv(min(bufsize - 1, READ_BYTES))
        if passed_over:
            packet["to_process"] -= len(passed_over)
            raise BlockingIOError
        return passed_over
