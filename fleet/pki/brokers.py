"""What each broker is told: how to listen, whom to let in, and who may do what (`grants`).

Mosquitto and NATS are run by our tests as configured here. EMQX and AWS IoT Core are not run: their
forms are written by their manuals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wire.topics import ROOT

from .folder import PkiFolder
from .grants import (
    AUDITOR_NAME,
    CERTIFICATE_URN,
    CONTROLLER_NAME,
    EVERYTHING,
    OBSERVER_NAME,
    grants,
    is_observer,
)

MAX_PACKET_BYTES: Final = 128 * 1024
"""Twice the largest message of the protocol; a payload bomb ends at the broker."""

MAX_CONNECTIONS: Final = 10_000
"""Ten times the fleets that this was tried with; each costs a broker tens of kilobytes, with TLS."""
MEMORY_SHARE: Final = 0.75
"""Of the machine's memory: what is beyond it is refused, where the kernel would end the broker."""

_MOSQUITTO: Final = """\
# Written by `fleet`; changes are lost.
listener {port} {host}
# Of this listener.
max_connections {max_connections}
{access}{user}persistence true
persistence_location {data}/
# Chunks are saved by rewriting the whole file: seldom. What a crash loses is published again.
autosave_interval 300
# 23 times the upload rate: without it Nagle's algorithm waits for delayed acknowledgements.
set_tcp_nodelay true
max_packet_size {max_packet}
max_inflight_messages 20
# Towards the controller, whose one connection takes the records of all devices, each with up to 64
# under way: 20,000 are 300 devices that come back at once. More are dropped, without a word, and
# sent again after 15 s. The bytes keep a client that is stuck from filling the memory.
max_queued_messages 20000
max_queued_bytes 16777216
# Bytes of heap; three quarters of the memory of the machine where this was written. Retained chunks
# are in it. Beyond it a message is refused and who sent it is thrown off.
memory_limit {memory_limit}
# No client of ours leaves a session behind; what another's certificate left goes within an hour or two.
persistent_client_expiration 1h
log_type error
log_type warning
log_dest stderr
"""

_MOSQUITTO_TLS: Final = """\
allow_anonymous false
cafile {ca}
certfile {certificate}
keyfile {key}
tls_version tlsv1.2
require_certificate true
# Read again at SIGHUP, as are the certificates.
crlfile {crl}
# A certificate's common name is user name and client id: no device can take another's place.
use_identity_as_username true
use_username_as_clientid true
acl_file {acl}
"""

_NATS: Final = """\
# Written by `fleet`; changes are lost.
server_name: modelfleet
listen: "{listen}"
jetstream {{ store_dir: "{data}" }}
max_payload: {max_packet}
max_connections: {max_connections}
"""

_NATS_TLS: Final = """\
# NATS's own protocol is not used; on its port the same certificates are asked for.
tls {tls}
mqtt {{ host: "{host}", port: {port}, max_ack_pending: 100, tls {tls} }}
# Users are read again at SIGHUP; the connections of those that are gone end.
include "{users}"
"""

_NATS_KEYS: Final = '{{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{ca}", verify_and_map: true, timeout: 10 }}'
"""NATS's own 2 s for a handshake are too few for a busy device."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a broker listens, and how.

    Attributes:
        host: The address; `0.0.0.0` is every one of this machine.
        port: For MQTT.
        home: The broker's own directory, where its configuration is.
        data: For what it keeps.
        pki: Whose certificates it asks for; None lets everybody in, on loopback only.
    """

    host: str
    port: int
    home: Path
    data: Path
    pki: PkiFolder | None = None


def mosquitto(listener: Listener) -> str:
    """Return `mosquitto.conf`."""
    access = "allow_anonymous true\n"
    if (pki := listener.pki) is not None:
        access = _MOSQUITTO_TLS.format(
            ca=pki.ca.certificate,
            certificate=pki.server.certificate,
            key=pki.server.key,
            crl=pki.crl,
            acl=pki.mosquitto_acl,
        )
    return _MOSQUITTO.format(
        host=listener.host,
        port=listener.port,
        access=access,
        data=listener.data,
        max_packet=MAX_PACKET_BYTES,
        max_connections=MAX_CONNECTIONS,
        memory_limit=int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        # As root it would become the user mosquitto, who may not write here.
        user="user root\n" if os.geteuid() == 0 else "",
    )


