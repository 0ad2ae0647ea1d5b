"""The other side: a repository of signed metadata, whose owner or thief may publish whatever they like."""

import datetime as dt
import hashlib
import json
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from wire import codec, topics
from wire.trust import (
    DIRECTOR,
    DIRECTOR_PATHS,
    Signature,
    model_paths,
    model_role,
    seal,
    signing_bytes,
    target_path,
)

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")
DAY = dt.timedelta(days=1)


def direct(signer, desired):
    """Return a desired state as a director publishes it: two lines, the second a signature."""
    body = codec.encode(desired)
    signed = signer.sign(signing_bytes(body))
    return seal(body, Signature(keyid=signed.keyid, sig=signed.signature))


class Repository:
    """Signs what is in `documents` when it is published, and serves what was.

    Attributes:
        documents: What the next publication of a role says.
        signers: Who signs it.
        files: What is served, by name.
    """

    def __init__(self, *, has_hashes=False, new_key=CryptoSigner.generate_ed25519, expires=None):
        self.has_hashes = has_hashes
        self._new_key = new_key
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self._expires = expires = expires or self.now + 30 * DAY
        self.documents = {
            "root": Root(expires=expires),
            "timestamp": Timestamp(expires=expires),
            "snapshot": Snapshot(expires=expires),
            "targets": Targets(expires=expires),
        }
        self.signers = {}
        self.files = {}
        for role in TOP_LEVEL:
            self.documents[role].version = 0
            self.add_key(role)
        self.publish("targets", "snapshot", "timestamp", "root")
        self.bootstrap = self.files["1.root.json"]

    def __getattr__(self, name):
        if name in TOP_LEVEL:
            return self.documents[name]
        raise AttributeError(name)

    # -- keys

    def add_key(self, role, signer=None):
        """Let one more key sign a role."""
        signer = signer or self._new_key()
        self.signers.setdefault(role, []).append(signer)
        self._delegator(role).add_key(signer.public_key, role)
        return signer

    def drop_keys(self, role):
        """Let none of its keys sign a role any more; return them."""
        delegator = self._delegator(role)
        dropped, self.signers[role] = self.signers[role], []
        for signer in dropped:
            delegator.revoke_key(signer.public_key.keyid, role)
        return dropped

    def rotate(self, role):
        """Give a role one new key in place of all it had."""
        self.drop_keys(role)
        return self.add_key(role)

    def _delegator(self, role):
        return self.root if role in TOP_LEVEL else self.targets

    # -- releases

    def delegate(self, name, paths, *, is_terminating=True, parent="targets"):
        """Begin a delegated role with one key."""
        delegator = self.documents[parent]
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        role = DelegatedRole(name, [], 1, is_terminating, list(paths))
        delegator.delegations.roles[name] = role
        signer = self._new_key()
        delegator.add_key(signer.public_key, name)
        self.signers.setdefault(name, []).append(signer)
        if name not in self.documents:
            self.documents[name] = Targets(expires=self._expires)
            self.documents[name].version = 0
        return signer

    def add_director(self, paths=DIRECTOR_PATHS):
        """Name a key that signs desired states; return its signer."""
        signer = self.delegate(DIRECTOR, paths)
        del self.documents[DIRECTOR]
        return signer

    def add_model(self, model):
        """Begin a model's role."""
        self.delegate(model_role(model), model_paths(model))
        self.documents[model_role(model)].unrecognized_fields["floor"] = 0

    def release(self, model, version, number, data=None):
        """List a release in the next document of its model; return its digest."""
        data = data if data is not None else f"manifest of {model}:{version}".encode()
        path = target_path(model, version)
        target = TargetFile.from_data(path, data, ["sha256"])
        target.unrecognized_fields["custom"] = {"number": number}
        self.documents[model_role(model)].targets[path] = target
        return hashlib.sha256(data).hexdigest()

    def add_target(self, path, data, role="targets"):
        """List a file in the next document of a role, and serve it."""
        target = TargetFile.from_data(path, data, ["sha256"])
        self.documents[role].targets[path] = target
        folder, separator, name = path.rpartition("/")
        self.files[f"{folder}{separator}{target.hashes['sha256']}.{name}"] = data

    # -- publication

    def publish(self, *roles, version=None):
        """Sign the documents of roles, each one version higher, and serve them.

        What a snapshot lists, and a timestamp names, is what was published last.
        """
        for role in roles:
            signed = self.documents[role]
            signed.version = signed.version + 1 if version is None else version
            self.put(role, self.sign(role))

    def publish_all(self, *roles):
        """Publish targets roles, and what leads to them."""
        self.publish(*roles, "snapshot", "timestamp")

    def sign(self, role):
        """Return the bytes of a role's document, with its signatures."""
        document = Metadata(self.documents[role])
        for signer in self.signers[role]:
            document.sign(signer, append=True)
        return document.to_bytes(JSONSerializer())

    def put(self, role, data):
        """Serve the bytes of a document, and let it be named by the next that name it."""
        version = json.loads(data)["signed"]["version"]
        quoted = quote(role, "")
        self.files["timestamp.json" if role == "timestamp" else f"{version}.{quoted}.json"] = data
        digest, length = {"sha256": hashlib.sha256(data).hexdigest()}, len(data)
        meta = MetaFile(version, *((length, digest) if self.has_hashes else ()))
        if role == "snapshot":
            self.timestamp.snapshot_meta = meta
        elif role not in ("root", "timestamp"):
            self.snapshot.meta[f"{role}.json"] = meta

    def messages(self):
        """Return the newest document of every role as it is retained: topic to payload."""
        newest = {}
        for name, data in self.files.items():
            version, _, file = name.partition(".")
            role = file.removesuffix(".json")
            if name == "timestamp.json":
                newest[topics.Trust("timestamp")] = data
            elif role == "root":
                if version != "1":
                    newest[topics.Trust(f"root-{version}")] = data
            elif role in TOP_LEVEL and int(version) == self.documents[role].version:
                newest[topics.Trust(role)] = data
            elif int(version) == self.documents[role].version:
                newest[topics.ModelTrust(role.removeprefix("model-"))] = data
        return {topic.text: data for topic, data in newest.items()}

    def fetch(self, name):
        """Give a file as a source does."""
        if name not in self.files:
            raise LookupError(name)
        yield self.files[name]
