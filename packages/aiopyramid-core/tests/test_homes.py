from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import uvloop
from coroutines import Oops

from aiopyramid import homes
from aiopyramid.bridge import await_
from aiopyramid.exceptions import ScopeError
from aiopyramid.homes import Home, home_here


async def where():
    return threading.current_thread().name, asyncio.get_running_loop()


def run(script, **options):
    """Run a program in a process of its own, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,
    )


def printed(script):
    result = run(script)
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout.splitlines()


# The loop of a process


def test_a_process_has_one_loop_for_all_of_its_threads():
    results = [await_(where())]
    threads = [threading.Thread(target=lambda: results.append(await_(where()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 9
    assert len(set(results)) == 1
    assert results[0][0] == "aiopyramid-loop"


def test_a_server_can_make_it(monkeypatch):
    monkeypatch.setattr(homes, "new_home", lambda: Home(uvloop.new_event_loop()))
    assert isinstance(await_(where())[1], uvloop.Loop)


def test_it_has_threads_for_blocking_work():
    async def thread():
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert await_(thread()).startswith("aiopyramid-executor")


def test_it_goes_on_when_a_coroutine_tries_to_end_the_process(caplog):
    async def leave():
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "goes on"

    assert await_(leave()) == "goes on"
    assert "a coroutine tried to end the process" in caplog.text


def test_the_end_cancels_what_runs_and_closes_the_loop():
    events = []

    async def forever(begun):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("cancelled")

    async def begin():
        begun = asyncio.Event()
        tasks.append(asyncio.create_task(forever(begun)))
        await begun.wait()
        return asyncio.get_running_loop()

    tasks = []
    loop = await_(begin())
    homes.own_loop.end()
    assert events == ["cancelled"]
    assert loop.is_closed()
    assert await_(where())[1] is not loop


def test_an_end_that_something_blocks_is_bounded(monkeypatch, caplog):
    monkeypatch.setattr(homes, "END_TIMEOUT", -0.9)  # of the waits, a tenth of a second is left
    go_on = threading.Event()

    async def block():
        asyncio.get_running_loop().call_soon(go_on.wait)

    await_(block())
    home, ended = homes.own_loop.home, homes.own_loop.ended
    homes.own_loop.leave()
    homes.own_loop.end()
    assert not home.loop.is_closed()
    go_on.set()
    ended.wait()
    for _ in range(5):
        home.loop.run_until_complete(asyncio.sleep(0))
    home.loop.close()
    [record] = caplog.records
    assert "The event loop is blocked" in record.getMessage()


def test_one_thread_runs_all_loops_one_after_another():
    async def ident():
        return threading.get_ident()

    idents = set()
    for _ in range(3):
        idents.add(await_(ident()))
        homes.own_loop.end()
    assert len(idents) == 1


def test_without_a_loop_the_end_is_nothing():
    homes.own_loop.leave()
    homes.own_loop.end()
    assert homes.own_loop.home is None


# Processes


def test_a_script_ends_what_lives_with_its_loop_and_then_its_tasks():
    assert printed("""
        import asyncio, atexit, threading, time
        from aiopyramid import homes
        from aiopyramid.bridge import await_
        from aiopyramid.homes import home_here

        async def ending():
            print(await asyncio.to_thread(lambda: "left, with a thread"))

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                print("cancelled")

        async def main():
            await asyncio.to_thread(print, "begin")  # Python 3.12.1 starts no thread at the end
            home_here().endings.append(ending)
            tasks.append(asyncio.create_task(forever()))
            await asyncio.sleep(0)

        tasks = []
        await_(main())

        def late():
            threading.main_thread().join()
            while homes.process_home.endings:
                time.sleep(0.01)
            print("a thread waits", await_(asyncio.sleep(0, "still")))

        threading.Thread(target=late).start()
        print("the script ends")
        """) == [
        "begin",
        "the script ends",
        "left, with a thread",
        "a thread waits still",
        "cancelled",
    ]


INTERRUPTED = """
    import asyncio, os, signal, sys, threading
    from aiopyramid.bridge import await_, run_coroutine

    async def job():
        try:
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
            await asyncio.sleep(60)
        finally:
            {second}
            await asyncio.sleep(0.3)
            print("cleaned up")

    try:
        {wait}(job())
    except KeyboardInterrupt:
        print("interrupted")
    """


@pytest.mark.parametrize("wait", ["await_", "run_coroutine"])
def test_ctrl_c_cancels_what_the_thread_waits_for_and_waits_for_its_end(wait):
    script = INTERRUPTED.format(wait=wait, second="pass")
    assert printed(script) == ["cleaned up", "interrupted"]


def test_a_second_ctrl_c_waits_for_nothing():
    again = "threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()"
    script = INTERRUPTED.format(wait="await_", second=again)
    assert printed(script) == ["interrupted"]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_child_process_has_a_loop_of_its_own(tmp_path, start):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio, multiprocessing, os, warnings
        from aiopyramid.bridge import await_
        from aiopyramid.homes import home_here

        async def ending():
            os.write(1, f"{{os.getpid()}} left\\n".encode())

        async def pid():
            if not home_here().endings:
                home_here().endings.append(ending)
            await asyncio.sleep(0)
            return os.getpid()

        def child():
            os.write(1, f"{{os.getpid()}} {{await_(pid()) == os.getpid()}}\\n".encode())

        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            child()
            processes = multiprocessing.get_context({start!r})
            both = [processes.Process(target=child) for _ in range(2)]
            for each in both:
                each.start()
            for each in both:
                each.join()
            child()
        """)
    )
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False
    )
    assert result.stderr == ""
    lines = sorted(result.stdout.splitlines())
    pids = {line.split()[0] for line in lines}
    assert len(pids) == 3
    assert [line.partition(" ")[2] for line in lines].count("True") == 4
    assert [line.partition(" ")[2] for line in lines].count("left") == 3


