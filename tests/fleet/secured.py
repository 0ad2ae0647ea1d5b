"""A broker that asks for certificates, and clients with certificates of its authority."""

import secrets
import ssl
import threading
import time

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.broker import BrokerProcess
from fleet.pki.access import write_access
from fleet.pki.authority import CertificateAuthority, read_request
from fleet.pki.folder import KeyPair, PkiFolder
from wire.endpoint import TlsFiles

WAIT_S = 30


def now_unix_ms():
    return time.time_ns() // 1_000_000


def until(fact, what, timeout_s=WAIT_S):
    deadline = time.monotonic() + timeout_s
    while not (answer := fact()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)
    return answer


def new_key(path=None, curve=None):
    """Return a private key, written to `path` if given."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    if path is not None:
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return key


def new_request(key, name):
    """Return a certificate signing request (PEM)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


class Secured:
    """One broker with an authority of its own, and the devices that were let in."""

    def __init__(self, program, port, folder):
        self.pki = PkiFolder(folder / "a pki with spaces")
        self.authority = CertificateAuthority.found(self.pki, ["127.0.0.1"], now_unix_ms())
        self.usable, self.revoked = {}, []
        self._folder = folder
        self._write()
        self.process = BrokerProcess(program, port, folder / "broker", pki=self.pki)
        self.port = port
        self.url = f"mqtts://127.0.0.1:{port}"

    def start(self):
        self.process.start()

    def stop(self):
        self.process.stop()

    def admit(self, *names):
        """Give each a certificate, and tell the broker; return the files of each."""
        made = [self._issue(name) for name in names]
        self._tell()
        return made

    def revoke(self, name):
        for serial in [s for s, device in self.usable.items() if device == name]:
            del self.usable[serial]
            self.revoked.append((serial, now_unix_ms()))
        self._tell()

    def program(self, name):
        """Return the files of a program with a name of its choice."""
        pair = KeyPair(self._folder / f"{name}.key", self._folder / f"{name}.pem")
        self.authority.issue_program(pair, name, now_unix_ms())
        return TlsFiles(self.pki.ca.certificate, pair.certificate, pair.key)

    def _issue(self, name):
        home = self._folder / f"{name}-{secrets.token_hex(2)}"
        home.mkdir()
        request = read_request(new_request(new_key(home / "key"), name))
        issued = self.authority.issue(request, now_unix_ms())
        (home / "certificate").write_text(issued.pem)
        self.usable[issued.serial] = name
        return TlsFiles(self.pki.ca.certificate, home / "certificate", home / "key")

    def _write(self):
        write_access(self.authority, tuple(self.usable.items()), self.revoked, now_unix_ms())

    def _tell(self):
        self._write()
        self.process.reload()


class Client:
    """A client that does as it likes: no rule of ours stands between it and the broker."""

    def __init__(self, secured, files, client_id, will=None):
        self.received = []
        self.granted = {}
        self._asked = {}
        self._up, self.down = threading.Event(), threading.Event()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, reconnect_on_failure=False
        )
        context = ssl.create_default_context(cafile=str(files.ca))
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
        self._client.tls_set_context(context)
        if will is not None:
            self._client.will_set(*will, qos=1, retain=True)
        self._client.on_connect = lambda _c, _d, _f, code, _p: (
            self.down.set() if code.is_failure else self._up.set()
        )
        self._client.on_disconnect = lambda *_: self.down.set()
        self._client.on_message = lambda _c, _d, m: self.received.append((m.topic, m.payload))
        self._client.on_subscribe = self._on_subscribe
        self._host, self._port = "127.0.0.1", secured.port

    def connects(self):
        """Return whether the broker lets it in."""
        try:
            self._client.connect(self._host, self._port)
        except OSError:
            return False
        self._client.loop_start()
        until(lambda: self._up.is_set() or self.down.is_set(), "the broker answers")
        return self._up.is_set()

    def subscribe(self, topic):
        """Return whether the broker says that it was granted."""
        _, mid = self._client.subscribe(topic, qos=1)
        until(lambda: mid in self.granted or self.down.is_set(), f"{topic} is answered")
        return self.granted.get(mid, False)

    def publish(self, topic, payload, *, retain=True):
        """Return when the broker has answered, whatever it did with it."""
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        until(lambda: sent.is_published() or self.down.is_set(), f"{topic} is taken")

    def drop(self):
        """End as a cable that is cut does."""
        self._client._sock_close()

    def stop(self):
        self._client.disconnect()
        self._client.loop_stop()

    def _on_subscribe(self, _client, _data, mid, codes, _properties):
        self.granted[mid] = not any(code.is_failure for code in codes)
