"""
Django system checks of CHANNEL_LAYERS, for errors and likely problems, and of the consumers' dispatch.

They read only the settings and connect to nothing. ``manage.py check`` runs them if ``channels_redis_fast`` is in
INSTALLED_APPS; ``check_layers()`` can be called without that. They examine only aliases whose backend is a layer of
this package, and no message repeats a password or a key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.utils.module_loading import import_string
from redis.asyncio.connection import SSLConnection

from . import upstream
from .base import LimitedLayer, RedisLayer, overrides
from .cluster.seeds import Seeds
from .connection.hosts import HostOptions, host_label, is_cluster
from .memory import InMemoryChannelLayer
from .options import DOCS

#: An encryption key with fewer characters than this can be guessed.
MIN_KEY_LENGTH = 32

#: Environment variables in which hosting providers put the address of a Redis server.
URL_VARIABLES = ("REDIS_URL", "REDIS_TLS_URL", "REDISCLOUD_URL", "VALKEY_URL")

LOCAL = ("localhost", "::1", "")


def check_layers(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """
    Return the messages about the layers of this package in CHANNEL_LAYERS.

    | id | |
    |---|---|
    | ``channels_redis_fast.E001`` | the layer cannot be made with these options |
    | ``channels_redis_fast.E002`` | a host is empty, so that the layer raises whenever it is used |
    | ``channels_redis_fast.W001`` | an encryption key is shorter than 32 characters |
    | ``channels_redis_fast.W002`` | a ``group_expiry`` of the settings is less than the session age |
    | ``channels_redis_fast.W003`` | two aliases list the same hosts in different orders |
    | ``channels_redis_fast.W004`` | a password goes unencrypted to a host that is not local |
    | ``channels_redis_fast.W005`` | an option has no effect on this layer |
    | ``channels_redis_fast.W006`` | an override of a subclass has no effect here, though channels_redis honours it |
    | ``channels_redis_fast.W007`` | a layer has no options at all while the environment names a Redis server |
    | ``channels_redis_fast.W008`` | ``expiry`` on the Pub/Sub layer, which channels_redis takes and forgets |
    """
    messages: list[CheckMessage] = []
    layers: dict[str, RedisLayer] = {}
    for alias, backend, config in _configured():
        try:
            layer = backend(**_with_effect(backend, config))
        except Exception as error:
            # Only the first error has the link, however many layers are wrong.
            is_first = not any(message.id == "channels_redis_fast.E001" for message in messages)
            messages.append(
                Error(
                    f"CHANNEL_LAYERS[{alias!r}]: {backend.__name__} cannot be made: {error}",
                    hint=f"The options are described at {DOCS}"
                    if is_first
                    else "See the options in the documentation.",
                    id="channels_redis_fast.E001",
                )
            )
            continue
        messages += _check_layer(alias, layer, config)
        if not isinstance(layer, RedisLayer) or not issubclass(backend, RedisLayer):
            continue
        layers[alias] = layer
        messages += _check_options(alias, backend, config)
        messages += _check_overrides(alias, backend)
        if layers[alias].unset_host is None:
            messages += _check_passwords(alias, layers[alias])
        else:
            messages.append(_unset(alias, layers.pop(alias)))
    messages += _check_orders(layers)
    return messages


def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """
    Return the additional messages of ``manage.py check --deploy`` about CHANNEL_LAYERS.

    | id | |
    |---|---|
    | ``channels_redis_fast.W010`` | a layer is in the memory of each process |
    """
    return [
        Warning(
            f"CHANNEL_LAYERS[{alias!r}] is in the memory of each process: nothing sent in one reaches another.",
            hint="Use channels_redis_fast.core.RedisChannelLayer, or silence this check if there is only one process.",
            id="channels_redis_fast.W010",
        )
        for alias, backend, _ in _configured()
        if issubclass(backend, InMemoryChannelLayer)
    ]


def check_consumers(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """
    Return whether consumers have the direct dispatch that ``CHANNELS_REDIS_FAST["CONSUMERS"]`` asks for.

    | id | |
    |---|---|
    | ``channels_redis_fast.I001`` | it is active |
    | ``channels_redis_fast.W009`` | it could not be activated |
    """
    asked = getattr(settings, "CHANNELS_REDIS_FAST", {}).get("CONSUMERS") == "direct"
    if not asked or not apps.is_installed("channels_redis_fast"):
        return []
    refused = apps.get_app_config("channels_redis_fast").refused
    if refused is None:
        return [
            Info(f"Consumers have direct dispatch (Channels {version('channels')}).", id="channels_redis_fast.I001")
        ]
    return [
        Warning(
            refused,
            hint="Upgrade channels_redis_fast, or use its consumer classes as base classes instead.",
            id="channels_redis_fast.W009",
        )
    ]


def _configured() -> Iterator[tuple[str, type[LimitedLayer], dict[str, Any]]]:
    """Yield the aliases whose backend is a layer of this package, with class and CONFIG."""
    configured = getattr(settings, "CHANNEL_LAYERS", None)
    for alias, setting in configured.items() if isinstance(configured, dict) else ():
        backend = _backend(setting)
        if backend is not None:
            yield alias, backend, setting.get("CONFIG") or {}


def _backend(setting: Any) -> type[LimitedLayer] | None:
    try:
        backend = import_string(setting["BACKEND"])
    except Exception:
        # A site's module may raise anything. Channels reports that itself, with a better message.
        return None
    return backend if isinstance(backend, type) and issubclass(backend, LimitedLayer) else None


def _with_effect(backend: type[LimitedLayer], config: dict[str, Any]) -> dict[str, Any]:
    without_effect = getattr(backend, "without_effect", ())
    return {name: value for name, value in config.items() if name not in without_effect}


def _check_options(alias: str, backend: type[RedisLayer], config: dict[str, Any]) -> Iterator[CheckMessage]:
    for name in config:
        if name in backend.without_effect:
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: '{name}' has no effect on {backend.__name__}.",
                hint="Remove it.",
                id="channels_redis_fast.W005",
            )

    if not config and (variable := next((name for name in URL_VARIABLES if os.environ.get(name)), None)) is not None:
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}] has no CONFIG, so {backend.__name__} connects to localhost:6379 under the "
            f"prefix 'asgi', while the environment has {variable}.",
            hint="Do the settings set CONFIG only for a BACKEND that begins with 'channels_redis.'? Add "
            f"'channels_redis_fast.', or set CONFIG = {{'hosts': [os.environ[{variable!r}]]}}.",
            id="channels_redis_fast.W007",
        )
    if "expiry" in config and backend.layer_name == "pubsub":
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}]: 'expiry' has an effect here: a message that nobody has received after "
            f"{config['expiry']} s is dropped. channels_redis' Pub/Sub layer accepts the option and ignores it.",
            hint="Remove it, or silence this check if that is intended.",
            id="channels_redis_fast.W008",
        )


def _check_overrides(alias: str, backend: type[RedisLayer]) -> Iterator[CheckMessage]:
    for name, rule in upstream.OVERRIDES[backend.layer_name].items():
        if rule.fate is upstream.Fate.PASSED_OVER and overrides(backend, name):
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: {backend.__name__}.{name} is never called by this layer.",
                hint=rule.instead[0].upper() + rule.instead[1:],
                id="channels_redis_fast.W006",
            )


def _check_layer(alias: str, layer: LimitedLayer, config: dict[str, Any]) -> Iterator[CheckMessage]:
    is_encrypted = isinstance(layer, RedisLayer)
    for position, key in enumerate(config.get("symmetric_encryption_keys") or () if is_encrypted else ()):
        if len(key) < MIN_KEY_LENGTH:
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: symmetric_encryption_keys[{position}] is shorter than "
                f"{MIN_KEY_LENGTH} characters.",
                hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'. Put it before the "
                "old key, and remove that once all old messages have expired.",
                id="channels_redis_fast.W001",
            )
    # The default is that of channels_redis, and servers' own limits on a WebSocket's lifetime match it.
    session_age = settings.SESSION_COOKIE_AGE
    group_expiry = getattr(layer, "group_expiry", None) if "group_expiry" in _with_effect(type(layer), config) else None
    if group_expiry is not None and group_expiry < session_age:
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}]: group_expiry ({group_expiry:g} s) is less than SESSION_COOKIE_AGE "
            f"({session_age} s): a consumer that stays connected longer stops getting the group's messages.",
            hint="Set group_expiry above the longest time that a consumer stays connected, or silence this check if "
            "consumers reconnect sooner or add themselves to their groups again.",
            id="channels_redis_fast.W002",
        )


def _unset(alias: str, layer: RedisLayer) -> CheckMessage:
    return Error(
        f"CHANNEL_LAYERS[{alias!r}]: {layer.unset_host}",
        hint="The layer can be made, so that settings load where no server is needed (collectstatic, building an "
        "image), but each of its methods raises this error. Silence this check if that is intended.",
        id="channels_redis_fast.E002",
    )


def _check_passwords(alias: str, layer: RedisLayer) -> Iterator[CheckMessage]:
    for host in layer.hosts:
        if any(is_plain(server) and has_password(server) for server in _servers(host, layer)):
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: the password for {host_label(host)} is sent unencrypted.",
                hint="Use rediss:// if the server supports TLS.",
                id="channels_redis_fast.W004",
            )


def _check_orders(layers: dict[str, RedisLayer]) -> Iterator[CheckMessage]:
    seen: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for alias, layer in layers.items():
        labels = [_place(host) for host in layer.hosts]
        other, order = seen.setdefault(tuple(sorted(labels)), (alias, labels))
        if order != labels:
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}] lists the hosts of [{other!r}] in another order.",
                hint="The order of the hosts decides on which shard a channel is. Use the same order wherever the same "
                "channels are used.",
                id="channels_redis_fast.W003",
            )


def _place(host: HostOptions) -> str:
    """Name a shard: two databases of one server are two shards."""
    parts = urlsplit(host.get("address") or "")
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    return f"{host_label(host)}/{dict(parse_qsl(parts.query)).get('db') or path or host.get('db') or 0}"


def _servers(host: HostOptions, layer: RedisLayer) -> list[HostOptions]:
    """Return the connection options of a host's servers: the host itself, unless it is a cluster."""
    if not is_cluster(host):
        return [host]
    seeds = Seeds(host, "hosts[0]", layer.layer_name)
    return [seeds.options(address) for address in seeds.addresses]


def is_encrypted(host: HostOptions) -> bool:
    """Return whether connections to a host use TLS."""
    is_tls = isinstance(kind := host.get("connection_class"), type) and issubclass(kind, SSLConnection)
    return bool(host.get("ssl")) or is_tls or str(host.get("address", "")).startswith("rediss:")


def is_plain(host: HostOptions) -> bool:
    """Return whether bytes go to another machine unencrypted."""
    if "path" in host or is_encrypted(host):
        return False
    if "master_name" in host:
        return not all(_is_local(str(address[0])) for address in host["sentinels"])
    if "address" in host:
        parts = urlsplit(host["address"])
        return parts.scheme == "redis" and not _is_local(parts.hostname or "")
    return not _is_local(str(host.get("host", "")))


def _is_local(name: str) -> bool:
    return name in LOCAL or name.startswith("127.")


def has_password(host: HostOptions) -> bool:
    """Return whether connections to a host use a password, or a credential provider."""
    if any(host.get(name) for name in ("password", "credential_provider")):
        return True
    parts = urlsplit(host.get("address") or "")
    return bool(parts.password or dict(parse_qsl(parts.query)).get("password"))
