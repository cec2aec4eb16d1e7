"""Calling a hook: the only place where the engine does it.

pluggy stops at the first exception and knows no `async`. So pluggy keeps the registry, the signatures and the order, and the
call itself is made here, for one plugin at a time: the wrappers are entered, the implementation is called, awaited if there
is something to await, and the wrappers are left with its real result or exception.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any

from walmill_worker.binding import BoundHook
from walmill_worker.errors import PluginFailure, described


def call(hook: BoundHook, values: Mapping[str, Any]) -> Any:
    """Calls a plain `def` hook in this thread.

    Args:
        hook: The hook.
        values: Values for the hook's parameters; those that the implementation does not name are left out.

    Returns:
        What the implementation returned, or what a wrapper made of it.
    """
    if not hook.wrappers:
        return hook.function(*[values[name] for name in hook.arguments])
    entered = _enter(hook, values)
    result, error = None, None
    try:
        result = hook.function(*[values[name] for name in hook.arguments])
    except BaseException as raised:  # noqa: BLE001 - wrappers see whatever was raised, and it goes on from them
        error = raised
    return _leave(entered, result, error)


async def call_async(hook: BoundHook, values: Mapping[str, Any]) -> Any:
    """Calls a hook on this loop and awaits its result if there is something to await; else as `call`."""
    if not hook.wrappers:
        result = hook.function(*[values[name] for name in hook.arguments])
        return await result if inspect.isawaitable(result) else result
    entered = _enter(hook, values)
    result, error = None, None
    try:
        result = hook.function(*[values[name] for name in hook.arguments])
        if inspect.isawaitable(result):
            result = await result
    except BaseException as raised:  # noqa: BLE001 - as above
        error = raised
    return _leave(entered, result, error)


Callbacks = list[Callable[[], Any]]
"""What was given to `on_commit`."""


def taken(callbacks: Callbacks) -> Callbacks:
    """What is there now, which is not there any more: what is given while a commit is made belongs to the next one."""
    found = list(callbacks)
    callbacks.clear()
    return found


def call_back(callbacks: Callbacks, failed: Callable[[str], None]) -> None:
    """Calls what was given to `on_commit`, for a plain hook, in its thread.

    Args:
        callbacks: What was given.
        failed: Told of each that raised: what it did is committed, and cannot be undone by that.
    """
    for callback in callbacks:
        try:
            result = callback()
            if inspect.iscoroutine(result):
                result.close()
                failed("it is an `async def`, which a plain hook cannot await: give a plain function")
        except Exception as error:  # noqa: BLE001 - the commit stands
            failed(described(error))


async def call_back_async(callbacks: Callbacks, failed: Callable[[str], None]) -> None:
    """The same on a loop, where those that are `async def` are awaited."""
    for callback in callbacks:
        try:
            result = callback()
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # noqa: BLE001 - as above
            failed(described(error))


def _enter(hook: BoundHook, values: Mapping[str, Any]) -> list[tuple[Callable[..., Any], Generator[None, Any, Any]]]:
    entered: list[tuple[Callable[..., Any], Generator[None, Any, Any]]] = []
    for function, arguments in hook.wrappers:
        generator = function(*[values[name] for name in arguments])
        try:
            next(generator)
        except StopIteration:
            _close(entered)
            raise PluginFailure(f"the wrapper {function.__qualname__} of {hook.name} did not yield") from None
        except BaseException:
            _close(entered)
            raise
        entered.append((function, generator))
    return entered


def _close(entered: list[tuple[Callable[..., Any], Generator[None, Any, Any]]]) -> None:
    for _, generator in reversed(entered):
        generator.close()


def _leave(
    entered: list[tuple[Callable[..., Any], Generator[None, Any, Any]]], result: Any, error: BaseException | None
) -> Any:
    for function, generator in reversed(entered):
        try:
            if error is not None:
                generator.throw(error)
            else:
                generator.send(result)
        except StopIteration as stopped:
            result, error = stopped.value, None
        except BaseException as raised:  # noqa: BLE001 - what a wrapper raises takes the place of the result
            error = raised
        else:
            generator.close()
            error = PluginFailure(f"the wrapper {function.__qualname__} yielded more than once")
    if error is not None:
        raise error
    return result
