"""Locks held in a parent do not block its forked child."""

from __future__ import annotations

import os
import threading

import pytest

from llama_index_ace_finetune.utils.fork import fork_safe_lock, lock_held_over_fork, renew_after_fork

if not hasattr(os, "fork"):
    pytest.skip("os.fork is not available", allow_module_level=True)


class Owner:
    renewed = 0

    def renew(self) -> None:
        self.renewed += 1


def test_lock_held_in_the_parent_is_free_in_the_child() -> None:
    lock, held, release = fork_safe_lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert exit_status(lambda: lock.acquire(timeout=5)) == 0
        assert not lock.acquire(blocking=False)
    finally:
        release.set()
        thread.join()


def test_fork_waits_for_a_lock_held_over_fork() -> None:
    lock, steps, held = lock_held_over_fork(), [], threading.Event()

    def work() -> None:
        with lock:
            held.set()
            steps.append("started")
            threading.Event().wait(0.2)
            steps.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    held.wait()
    assert exit_status(lambda: steps == ["started", "done"] and lock.acquire(timeout=5)) == 0
    assert lock.acquire(timeout=5)
    lock.release()
    thread.join()


def test_owner_is_renewed_only_in_the_child() -> None:
    owner = Owner()
    renew_after_fork(owner, Owner.renew)
    assert exit_status(lambda: owner.renewed == 1) == 0
    assert owner.renewed == 0


def exit_status(check) -> int:
    if (child := os.fork()) == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