def nats(listener: Listener) -> str:
    """Return `nats.conf`."""
    text = _NATS.format(
        listen="127.0.0.1:-1",
        data=listener.data,
        max_packet=MAX_PACKET_BYTES,
        max_connections=MAX_CONNECTIONS,
    )
    if (pki := listener.pki) is None:
        where = f'host: "{listener.host}", port: {listener.port}'
        return f"{text}mqtt {{ {where}, max_ack_pending: 100 }}\n"
    keys = _NATS_KEYS.format(
        ca=pki.ca.certificate, certificate=pki.server.certificate, key=pki.server.key
    )
    return text + _NATS_TLS.format(
        host=listener.host,
        port=listener.port,
        tls=keys,
        # NATS takes every path after `include` to start from its configuration.
        users=os.path.relpath(pki.nats_users, listener.home),
    )


def mosquitto_acl(names: Iterable[str] = ()) -> str:
    """Return mosquitto's `acl_file`. It names no device: `%u` is the certificate's common name.

    Args:
        names: Of all who have a certificate; observers are picked out.
    """
    lines = ["# Written by `fleet`; changes are lost. Who is not named here may do nothing."]
    lines += ["", f"user {CONTROLLER_NAME}", _not_a_device(CONTROLLER_NAME)]
    lines += [f"topic read {EVERYTHING}"]
    lines += [f"topic write {g.of('+')}" for g in grants() if g.controller_writes]
    lines += ["", f"user {AUDITOR_NAME}", f"topic readwrite {EVERYTHING}"]
    for name in (OBSERVER_NAME, *sorted({name for name in names if is_observer(name)})):
        lines += ["", f"user {name}", _not_a_device(name), f"topic read {EVERYTHING}"]
    lines += ["", "# Every device."]
    for grant in grants():
        if grant.device_reads:
            lines.append(f"pattern read {grant.of('%u')}")
        if grant.device_writes:
            lines.append(f"pattern write {grant.of('%u')}")
    return "\n".join(lines) + "\n"


def _not_a_device(name: str) -> str:
    """Return what keeps a program from writing in its own name: patterns are for every user.

    Mosquitto looks at what is denied first.
    """
    return f"topic deny {ROOT}/device/{name}/#"


def nats_users(devices: Iterable[tuple[str, str]]) -> str:
    """Return NATS's users.

    Args:
        devices: Serial number and name of every certificate that may be used, of devices and of
            observers. NATS reads no list of revoked ones: who is not named is refused.
    """
    everything = [_subject(ROOT), f"{_subject(ROOT)}.>"]
    written = [_subject(g.of("+")) for g in grants() if g.controller_writes]
    users = [
        _nats_user(f"CN={CONTROLLER_NAME}", reads=everything, writes=written),
        _nats_user(f"CN={AUDITOR_NAME}", reads=everything, writes=everything),
        _nats_user(f"CN={OBSERVER_NAME}", reads=everything, writes=[]),
    ]
    for serial, device in devices:
        if is_observer(device):
            users.append(_nats_user(f"{CERTIFICATE_URN}{serial}", reads=everything, writes=[]))
            continue
        users.append(
            _nats_user(
                f"{CERTIFICATE_URN}{serial}",
                reads=[_subject(g.of(device)) for g in grants() if g.device_reads],
                writes=[_subject(g.of(device)) for g in grants() if g.device_writes],
            )
        )
    lines = ",\n".join(f"  {json.dumps(user)}" for user in users)
    return f'"authorization": {{ "users": [\n{lines}\n] }}\n'


def _nats_user(name: str, *, reads: list[str], writes: list[str]) -> dict[str, object]:
    return {
        "user": name,
        # Without it the name alone, and no password, would do on a port that asks for no certificate.
        "allowed_connection_types": ["MQTT"],
        "permissions": {
            # By `$MQTT.sub` NATS hands a client its own messages of QoS 1; a client cannot name it.
            "subscribe": [*reads, "$MQTT.sub.>"],
            "publish": {"allow": writes} if writes else {"deny": [">"]},
        },
    }


