"""How `Client` comes from the same code as `AsyncClient`.

Everything above the transport is written once, as coroutines. Over the blocking transport a coroutine never suspends:
it runs to its end when it is first sent into. So there is no event loop and no thread behind `Client`; it works inside a
running loop too, Ctrl-C is what it always is, and a debugger steps from the caller to the wire. `blocking` and `iterating`
make a method of the blocking class from the async one, with its parameters, types and docstring.
"""

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

N = TypeVar("N")
N_co = TypeVar("N_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over the blocking transport to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("A coroutine over the blocking transport has suspended.")


class Stream(Iterator[T]):
    """An iterator over what comes; closing it, or leaving its `with` block, ends the call behind it."""

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items

    def __next__(self) -> T:
        try:
            return run(_next(self._items))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """End the call."""
        run(_close(self._items))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


async def _close(items: AsyncGenerator[T, None]) -> None:
    await items.aclose()


class Blocking(Generic[N_co]):
    """The blocking face of a noun of the async client."""

    def __init__(self, inner: N_co) -> None:
        self._inner = inner


def blocking(method: Callable[Concatenate[N, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Blocking[N], P], T]:
    """The same method, blocking."""

    @functools.wraps(method)
    def call(self: Blocking[N], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._inner, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[N, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Blocking[N], P], Stream[T]]:
    """The same method, giving a blocking iterator."""

    @functools.wraps(method)
    def call(self: Blocking[N], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return Stream(method(self._inner, *args, **kwargs))

    return call
