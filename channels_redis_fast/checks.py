"""
Django system checks of CHANNEL_LAYERS, for errors and for later trouble, and of the consumers' dispatch.

They look at settings alone and connect to nothing. ``manage.py check`` runs them where ``channels_redis_fast`` is in
INSTALLED_APPS; ``check_layers()`` can be called without. Only aliases whose backend is a layer of this package are
looked at, and no message repeats a password or a key.
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
from .base import RedisLayer, overrides
from .cluster.seeds import Seeds
from .connection.hosts import HostOptions, host_label, is_cluster

#: Characters of an encryption key below which it can be guessed.
MIN_KEY_LENGTH = 32

#: Environment variables in which hosts of applications put the address of a Redis server.
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
    configured = getattr(settings, "CHANNEL_LAYERS", None)
    for alias, setting in configured.items() if isinstance(configured, dict) else ():
        backend = _backend(setting)
        if backend is None:
            continue
        config = setting.get("CONFIG") or {}
        try:
            layers[alias] = backend(**_with_effect(backend, config))
        except Exception as error:
            messages.append(
                Error(
                    f"CHANNEL_LAYERS[{alias!r}]: {backend.__name__} cannot be made: {error}",
                    hint="The options are those of the package's README.",
                    id="channels_redis_fast.E001",
                )
            )
            continue
        messages += _check_options(alias, backend, config)
        messages += _check_overrides(alias, backend)
        messages += _check_layer(alias, layers[alias], config)
        if layers[alias].unset_host is None:
            messages += _check_passwords(alias, layers[alias])
        else:
            messages.append(_unset(alias, layers.pop(alias)))
    messages += _check_orders(layers)
    return messages


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
            hint="Upgrade channels_redis_fast, or take its consumer classes as base classes instead.",
            id="channels_redis_fast.W009",
        )
    ]


def _backend(setting: Any) -> type[RedisLayer] | None:
    try:
        backend = import_string(setting["BACKEND"])
    except Exception:
        # Whatever a site's module may raise. Channels reports that itself, and better.
        return None
    return backend if isinstance(backend, type) and issubclass(backend, RedisLayer) else None


def _with_effect(backend: type[RedisLayer], config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in backend.without_effect}


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
            hint="Do the settings fill CONFIG only for a BACKEND that begins with 'channels_redis.'? Add "
            f"'channels_redis_fast.', or write CONFIG = {{'hosts': [os.environ[{variable!r}]]}}.",
            id="channels_redis_fast.W007",
        )
    if "expiry" in config and backend.layer_name == "pubsub":
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}]: 'expiry' has an effect here: a message that nobody has received after "
            f"{config['expiry']} s is dropped. channels_redis' Pub/Sub layer takes the option and forgets it.",
            hint="Remove it, unless that is what you want; then silence this check.",
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


def _check_layer(alias: str, layer: RedisLayer, config: dict[str, Any]) -> Iterator[CheckMessage]:
    for position, key in enumerate(config.get("symmetric_encryption_keys") or ()):
        if len(key) < MIN_KEY_LENGTH:
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: symmetric_encryption_keys[{position}] is shorter than "
                f"{MIN_KEY_LENGTH} characters.",
                hint="python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one. Put it in front of the "
                "old one, and remove that when no old message can be left.",
                id="channels_redis_fast.W001",
            )
    # The default is what channels_redis has, and what servers' own limits on a WebSocket's life go by.
    session_age = settings.SESSION_COOKIE_AGE
    if "group_expiry" in config and "group_expiry" not in layer.without_effect and layer.group_expiry < session_age:
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}]: group_expiry ({layer.group_expiry} s) is less than SESSION_COOKIE_AGE "
            f"({session_age} s): a consumer that stays connected longer no longer gets the group's messages.",
            hint="Raise group_expiry above the longest time that a consumer stays connected, or silence this where "
            "consumers come back sooner or add themselves to their groups again.",
            id="channels_redis_fast.W002",
        )


def _unset(alias: str, layer: RedisLayer) -> CheckMessage:
    return Error(
        f"CHANNEL_LAYERS[{alias!r}]: {layer.unset_host}",
        hint="The layer can be made, so that settings may be read where no Redis server is needed (collectstatic, the "
        "build of an image), and each of its methods raises this. Where that is all right, silence this check.",
        id="channels_redis_fast.E002",
    )


def _check_passwords(alias: str, layer: RedisLayer) -> Iterator[CheckMessage]:
    for host in layer.hosts:
        if any(is_plain(server) and has_password(server) for server in _servers(host, layer)):
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: the password for {host_label(host)} goes over the network unencrypted.",
                hint="Use rediss://, if the server has TLS.",
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
                hint="A channel's shard follows from the order: processes that are to reach each other need the same "
                "one.",
                id="channels_redis_fast.W003",
            )


def _place(host: HostOptions) -> str:
    """Name a shard: two databases of one server are two."""
    parts = urlsplit(host.get("address") or "")
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    return f"{host_label(host)}/{dict(parse_qsl(parts.query)).get('db') or path or host.get('db') or 0}"


def _servers(host: HostOptions, layer: RedisLayer) -> list[HostOptions]:
    """Return how the servers that a host names are connected to: itself, if it is no cluster."""
    if not is_cluster(host):
        return [host]
    seeds = Seeds(host, "hosts[0]", layer.layer_name)
    return [seeds.options(address) for address in seeds.addresses]


def is_encrypted(host: HostOptions) -> bool:
    """Return whether a host is connected to with TLS."""
    is_tls = isinstance(kind := host.get("connection_class"), type) and issubclass(kind, SSLConnection)
    return bool(host.get("ssl")) or is_tls or str(host.get("address", "")).startswith("rediss:")


def is_plain(host: HostOptions) -> bool:
    """Return whether bytes go to another machine as they are."""
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
    """Return whether a host is connected to with a password, or with what a provider says."""
    if any(host.get(name) for name in ("password", "credential_provider")):
        return True
    parts = urlsplit(host.get("address") or "")
    return bool(parts.password or dict(parse_qsl(parts.query)).get("password"))
