"""The channel layer of a consumer that requires one of this package, or the error that says so."""

from __future__ import annotations

from typing import Any

from channels.exceptions import InvalidChannelLayerError


def layer_with(consumer: Any, method: str, option: str, without: str) -> Any:
    """
    Return a consumer's channel layer, which has a ``method`` if its ``option`` is set.

    Raises ``InvalidChannelLayerError`` if there is no layer, and ``RuntimeError`` if the layer lacks the method;
    ``without`` is what it has instead.
    """
    layer = consumer.channel_layer
    if layer is None:
        raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups")
    if not hasattr(layer, method):
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        raise RuntimeError(
            f"{type(consumer).__qualname__} needs a channel layer of channels_redis_fast with the option {option!r}; "
            f"{kind} has {without}."
        )
    return layer
