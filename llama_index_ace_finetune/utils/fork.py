"""Locks and thread pools that stay usable in a forked process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

# Weak references, so that nothing here outlives its owner.
_plain: weakref.WeakSet[Any] = weakref.WeakSet()
_held: weakref.WeakSet[Any] = weakref.WeakSet()
_owners: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_at_fork: list[Any] = []


def fork_safe_lock() -> threading.RLock:
    """Return a reentrant lock that is free in a forked child, whichever thread of the parent held it."""
    lock = threading.RLock()
    _plain.add(lock)
    return lock


def lock_held_over_fork() -> threading.RLock:
    """Return a reentrant lock that a fork acquires first, so that the child gets the guarded state consistent."""
    lock = threading.RLock()
    _held.add(lock)
    return lock


def renew_after_fork(owner: Any, renew: Callable[[Any], None]) -> None:
    """Call `renew(owner)` in each forked child while `owner` exists, to restart threads, which a fork ends."""
    _owners[owner] = renew


def _before() -> None:
    for lock in list(_held):
        lock.acquire()
        _at_fork.append(lock)


def _in_parent() -> None:
    while _at_fork:
        _at_fork.pop().release()


def _in_child() -> None:
    _free([*_at_fork, *_plain])
    _at_fork.clear()
    for owner, renew in list(_owners.items()):
        renew(owner)


def _free(locks: Iterable[Any]) -> None:
    for lock in locks:
        lock._at_fork_reinit()  # as modules of the standard library do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