def _subject(filter_: str) -> str:
    """Return the NATS subject of an MQTT filter of ours, which has no dot in it."""
    return filter_.replace("/", ".").replace("+", "*")


def emqx(pki: PkiFolder) -> str:
    """Return what goes into EMQX 5's `emqx.conf`, and its `acl.conf`. Not run."""
    rules = [
        f'{{allow, {{username, "{name}"}}, subscribe, ["{EVERYTHING}"]}}.'
        for name in (CONTROLLER_NAME, AUDITOR_NAME, OBSERVER_NAME)
    ]
    written = ", ".join(f'"{g.of("+")}"' for g in grants() if g.controller_writes)
    rules.append(f'{{allow, {{username, "{CONTROLLER_NAME}"}}, publish, [{written}]}}.')
    rules.append(f'{{allow, {{username, "{AUDITOR_NAME}"}}, publish, ["{EVERYTHING}"]}}.')
    # What follows is for every user, and no program writes in its own name.
    rules.append(f'{{deny, {{username, {{re, "^fleet\\\\."}}}}, publish, ["{EVERYTHING}"]}}.')
    for action, chosen in (
        ("subscribe", [g for g in grants() if g.device_reads]),
        ("publish", [g for g in grants() if g.device_writes]),
    ):
        topics = ", ".join(f'"{g.of("${username}")}"' for g in chosen)
        rules.append(f"{{allow, all, {action}, [{topics}]}}.")
    rules.append("{deny, all}.")
    return f"""\
# NOT RUN: written by EMQX 5's manual, never tried. Certificates are copied from {pki.root}.
# -- emqx.conf
listeners.ssl.default {{
  bind = "0.0.0.0:8883"
  ssl_options {{
    cacertfile = "ca.pem", certfile = "server.pem", keyfile = "server.key"
    verify = verify_peer, fail_if_no_peer_cert = true
    enable_crl_check = true
  }}
}}
mqtt.peer_cert_as_username = cn
mqtt.peer_cert_as_clientid = cn
mqtt.max_packet_size = "128KB"
authorization {{ no_match = deny, deny_action = disconnect
  sources = [{{ type = file, enable = true, path = "etc/acl.conf" }}] }}
# -- etc/acl.conf
{chr(10).join(rules)}
"""


def aws_iot() -> str:
    """Return the policy that AWS IoT Core attaches to every device's certificate. Not run.

    The thing's name is the device's id, and the certificate is attached to it. A policy has at most
    2,048 characters: `*`, which takes any number of levels, stands for what a device may read of its own,
    and for the kinds of records, none of which AWS lets it retain.
    """
    account = "arn:aws:iot:${AWS_REGION}:${AWS_ACCOUNT}"
    thing = "${iot:Connection.Thing.ThingName}"
    own = f"{ROOT}/device/{thing}/*"
    shared = [g.filter.replace("+", "*") for g in grants() if g.device_reads and not g.is_own]
    reads = [own, *(one for one in shared if one != f"{ROOT}/trust/model/*")]
    state = [g.of(thing) for g in grants() if g.device_writes and g.device_reads]
    records = [f"{ROOT}/device/{thing}/{group}/*" for group in ("event", "telemetry")]
    statements = [
        {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": f"{account}:client/{thing}",
            "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}},
        },
        {
            "Effect": "Allow",
            "Action": ["iot:Subscribe", "iot:Receive"],
            "Resource": [
                f"{account}:{kind}/{one}" for kind in ("topicfilter", "topic") for one in reads
            ],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Publish",
            "Resource": [f"{account}:topic/{one}" for one in (*state, *records)],
        },
        {
            "Effect": "Allow",
            "Action": "iot:RetainPublish",
            "Resource": [f"{account}:topic/{one}" for one in state],
        },
    ]
    body = {"Version": "2012-10-17", "Statement": statements}
    return (
        "// NOT RUN: written by AWS IoT Core's manual, never tried. Without this line it is JSON.\n"
        f"{json.dumps(body, indent=2)}\n"
    )
