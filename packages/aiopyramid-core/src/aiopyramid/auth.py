"""Security policies whose methods are coroutines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import IAuthenticationPolicy, ISecurityPolicy
from zope.interface import implementer

from . import bridge
from .creation import when_created
from .helpers import (
    as_coroutine_function,
    is_coroutine_function,
    spawn_greenlet,
    spawn_greenlet_on_scope_error,
    synchronize,
)

__all__ = [
    "CoroutineAuthenticationPolicyProxy",
    "CoroutineSecurityPolicy",
    "authn_policy_factory",
    "coroutine_callback_authentication_policy_factory",
]


@implementer(ISecurityPolicy)
class CoroutineSecurityPolicy:
    """
    A security policy (`pyramid.interfaces.ISecurityPolicy`) with coroutines.

    Wraps a policy any of whose methods ``identity``, ``authenticated_userid``,
    ``permits``, ``remember`` and ``forget`` are coroutines. To Pyramid they are
    plain methods that wait, so ``request.identity``,
    ``request.has_permission()`` and a view's ``permission`` work everywhere:
    in tweens, in threaded views and in coroutine views. Its plain methods may call
    synchronized functions there as well.

    Args:
        policy: The policy to wrap.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        if name == "policy":  # a copy that is not complete yet
            raise AttributeError(name)
        return _waiting(getattr(self.policy, name))

    def identity(self, request: Any) -> Any:
        """
        Return the identity of the current user.

        Args:
            request: The request.

        Returns:
            An object of the policy, or ``None`` for nobody.
        """
        return _calling(self.policy.identity)(request)

    def authenticated_userid(self, request: Any) -> Any:
        """
        Return the id of the current user.

        Args:
            request: The request.

        Returns:
            The id, which is a `str` as a rule, or ``None`` for nobody.
        """
        return _calling(self.policy.authenticated_userid)(request)

    def permits(self, request: Any, context: Any, permission: str) -> Any:
        """
        Tell whether the current user has a permission on a context.

        Args:
            request: The request.
            context: The resource that the permission is for.
            permission: Its name.

        Returns:
            True, or what is true, such as `pyramid.security.Allowed`, if so.
        """
        return _calling(self.policy.permits)(request, context, permission)

    def remember(self, request: Any, userid: Any, **kwargs: Any) -> Any:
        """
        Sign a user in.

        Args:
            request: The request.
            userid: The user's id.
            kwargs: What else the policy takes.

        Returns:
            The headers of the response that do so, as pairs of name and value.
        """
        return _calling(self.policy.remember)(request, userid, **kwargs)

    def forget(self, request: Any, **kwargs: Any) -> Any:
        """
        Sign the current user out.

        Args:
            request: The request.
            kwargs: What else the policy takes.

        Returns:
            The headers of the response that do so, as pairs of name and value.
        """
        return _calling(self.policy.forget)(request, **kwargs)


METHODS = ("identity", "authenticated_userid", "permits", "remember", "forget")


def has_coroutines(policy: Any) -> bool:
    """Return True if a security policy needs `CoroutineSecurityPolicy` around it."""
    return not isinstance(policy, CoroutineSecurityPolicy) and any(
        is_coroutine_function(getattr(policy, name, None)) for name in METHODS
    )


def includeme(config: Configurator) -> None:
    """
    Wrap a security policy that has coroutines in `CoroutineSecurityPolicy`.

    Without it, Pyramid would take the coroutine that ``permits`` returns for a
    "yes", since every object is true.
    """
    registry = config.registry

    def wrap() -> None:
        policy = registry.queryUtility(ISecurityPolicy)
        if has_coroutines(policy):
            registry.registerUtility(CoroutineSecurityPolicy(policy), ISecurityPolicy)

    def coroutine_policy(view: Any, info: Any) -> Any:
        wrap()
        return view

    # Before each view that keeps the policy, and for requests that ask the registry. An
    # application may set its policy at any time, and commit several times.
    config.add_view_deriver(coroutine_policy)
    when_created(config, lambda event: wrap())


def _calling(method: Any) -> Any:
    """Let a method wait wherever it is called from, and a plain one what it calls."""
    if is_coroutine_function(method):
        return _waiting(method)

    def plain(*args: Any, **kwargs: Any) -> Any:
        if bridge.is_stepped():  # by a coroutine view, say
            return bridge.run_coroutine(spawn_greenlet(method, *args, **kwargs))
        return method(*args, **kwargs)

    return plain


def _waiting(method: Any) -> Any:
    # Pyramid calls policies from coroutine views too (request.identity), where
    # a synchronized coroutine would refuse to wait.
    if not is_coroutine_function(method):
        return method
    as_coroutine_function(method)
    return lambda *args, **kwargs: bridge.run_coroutine(method(*args, **kwargs))


def coroutine_callback_authentication_policy_factory(
    policy_class: Callable[..., Any],
    coroutine: Callable[..., Any] | None = None,
    *args: Any,
    **kwargs: Any,
) -> CoroutineAuthenticationPolicyProxy:
    """
    Make a legacy authentication policy whose callback is a coroutine.

    Args:
        policy_class: The authentication policy's class.
        coroutine: Passed to it as ``callback``, synchronized.
        args: Further positional arguments for the policy.
        kwargs: Further keyword arguments for the policy. A policy that expects
            its callback under another name is given a synchronized one here.

    Returns:
        The policy, in a proxy.
    """
    if coroutine is not None:
        kwargs["callback"] = synchronize(coroutine)
    return CoroutineAuthenticationPolicyProxy(policy_class(*args, **kwargs))


authn_policy_factory = coroutine_callback_authentication_policy_factory


@implementer(IAuthenticationPolicy)
class CoroutineAuthenticationPolicyProxy:
    """
    A legacy authentication policy whose callback is a synchronized coroutine.

    Called by plain code, its methods give their results; called by a
    coroutine, they give something to await for them.

    Args:
        policy: The authentication policy to wrap.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    @spawn_greenlet_on_scope_error
    def remember(self, request: Any, userid: Any, **kwargs: Any) -> Any:
        """
        Sign a user in.

        Args:
            request: The request.
            userid: The user's id.
            kwargs: What else the policy takes.

        Returns:
            The headers of the response that do so, as pairs of name and value.
        """
        return self._policy.remember(request, userid, **kwargs)

    @spawn_greenlet_on_scope_error
    def forget(self, request: Any) -> Any:
        """
        Sign the current user out.

        Args:
            request: The request.

        Returns:
            The headers of the response that do so, as pairs of name and value.
        """
        return self._policy.forget(request)

    @spawn_greenlet_on_scope_error
    def unauthenticated_userid(self, request: Any) -> Any:
        """
        Return the user id that the request claims, unchecked.

        Args:
            request: The request.

        Returns:
            The id, or ``None``.
        """
        return self._policy.unauthenticated_userid(request)

    @spawn_greenlet_on_scope_error
    def authenticated_userid(self, request: Any) -> Any:
        """
        Return the current user's id, checked by the callback.

        Args:
            request: The request.

        Returns:
            The id, or ``None`` for nobody.
        """
        return self._policy.authenticated_userid(request)

    @spawn_greenlet_on_scope_error
    def effective_principals(self, request: Any) -> Any:
        """
        Return the current user's principals.

        Args:
            request: The request.

        Returns:
            A list with `pyramid.authorization.Everyone`, and what the callback adds.
        """
        return self._policy.effective_principals(request)
