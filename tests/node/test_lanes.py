"""Runs of engines at once, on several lanes of a GPU and on two GPUs, with a stand-in driver."""

from __future__ import annotations

import pytest

# Nodes that have another lane opened when their runs overlap, and threads that run them.
LANES = """
    import threading

    # In host memory, where the caller waits for a short run and not for a long one, or on the GPU.
    HOW = "waits", "comes later", "on the GPU"
    asked = []

    class Lanes:
        def __init__(self, size, gpus=(0,), each=4):
            self.size, self.gpus, self.each = size, gpus, each

        def want(self, session):
            asked.append(session)
            threading.Thread(target=self.open, args=(session,)).start()

        def open(self, session):
            done = False
            for gpu in sorted(self.gpus, key=lambda gpu: lib.cuda.lanes(session, gpu)):
                try:
                    with lib.cuda.current(gpu):
                        lib.cuda.open_lane(session, Doubler(self.size), gpu, self.each)
                    done = True
                    break
                except NodeError as error:
                    self.error = str(error)
            lib.cuda.lane_answered(session, done)

    def node(how="waits", scratch=64, **lanes):
        made = Lanes(4, **lanes)
        most = made.each * len(made.gpus)
        result = Node(4, how == "on the GPU", scratch, lanes=most, more=made.want)
        result.lanes = made
        if how == "comes later":
            result(mx.nd.ones(4)).wait_to_read()  # the first run tells how long it takes
            result.limit = 0
        return result

    def loop(nodes, runs):
        wrong = []
        start = threading.Barrier(len(nodes))

        def work(mine, number):
            x = [mx.nd.full((4,), 100 * number + k) for k in range(3)]
            mx.nd.waitall()
            start.wait()
            for k in range(runs):
                out = mine(x[k % 3])
                if out.asnumpy().tolist() != [2 * (100 * number + k % 3)] * 4:
                    wrong.append((number, k, out.asnumpy().tolist()))

        threads = [threading.Thread(target=work, args=pair) for pair in zip(nodes, range(99))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, wrong[:3]

    def close(*nodes):
        for one in nodes:
            one.close()
        settle()
        assert held() == 0, (count(GRAPHS), count(BYTES), len(lib.cuda._engines))
        assert lib.cuda.memory().scratch == lib.cuda.memory(1).scratch == 0
"""


@pytest.fixture
def check_lanes(check):
    """Runs a script with what is above."""
    return lambda script: check(LANES + script)


def test_a_thread_that_is_alone_uses_one_lane(check_lanes):
    """Whatever it runs, and though it does not wait for one run before it asks for the next."""
    check_lanes("""
    for how in HOW:
        nodes = [node(how), node(how)]
        fake.fake_set(SLOW, 200)
        x = mx.nd.full((4,), 3)
        x.wait_to_read()
        for _ in range(30):
            outs = [one(x) for one in nodes]
            outs += [nodes[0](out) for out in outs]
            assert [out.asnumpy().tolist() for out in outs] == [[6] * 4] * 2 + [[12] * 4] * 2
        assert not asked and count(MOST_AT_ONCE) == 1
        assert [lib.cuda.lanes(one.session, 0) for one in nodes] == [1, 1]
        assert lib.cuda.memory().scratch == 64
        close(*nodes)
    print("ok")
    """)


def test_threads_with_an_engine_each_get_lanes_of_their_own(check_lanes):
    """As many run at once as there are lanes, and each session has the first one and its own."""
    check_lanes("""
    for how in HOW:
        nodes = [node(how) for _ in range(4)]
        fake.fake_set(SLOW, 1000)
        loop(nodes, 60)
        fake.fake_set(MOST_AT_ONCE, 0)
        loop(nodes, 30)
        assert count(MOST_AT_ONCE) >= 3, count(MOST_AT_ONCE)
        lanes = [lib.cuda.lanes(one.session, 0) for one in nodes]
        assert max(lanes) <= 2, lanes
        assert lib.cuda.memory().scratch <= 4 * 64
        close(*nodes)
    print("ok")
    """)


def test_threads_that_share_an_engine_run_at_once(check_lanes):
    """Each with a context, buffers and CUDA graphs of its own."""
    check_lanes("""
    for how in HOW:
        shared = node(how)
        fake.fake_set(SLOW, 1000)
        loop([shared] * 4, 60)
        fake.fake_set(MOST_AT_ONCE, 0)
        loop([shared] * 4, 30)
        assert count(MOST_AT_ONCE) >= 3, count(MOST_AT_ONCE)
        assert 3 <= lib.cuda.lanes(shared.session, 0) <= 4
        usage = lib.cuda.usage(shared.session)
        assert usage.graphs >= lib.cuda.lanes(shared.session, 0)
        close(shared)
    print("ok")
    """)


