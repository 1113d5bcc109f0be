"""The fixtures under test, also where the installed package does not name the plugin yet."""

from channels_redis_fast.pytest_plugin import channel_layer, channel_layer_options

__all__ = ["channel_layer", "channel_layer_options"]
