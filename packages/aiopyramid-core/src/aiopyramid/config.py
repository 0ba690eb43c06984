"""View mappers: coroutine views run on the event loop, plain views in a thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from pyramid.config.views import DefaultViewMapper
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IResponse
from pyramid.response import FileResponse

from . import bridge
from .app_iter import CoroutineAppIter, ExecutorAppIter, run
from .helpers import as_coroutine_function, is_coroutine_function

__all__ = [
    "AsyncioMapperBase",
    "CoroutineMapper",
    "CoroutineOrExecutorMapper",
    "ExecutorMapper",
]

View = Callable[[Any, Any], Any]

LAST = 1000
"""The order of configuration actions that check what all others have made."""


class AsyncioMapperBase(DefaultViewMapper):  # type: ignore[misc]
    """
    Base of the view mappers (`pyramid.interfaces.IViewMapper`).

    Does what Pyramid's default mapper does for functions, classes, ``attr``
    and callables, and decides in which way the mapped view is run.
    """

    attr: str | None

    def is_coroutine_view(self, view: Any) -> bool:
        """
        Tell whether the callable that ``view`` and ``attr`` stand for is a coroutine.

        Args:
            view: The view.

        Returns:
            True for coroutine and generator functions.

        Raises:
            pyramid.exceptions.ConfigurationError: For an asynchronous generator function, which
                cannot be a view.
        """
        function = self._function(view)
        if any(
            inspect.isasyncgenfunction(candidate)
            for candidate in (inspect.unwrap(function), getattr(type(function), "__call__", None))  # noqa: B004
        ):
            raise ConfigurationError(
                f"{view!r} is an asynchronous generator function, which cannot be a view; "
                "return Response(app_iter=...) with the generator instead"
            )
        return is_coroutine_function(function)

    def _function(self, view: Any) -> Any:
        attr = self.attr or ("__call__" if inspect.isclass(view) else None)
        return getattr(view, attr, None) if attr else view

    def map_view(self, view: Any) -> View:
        """
        Map a view to a callable, as Pyramid's own mapper does.

        Args:
            view: The view: a function, a class, an object, or a `functools.partial`.

        Returns:
            A callable with the arguments ``(context, request)``. For a coroutine view, it returns
            the coroutine.
        """
        if isinstance(view, functools.partial):
            view = _named(view)
        mapped: View = super().__call__(view)
        return mapped

    def run_in_coroutine_view(self, view: Any) -> View:
        """
        Map a coroutine or generator view so that it runs on the event loop.

        Args:
            view: The view.

        Returns:
            A plain callable with the arguments ``(context, request)``, which waits.
        """
        as_coroutine_function(self._function(view))
        mapped = self.map_view(view)

        @_like(mapped)
        def coroutine_view(context: Any, request: Any) -> Any:
            result = mapped(context, request)
            # A decorator around the coroutine may have answered itself.
            if inspect.isawaitable(result):
                result = bridge.run_coroutine(result)
            return _stream(result, _as_it_is)

        return coroutine_view

    def run_in_executor_view(self, view: Any) -> View:
        """
        Map a plain view so that it runs in a thread.

        That is its request's own thread, where the request has one, and else a
        thread of the loop's executor.

        Args:
            view: The view.

        Returns:
            A callable with the arguments ``(context, request)``.
        """
        mapped = self.map_view(view)

        @_like(mapped)
        def executor_view(context: Any, request: Any) -> Any:
            if bridge.in_worker_thread():
                return _stream(mapped(context, request), _as_it_is)
            return _stream(run(mapped, context, request), ExecutorAppIter)

        return executor_view


class CoroutineMapper(AsyncioMapperBase):
    """Runs coroutine and generator views on the event loop; refuses all others."""

    def __call__(self, view: Any) -> View:
        if not self.is_coroutine_view(view):
            raise ConfigurationError(
                f"{self.__class__.__name__} needs a coroutine or generator view, "
                f"but {_description(view, self.attr)} is a plain one; "
                "use ExecutorMapper for plain views"
            )
        return self.run_in_coroutine_view(view)


class ExecutorMapper(AsyncioMapperBase):
    """Runs plain views in a thread; refuses coroutines."""

    def __call__(self, view: Any) -> View:
        if self.is_coroutine_view(view):
            raise ConfigurationError(
                f"{self.__class__.__name__} needs a plain view, "
                f"but {_description(view, self.attr)} is a coroutine; "
                "use CoroutineMapper for coroutine and generator views"
            )
        return self.run_in_executor_view(view)


class CoroutineOrExecutorMapper(AsyncioMapperBase):
    """Runs coroutines on the event loop and all other views in a thread."""

    def __call__(self, view: Any) -> View:
        if self.is_coroutine_view(view):
            return self.run_in_coroutine_view(view)
        return self.run_in_executor_view(view)


def _named(view: functools.partial[Any]) -> Callable[..., Any]:
    # Pyramid reads the arguments of functions, not those of partials.
    def takes_request(request: Any) -> Any:
        return view(request)

    def takes_both(context: Any, request: Any) -> Any:
        return view(context, request)

    required = [
        p
        for p in inspect.signature(view).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    wrapper = takes_request if len(required) == 1 else takes_both
    return functools.update_wrapper(
        wrapper, view.func, assigned=("__module__", "__doc__"), updated=()
    )


def _like(mapped: View) -> Callable[[View], View]:
    def copy_text(wrapper: View) -> View:
        text = getattr(mapped, "__text__", None)
        if text is not None:
            wrapper.__text__ = text  # type: ignore[attr-defined]
        return wrapper

    return copy_text


def _description(view: Any, attr: str | None) -> str:
    return f"{view!r}" if attr is None else f"{view!r} with attr={attr!r}"


def _as_it_is(app_iter: Any) -> Any:
    return app_iter


def _stream(result: Any, in_its_place: Callable[[Any], Any]) -> Any:
    # Lists are ready, and files are the server's to send.
    if not IResponse.providedBy(result) or isinstance(result, FileResponse):
        return result
    app_iter = getattr(result, "app_iter", None)
    if isinstance(app_iter, list | tuple | CoroutineAppIter):
        return result
    if isinstance(app_iter, AsyncIterator):
        streamed: Any = CoroutineAppIter(app_iter)
    else:
        streamed = in_its_place(app_iter)
    if streamed is not app_iter:
        length = result.content_length  # WebOb forgets it with the old body
        result.app_iter = streamed
        result.content_length = length
    return result