def test_no_more_lanes_are_opened_than_asked_for(check_lanes):
    """Eight threads on two lanes, and none is left waiting."""
    check_lanes("""
    nodes = [node(each=2) for _ in range(4)]
    fake.fake_set(SLOW, 300)
    loop(nodes * 2, 40)
    assert count(MOST_AT_ONCE) == 2, count(MOST_AT_ONCE)
    assert max(lib.cuda.lanes(one.session, 0) for one in nodes) == 2
    assert lib.cuda.memory().scratch == 2 * 64
    close(*nodes)
    print("ok")
    """)


def test_one_lane_is_what_there_is_without_asking(check_lanes):
    """Nobody is asked for another one."""
    check_lanes("""
    nodes = [node(each=1) for _ in range(3)]
    fake.fake_set(SLOW, 300)
    loop(nodes, 30)
    assert not asked and count(MOST_AT_ONCE) == 1
    close(*nodes)
    print("ok")
    """)


def test_a_lane_that_does_not_open_is_asked_for_once(check_lanes):
    """The session goes on with what it has, and nothing is left of the other lane."""
    check_lanes("""
    shared = node()
    engines = len(lib.cuda._engines)
    enqueue = Doubler.enqueue

    def refuse(*_):
        raise RuntimeError("no memory for another context")

    Doubler.enqueue = refuse
    fake.fake_set(SLOW, 300)
    loop([shared] * 4, 30)
    assert len(asked) == 1 and "no memory for another context" in shared.lanes.error
    assert lib.cuda.lanes(shared.session, 0) == 1 and len(lib.cuda._engines) == engines
    assert lib.cuda.memory().scratch == 64
    close(shared)
    print("ok")
    """)


def test_an_engine_that_grew_runs_right_on_every_lane(check_lanes):
    """What was recorded with the old scratch memory of a lane is recorded again."""
    check_lanes("""
    nodes = [node(scratch=64) for _ in range(3)]
    fake.fake_set(SLOW, 300)
    loop(nodes, 30)
    nodes += [node(scratch=4096) for _ in range(3)]
    loop(nodes, 30)
    close(*nodes)
    print("ok")
    """)


def test_runs_that_overlap_go_to_other_gpus(check_lanes):
    """Of those that the session may run on."""
    check_lanes("""
    shared = node(gpus=(0, 1), each=1)
    fake.fake_set(SLOW, 1000)
    loop([shared] * 2, 60)
    assert [lib.cuda.lanes(shared.session, gpu) for gpu in (0, 1)] == [1, 1]
    assert count(MOST_AT_ONCE) == 2
    close(shared)
    print("ok")
    """)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_gpu_that_fails_leaves_its_requests_to_the_other(check_lanes, failing):
    """Every answer is right, it is said once, and the last GPU that fails is an error."""
    check_lanes(f"""
    import logging

    said = []
    logging.getLogger("mxtrt").warning = lambda text, *values: said.append(text % values)
    for how in HOW[:2]:
        said.clear()
        shared = node(how, gpus=(0, 1), each=1)
        fake.fake_set(SLOW, 1000)
        loop([shared] * 3, 40)
        assert [lib.cuda.lanes(shared.session, gpu) for gpu in (0, 1)] == [1, 1]
        fake.fake_set(FAIL_GPU, {failing} + 1)
        loop([shared] * 3, 40)
        assert len(said) == 1 and "an illegal memory access" in said[0], said
        fake.fake_set(FAIL_GPU, {1 - failing} + 1)
        try:
            shared(mx.nd.ones((4,))).asnumpy()
            raise SystemExit("both GPUs fail")
        except (RuntimeError, mx.MXNetError) as error:
            assert "an illegal memory access" in str(error), error
        fake.fake_set(FAIL_GPU, 0)
        close(shared)
    print("ok")
    """)


def test_what_a_session_holds_can_be_asked_while_it_runs(check_lanes):
    """By the ledger, from another thread."""
    check_lanes("""
    shared = node()
    fake.fake_set(SLOW, 300)
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            usage = lib.cuda.usage(shared.session)
            assert usage.graphs >= 1 and usage.device == usage.host
            lib.cuda.memory()

    asking = threading.Thread(target=ask)
    asking.start()
    loop([shared] * 4, 40)
    stop.set()
    asking.join()
    close(shared)
    print("ok")
    """)
