"""
Whether a host can be reached and lets us in, and how the connection is protected; and if not, why.

``survey.reasons`` finds the reason. Texts contain no password.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

from redis.exceptions import AuthenticationError, RedisError

from ...checks import has_password, is_encrypted, is_plain
from ...connection.hosts import HostOptions
from ...survey import reasons
from ...survey.line import Line
from ...survey.reasons import chain, reason_of
from .findings import OK, PROBLEM, UNSEEN, WARNING, Finding

#: How many days before a certificate's expiry the warning starts.
CERTIFICATE_DAYS = 21


async def check_reach(line: Line) -> list[Finding]:
    """Return the findings about reaching a server: reachability, authentication, TLS, as far as it got."""
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
        text = "accepted" if has_password(host) else "no password needed"
        findings.append(Finding(OK, "authentication", text))
    return [*findings, *_protection(line, host)]


def explain(error: Exception, line: Line) -> list[Finding]:
    """Return why a server could not be reached, or does not let us in."""
    text = str(error).removeprefix(f"{line.label}: ")
    where, reason = line.where, reason_of(error)
    if reason in _ACCESS:
        fix = _ACCESS[reason].format(where=where)
        return [Finding(OK, "reachability", "connected"), Finding(PROBLEM, "authentication", text, fix)]
    if reason == reasons.TLS:
        return [Finding(OK, "reachability", "something answers"), Finding(PROBLEM, "TLS", text, _tls(error, where))]
    fix = _STATES.get(reason, "").format(where=where) or _way_there(list(chain(error)), text, where, line.host)
    return [Finding(PROBLEM, "reachability", text, fix)]


#: How to fix it if a server answers and does not let us in, by the reason.
_ACCESS = {
    reasons.NO_PASSWORD: "Add user and password to {where}: redis://USER:PASSWORD@HOST, percent-encoded.",
    reasons.UNWANTED_PASSWORD: "The server has no password: remove it from {where}.",
    reasons.WRONG_PASSWORD: "Compare user and password in {where} with the server's; ACL GETUSER shows whether the "
    "user is on.",
    reasons.NOT_PERMITTED: "The user in {where} lacks a permission: ACL GETUSER shows which it has.",
}

#: How to fix it if a server answers but cannot be used now.
_STATES = {
    reasons.LOADING: "The server is loading its data: wait.",
    reasons.PRIMARY_DOWN: "The server is a replica that has lost its primary: name the primary in {where}.",
    reasons.REPLICA: "Name the primary in {where}, or let Sentinels find it.",
    reasons.FULL: "Raise the server's `maxclients`, or look for a leak (CLIENT LIST).",
    reasons.PROTECTED: "Set a password on the server (requirepass), and add it to {where}.",
    reasons.UNKNOWN_NAME: "The host name is unknown: check {where} and the DNS of this machine.",
}


def _tls(error: Exception, where: str) -> str:
    causes = list(chain(error))
    text = " ".join(str(cause) for cause in causes).upper()
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return (
            f"In {where}, name the authority that signed the certificate (ssl_ca_certs), and the server by a name "
            "that is in the certificate."
        )
    if "SPEAKS TLS ON THIS PORT" in text:
        return f"Use rediss:// in {where}, or the server's port without TLS."
    if "DOES NOT SPEAK TLS" in text:
        return f"Use redis:// in {where}, or the server's port for TLS."
    if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text:
        return f"The server requires a client certificate: ssl_certfile and ssl_keyfile in {where}."
    return f"Does the server speak TLS on this port? If not, use redis:// in {where}, or the port that does."


def _way_there(causes: list[BaseException], text: str, where: str, host: HostOptions) -> str:
    lower = text.lower()
    if "master_name" in host and ("no master found" in lower or "no primary found" in lower):
        return f"Compare sentinels, master_name and sentinel_kwargs in {where} with what the Sentinels report."
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return f"There is no such socket: compare {where} with the server's `unixsocket`."
    if any(isinstance(cause, PermissionError) for cause in causes):
        return "Let this process' user write to the socket: `unixsocketperm`, and the group of its directory."
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"Nothing listens there: start the server, or correct host and port in {where}."
    if "no connection within" in lower:
        silent = "Something drops the packets: a firewall, a security group, a wrong address"
        return f"{silent}; or the server does not speak TLS there." if is_encrypted(host) else f"{silent}."
    return f"The server closed the connection. If it requires TLS, use rediss:// in {where}."


def _protection(line: Line, host: HostOptions) -> Iterator[Finding]:
    encryption = line.encryption
    if encryption is not None:
        yield from _encryption(encryption, line.where)
    elif not is_plain(host):
        # A connection without TLS to a host that ``is_plain`` excludes stays on this machine.
        yield Finding(OK, "TLS", "none; the server is on this machine")
    elif has_password(host):
        yield Finding(
            WARNING,
            "TLS",
            "none: the password and all messages are sent unencrypted",
            f"Use rediss:// in {line.where} if the server supports TLS.",
        )
    else:
        yield Finding(OK, "TLS", "none; messages are sent unencrypted")


def _encryption(encryption: ssl.SSLObject, where: str) -> Iterator[Finding]:
    version = encryption.version()
    if encryption.context.verify_mode != ssl.CERT_REQUIRED:
        yield Finding(
            WARNING,
            "TLS",
            f"{version}, but the certificate is not verified: anybody could be at the other end",
            f"Set ssl_cert_reqs='required' and ssl_ca_certs in {where}.",
        )
        return
    if not encryption.context.check_hostname:
        yield Finding(
            WARNING,
            "TLS",
            f"{version}, certificate verified, but not its host name",
            f"Set ssl_check_hostname=True in {where}.",
        )
    else:
        yield Finding(OK, "TLS", f"{version}, certificate verified")
    ends = (encryption.getpeercert() or {}).get("notAfter")
    if not isinstance(ends, str):
        yield Finding(UNSEEN, "certificate", "its expiry date is unknown")
        return
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    text = f"expires in {days:.0f} days" if days >= 2 else f"expires in {days * 24:.0f} hours"
    if days < CERTIFICATE_DAYS:
        yield Finding(WARNING, "certificate", text, "Renew it, and reload it on the server.")
    else:
        yield Finding(OK, "certificate", text)
