"""
Finds what a subclass of a layer has replaced, and calls a layer's methods without keeping the layer alive.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast


def overrides(layer: type, name: str) -> bool:
    """
    Return whether a subclass of one of this package's layers defines a method or a property.

    A wrapper assigned to one of these layers does not count: it observes a method, and configures nothing.
    """
    owner = next((base for base in layer.__mro__ if name in vars(base)), None)
    return owner is not None and not owner.__module__.startswith(("channels_redis_fast.", "channels."))


Function = TypeVar("Function", bound="Callable[..., Any] | None")


def weakly(function: Function, instead: object = None) -> Function:
    """
    Return a function that calls a bound method without keeping its object alive. Anything else is returned as it is.

    A layer's state in an event loop references the layer this way: a socket must not keep its layer alive, and thereby
    itself. If the object is gone, the function returns ``instead``, or raises ``ReferenceError`` if that is None.
    """
    if not isinstance(function, types.MethodType):
        return function
    # Like WeakMethod, but without creating a bound method for each call.
    owner, method = weakref.ref(function.__self__), weakref.ref(function.__func__)

    def call(*args: Any) -> Any:
        found, called = owner(), method()
        if found is None or called is None:
            if instead is None:
                raise ReferenceError("the channel layer is gone")
            return instead
        return called(found, *args)

    return cast(Function, call)
