"""
Which deployment a command is about: the options that all commands share, and the layers that follow from them.

A deployment is an alias in a Django project's CHANNEL_LAYERS, or the URLs of ``--hosts`` or ``--cluster``. Creates
layers. Opens nothing, and does not know what a command does with them. Errors name the option or the alias, never a
password.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from channels.layers import InMemoryChannelLayer

from ..base import RedisLayer
from ..core import RedisChannelLayer
from ..options import DOCS
from ..pubsub import RedisPubSubChannelLayer

#: The values of ``--layer``.
LAYERS: dict[str, type[RedisLayer]] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}

#: The backends of channels_redis, and the layers here that use the same data in Redis.
TWINS: dict[tuple[str, str], type[RedisLayer]] = {
    ("channels_redis.core", "RedisChannelLayer"): RedisChannelLayer,
    ("channels_redis.pubsub", "RedisPubSubChannelLayer"): RedisPubSubChannelLayer,
}

DEFAULT_ALIAS = "default"


class UsageError(Exception):
    """Wrong usage or settings; the text is one sentence that says how to fix it. Ends a command with exit code 2."""


@dataclass(frozen=True)
class Deployment:
    """
    The deployment that a command works on.

    ``name``: its name in output and errors; ``alias``: its name in CHANNEL_LAYERS, None for URLs; ``backend`` and
    ``options``: class and keywords of its layers; ``is_twin``: whether the project itself uses channels_redis, and the
    layers created here use the same wire format.
    """

    name: str
    alias: str | None
    backend: type[RedisLayer]
    options: Mapping[str, Any]
    is_twin: bool = False

    @property
    def is_core(self) -> bool:
        """Whether messages wait in Redis: the core layer."""
        return issubclass(self.backend, RedisChannelLayer)

    def make_layer(self, **changes: Any) -> RedisLayer:
        """
        Return a new, unconnected layer of this deployment; ``changes`` override its options.

        To Redis, two such layers are like two processes. Raises ``UsageError`` for wrong options, including an empty
        host.
        """
        try:
            layer = self.backend(**{**self.options, **changes})
        except Exception as error:
            # A site's own class may raise anything.
            text = f"{self.name}: {self.backend.__name__} cannot be made: {error}"
            raise UsageError(f"{text.rstrip()} The options are described at {DOCS}") from error
        if layer.unset_host is not None:
            raise UsageError(f"{self.name}: {layer.unset_host}")
        return layer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select a deployment."""
    group = parser.add_argument_group("deployment", "a Django project's channel layer, or servers by their URLs")
    group.add_argument("--settings", metavar="MODULE", help="settings of the project (default: DJANGO_SETTINGS_MODULE)")
    group.add_argument("--alias", help=f"name of the layer in CHANNEL_LAYERS (default: {DEFAULT_ALIAS})")
    group.add_argument(
        "--hosts", nargs="+", metavar="URL", help="servers in the order of the shards, without a project"
    )
    group.add_argument("--cluster", nargs="+", metavar="URL", help="some servers of a Redis Cluster, without a project")
    group.add_argument("--prefix", help="with URLs: the layer's prefix (default: asgi)")
    group.add_argument("--layer", choices=sorted(LAYERS), help="with URLs: the kind of layer (default: core)")
    group.add_argument(
        "--sharded",
        action="store_true",
        help="with --hosts and --layer pubsub: use sharded Pub/Sub, which a cluster always uses",
    )


def find(arguments: argparse.Namespace) -> Deployment:
    """
    Return the deployment that the options name.

    Raises ``UsageError`` for options that contradict each other, settings that cannot be read, an alias that does not
    exist, and a backend that is neither of this package nor of channels_redis.
    """
    named = next((name for name in ("hosts", "cluster") if getattr(arguments, name) is not None), None)
    if named is not None:
        for option in ("settings", "alias", "cluster"):
            if option != named and getattr(arguments, option) is not None:
                raise UsageError(f"--{named} and --{option} cannot be used together.")
        return _checked(_from_urls(arguments, named))
    for option in ("prefix", "layer", "sharded"):
        if getattr(arguments, option):
            raise UsageError(f"--{option} needs --hosts or --cluster: for a project, its settings have it.")
    return _checked(_from_settings(arguments.settings, arguments.alias or DEFAULT_ALIAS))


