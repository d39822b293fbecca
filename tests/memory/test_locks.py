"""Readers together, a writer alone, and no one waits for ever."""

from __future__ import annotations

import threading

import pytest

from state_core.memory.locks import SharedLock


def test_readers_share_and_a_writer_is_alone():
    lock = SharedLock()
    together = threading.Barrier(3)
    inside: list[int] = [0]

    def read():
        with lock.shared():
            together.wait(5)  # all three hold it at once

    def write():
        with lock.exclusive():
            inside[0] += 1
            assert inside[0] == 1
            inside[0] -= 1

    for work, count in ((read, 3), (write, 3)):
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
    assert not together.broken


def test_a_waiting_writer_goes_before_new_readers():
    lock, order = SharedLock(), []
    reading, go = threading.Event(), threading.Event()

    def first():
        with lock.shared():
            reading.set()
            go.wait(5)

    def writer():
        with lock.exclusive():
            order.append("writer")

    def second():
        with lock.shared():
            order.append("reader")

    threads = [threading.Thread(target=work) for work in (first, writer, second)]
    threads[0].start()
    reading.wait(5)
    threads[1].start()
    while not lock._waiting:
        threading.Event().wait(0.001)
    threads[2].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert order == ["writer", "reader"]


def test_an_interrupted_writer_keeps_no_one_out(monkeypatch: pytest.MonkeyPatch):
    lock = SharedLock()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock._condition, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt), lock.exclusive():
            pass
    with lock.shared():
        pass
    with lock.exclusive():
        pass