def test_a_fork_in_plain_code_on_a_loop_leaves_that_loop_behind():
    assert printed("""
        import asyncio, os, sys, warnings
        from aiopyramid.bridge import await_, spawn_greenlet, can_wait
        from aiopyramid.helpers import use_executor

        warnings.simplefilter("ignore", DeprecationWarning)

        async def pid():
            await asyncio.sleep(0)
            return os.getpid()

        def plain():
            child = os.fork()
            if not child:
                print(can_wait(), await_(pid()) == os.getpid(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            return await_(pid()) == os.getpid()

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60  # a fork may take long
            print(await spawn_greenlet(plain))
            print(await use_executor(plain)())

        asyncio.run(main())
        """) == ["True True", "True", "True True", "True"]


def test_a_fork_does_not_count_on_a_thread_that_its_parent_has_kept():
    assert printed("""
        import asyncio, os, signal, warnings
        from aiopyramid import homes
        from aiopyramid.bridge import await_

        await_(asyncio.sleep(0))
        homes.own_loop.end()
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, since 3.12
        child = os.fork()
        if not child:
            signal.alarm(20)
            print(await_(asyncio.sleep(0, "waited")), flush=True)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        """) == ["waited", "0"]


def test_what_a_fork_left_behind_is_not_touched():
    home = Home(asyncio.new_event_loop())
    own = homes.own_loop
    try:
        homes.forget_forked()
        assert home.forked
        assert not home.is_running()
        assert homes._forked[-1:] == [home] or home in homes._forked
    finally:
        homes._forked.clear()
        assert homes.own_loop is not own
        home.loop.close()


# Endings


async def test_endings_are_awaited_the_last_one_first():
    events = []
    home = home_here()

    def ending(name):
        async def ending():
            events.append(name)

        return ending

    home.endings += [ending("first"), ending("second")]
    await home.end(1)
    assert events == ["second", "first"]
    assert home.endings == []


async def test_an_ending_that_fails_or_takes_too_long_does_not_keep_others_from_theirs(caplog):
    events = []
    home = home_here()

    async def first():
        events.append("first")

    async def fails():
        raise Oops

    async def takes_long():
        try:
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    home.endings += [first, fails, takes_long]
    await home.end(0.01)
    assert events == ["cancelled", "first"]
    assert [record.getMessage().partition(" at ")[0] for record in caplog.records] == [
        "<function test_an_ending_that_fails_or_takes_too_long_does_not_keep_others_from_theirs"
        ".<locals>.takes_long",
        "<function test_an_ending_that_fails_or_takes_too_long_does_not_keep_others_from_theirs"
        ".<locals>.fails",
    ]
    assert caplog.records[1].exc_info[0] is Oops


def test_a_process_that_should_not_go_on_is_interrupted():
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal comes at some step
        homes.interrupt_process(Oops())
        signal.sigtimedwait([], 10)
    assert os.getpid()


def test_where_interruptions_are_ignored_it_is_terminated(monkeypatch):
    killed = []
    monkeypatch.setattr(homes.os, "kill", lambda pid, signum: killed.append(signum))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        homes.interrupt_process(Oops())
    finally:
        signal.signal(signal.SIGINT, before)
    assert killed == [signal.SIGTERM]


# Which loop a thread works for


def test_a_loop_is_run_by_the_thread_that_loads_until_it_runs_or_is_closed():
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        home = Home(loop)
        assert not home.can_be_run()
        home.loader = threading.get_ident()
        assert home.can_be_run()

        async def inside():
            return home.can_be_run(), home.is_running()

        assert loop.run_until_complete(inside()) == (False, True)
    assert not home.can_be_run()


def test_where_there_can_be_no_loop_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(homes, "obstacle", "{what} cannot be waited for: {thread}")
    coroutine = where()
    with pytest.raises(ScopeError, match="where cannot be waited for: MainThread"):
        await_(coroutine)
    assert homes.process_home is None


def test_asking_whether_a_thread_has_a_loop_starts_none(monkeypatch):
    assert homes.has_home()
    assert homes.process_home is None
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        monkeypatch.setattr(homes, "process_home", Home(loop))
        assert not homes.has_home()  # it does not run
    monkeypatch.setattr(homes, "process_home", None)
    monkeypatch.setattr(homes, "obstacle", "not here")
    assert not homes.has_home()


async def test_a_loop_that_runs_is_that_of_code_that_was_started_from_it():
    home = home_here()
    assert homes.has_home()
    assert homes.home_of_thread() is home


def test_a_closed_loop_is_told_and_keeps_nothing():
    loop = asyncio.new_event_loop()
    home = Home(loop)
    loop.close()
    with pytest.raises(homes.LoopClosed):
        home.call(print)
    assert not home.ready


async def test_a_function_that_fails_does_not_keep_others_from_their_calls():
    called, errors = [], []

    def fail():
        raise Oops

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    home = home_here()
    home.call(fail)
    home.call(called.append, "next")
    while not called:
        await asyncio.sleep(0)
    assert isinstance(errors[0]["exception"], Oops)
