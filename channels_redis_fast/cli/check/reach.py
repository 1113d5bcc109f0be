"""
Whether a host can be reached, lets us in, and how the way there is protected; and if not, why.

An error on the way is known by its kind, down the chain of causes that redis-py leaves. Texts name no password.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

from ...checks import has_password, is_encrypted, is_plain
from ...connection.hosts import HostOptions
from ...survey.line import Line
from .findings import OK, PROBLEM, UNSEEN, WARNING, Finding

#: Days before its end from which on a certificate is warned of.
CERTIFICATE_DAYS = 21


async def check_reach(line: Line) -> list[Finding]:
    """Return the findings about reaching a server: reachability, authentication, TLS, as far as it came."""
    host = line.host
    try:
        (answer,) = await line.ask((b"PING",))
    except RedisError as error:
        return explain(error, line)
    if isinstance(answer, AuthenticationError):
        return explain(answer, line)
    findings = [Finding(OK, "reachability", "connected")]
    (user,) = await line.ask((b"ACL", b"WHOAMI"))
    if isinstance(user, bytes):
        text = f"as user {user.decode('utf-8', 'replace')}"
        findings.append(Finding(OK, "authentication", text if has_password(host) else f"{text}, without a password"))
    else:
        text = "accepted" if has_password(host) else "no password asked for"
        findings.append(Finding(OK, "authentication", text))
    return [*findings, *_protection(line, host)]


def explain(error: Exception, line: Line) -> list[Finding]:
    """Return why a server could not be reached, or does not let us in."""
    text = str(error).removeprefix(f"{line.label}: ")
    chain = list(_chain(error))
    if any(isinstance(cause, AuthenticationError) for cause in chain):
        return [
            Finding(OK, "reachability", "connected"),
            Finding(PROBLEM, "authentication", text, _way_in(text, line.where)),
        ]
    for cause in chain:
        if isinstance(cause, ssl.SSLError):
            return [
                Finding(OK, "reachability", "something answers"),
                Finding(PROBLEM, "TLS", text, _tls_mend(cause, line.where)),
            ]
    return [Finding(PROBLEM, "reachability", text, _way_there(chain, text, line.where, line.host))]


def _way_in(text: str, where: str) -> str:
    if "without any password" in text:
        return f"This server has no password: leave it out of {where}."
    if "NOAUTH" in text or "required" in text:
        return f"Put user and password into {where}: redis://USER:PASSWORD@HOST, what is not a letter percent-encoded."
    return f"Compare user and password in {where} with the server's: ACL GETUSER says whether the user is on."


def _tls_mend(error: ssl.SSLError, where: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"Name in {where} the authority that signed the certificate (ssl_ca_certs), and the server by a "
            "name that is in it."
        )
    text = str(error).upper()
    if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text:
        return f"The server wants a certificate of its clients: ssl_certfile and ssl_keyfile in {where}."
    return f"Does the server speak TLS on this port? If not: redis:// in {where}, or the port that does."


def _way_there(chain: list[BaseException], text: str, where: str, host: HostOptions) -> str:
    lower = text.lower()
    if "master_name" in host and ("no master found" in lower or "no primary found" in lower):
        return f"Compare sentinels, master_name and sentinel_kwargs in {where} with what the Sentinels say."
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return f"The name is not known here: look at {where} and at this machine's DNS."
    if any(isinstance(cause, FileNotFoundError) for cause in chain):
        return f"There is no such socket: compare {where} with the server's `unixsocket`."
    if any(isinstance(cause, PermissionError) for cause in chain):
        return "Let this process' user write to the socket: `unixsocketperm` and the group of its directory."
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        return f"Nothing listens there: start the server, or correct host and port in {where}."
    if "max number of clients" in lower:
        return "The server has all the clients that it takes: raise its `maxclients`, or look for a leak (CLIENT LIST)."
    if any(isinstance(cause, BusyLoadingError) for cause in chain):
        return "The server loads its data: wait."
    if "is a replica" in lower:
        return f"Name the primary in {where}, or have Sentinels say which it is."
    if "no connection within" in lower:
        swallowed = "Something on the way swallows what is sent: a firewall, a security group, a wrong address"
        return f"{swallowed}; or the server does not speak TLS there." if _wants_tls(host) else f"{swallowed}."
    return f"It took the connection and dropped it: if the server speaks TLS, {where} needs rediss://."


def _wants_tls(host: HostOptions) -> bool:
    return is_encrypted(host)


def _protection(line: Line, host: HostOptions) -> Iterator[Finding]:
    encryption = line.encryption
    if encryption is not None:
        yield from _encryption(encryption, line.where)
    elif not is_plain(host):
        # A socket without TLS to a host that is said not to be plain stays on this machine.
        yield Finding(OK, "TLS", "none; the server is on this machine")
    elif has_password(host):
        yield Finding(
            WARNING,
            "TLS",
            "none: the password and every message go over the network as they are",
            f"Use rediss:// in {line.where}, if the server has TLS.",
        )
    else:
        yield Finding(OK, "TLS", "none; messages go over the network as they are")


def _encryption(encryption: ssl.SSLObject, where: str) -> Iterator[Finding]:
    version = encryption.version()
    if encryption.context.verify_mode != ssl.CERT_REQUIRED:
        yield Finding(
            WARNING,
            "TLS",
            f"{version}, and anybody could be at the other end: the certificate is not verified",
            f"ssl_cert_reqs='required' and ssl_ca_certs in {where}.",
        )
        return
    if not encryption.context.check_hostname:
        yield Finding(
            WARNING,
            "TLS",
            f"{version}, certificate verified, but not whether it is this host's",
            f"ssl_check_hostname=True in {where}.",
        )
    else:
        yield Finding(OK, "TLS", f"{version}, certificate verified")
    ends = (encryption.getpeercert() or {}).get("notAfter")
    if not isinstance(ends, str):
        yield Finding(UNSEEN, "certificate", "the end of its life is not told")
        return
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    text = f"ends in {days:.0f} days" if days >= 2 else f"ends in {days * 24:.0f} hours"
    if days < CERTIFICATE_DAYS:
        yield Finding(WARNING, "certificate", text, "Renew it, and see that the server has read the new one.")
    else:
        yield Finding(OK, "certificate", text)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