def _from_urls(arguments: argparse.Namespace, named: str) -> Deployment:
    options: dict[str, Any] = {"hosts": arguments.hosts if named == "hosts" else [{"cluster": arguments.cluster}]}
    if arguments.prefix is not None:
        options["prefix"] = arguments.prefix
    if arguments.sharded:
        if arguments.layer != "pubsub":
            raise UsageError("--sharded needs --layer pubsub: the core layer has no such option.")
        options["sharded"] = True
    return Deployment(f"--{named}", None, LAYERS[arguments.layer or "core"], options)


def _from_settings(module: str | None, alias: str) -> Deployment:
    configured = _read_settings(module)
    if not isinstance(configured, Mapping) or not configured:
        raise UsageError("The settings have no CHANNEL_LAYERS: add one, or use --hosts or --cluster.")
    if alias not in configured:
        raise UsageError(f"CHANNEL_LAYERS has no {alias!r}: use --alias with one of {', '.join(map(str, configured))}.")
    name = f"CHANNEL_LAYERS[{alias!r}]"
    setting = configured[alias]
    if not isinstance(setting, Mapping) or not isinstance(setting.get("BACKEND"), str):
        raise UsageError(f"{name} must be a dict with a BACKEND.")
    config = setting.get("CONFIG") or {}
    if not isinstance(config, Mapping):
        raise UsageError(f"{name}: CONFIG must be a dict.")
    backend, is_twin = _backend(name, setting["BACKEND"])
    options = {option: value for option, value in config.items() if option not in backend.without_effect}
    hosts = options.get("hosts")
    if hosts is not None and not isinstance(hosts, (str, bytes, Mapping)):
        # Several layers are created from it.
        options["hosts"] = list(hosts) if hasattr(hosts, "__iter__") else hosts
    return Deployment(name, alias, backend, options, is_twin)


def _read_settings(module: str | None) -> Any:
    """Set Django up, since a site's apps may register its serializers; return CHANNEL_LAYERS."""
    ready = _ready_settings(module)
    if ready is not None:
        return getattr(ready, "CHANNEL_LAYERS", None)
    if module is not None:
        os.environ["DJANGO_SETTINGS_MODULE"] = module
    module = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not module:
        raise UsageError("Which deployment? Use --settings, DJANGO_SETTINGS_MODULE, --hosts or --cluster.")
    if os.getcwd() not in sys.path:
        # As with manage.py: the project is where the command is run.
        sys.path.insert(0, os.getcwd())
    try:
        import django  # noqa: PLC0415 - a project of its own
        from django.conf import settings  # noqa: PLC0415

        django.setup()
        return getattr(settings, "CHANNEL_LAYERS", None)
    except Exception as error:
        # A site's own code runs here, and may raise anything.
        raise UsageError(f"The settings {module!r} cannot be used: {type(error).__name__}: {error}") from error


def _ready_settings(module: str | None) -> Any:
    """Return Django's settings if a project is already set up, as by ``manage.py``, and no other is requested."""
    apps = sys.modules.get("django.apps")
    if apps is None or not apps.apps.ready:
        return None
    from django.conf import settings  # noqa: PLC0415 - a project of its own

    return settings if module in (None, getattr(settings, "SETTINGS_MODULE", None)) else None


def _backend(name: str, dotted: str) -> tuple[type[RedisLayer], bool]:
    module_name, _, class_name = dotted.rpartition(".")
    twin = TWINS.get((module_name, class_name))
    if twin is not None:
        # Without importing it: it need not be installed here.
        return twin, True
    try:
        backend = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise UsageError(f"{name}: the BACKEND {dotted!r} cannot be imported: {error}") from error
    if isinstance(backend, type) and issubclass(backend, RedisLayer):
        return backend, False
    for base in getattr(backend, "__mro__", ()):
        twin = TWINS.get((base.__module__, base.__name__))
        if twin is not None:
            return twin, True
    if isinstance(backend, type) and issubclass(backend, InMemoryChannelLayer):
        raise UsageError(f"{name} is in the memory of each process ({dotted}): there is no server to look at.")
    raise UsageError(f"{name}: the BACKEND {dotted!r} is not a layer of channels_redis_fast or channels_redis.")


def _checked(deployment: Deployment) -> Deployment:
    """Reject wrong options here, before a command has begun."""
    deployment.make_layer()
    return deployment
