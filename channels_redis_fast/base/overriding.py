"""
What a subclass of a layer has replaced, and calls of a layer's methods that do not keep it alive.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast


def overrides(layer: type, name: str) -> bool:
    """
    Return whether a subclass of this package's layers defines a method or a property.

    A wrapper assigned to one of these layers does not count: it watches a method, and configures nothing by it.
    """
    owner = next((base for base in layer.__mro__ if name in vars(base)), None)
    return owner is not None and not owner.__module__.startswith(("channels_redis_fast.", "channels."))


Function = TypeVar("Function", bound="Callable[..., Any] | None")


def weakly(function: Function, instead: object = None) -> Function:
    """
    Return what calls a bound method and does not keep its object alive; anything else as it is.

    What an event loop has of a layer reaches the layer like this: a socket must not be what keeps its layer, and so
    itself. When the object is gone it returns ``instead``, or raises ``ReferenceError`` where there is no such thing.
    """
    if not isinstance(function, types.MethodType):
        return function
    # What WeakMethod does, without a bound method for each call.
    owner, method = weakref.ref(function.__self__), weakref.ref(function.__func__)

    def call(*args: Any) -> Any:
        found, called = owner(), method()
        if found is None or called is None:
            if instead is None:
                raise ReferenceError("the channel layer is gone")
            return instead
        return called(found, *args)

    return cast(Function, call)
