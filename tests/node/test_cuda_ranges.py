"""Sessions on a GPU for many shapes, with a stand-in for NVIDIA's driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# An engine with a context for sizes up to 8 and one for all others, and a node that runs it.
ENGINE = """
    class Ranges:
        calls = 0

        def __init__(self):
            self.changes = (ctypes.c_int64 * 2)()
            self.uses = (ctypes.c_int64 * 3)()
            self.sizes = [0, 0]

        def enqueue_at(self, addresses, shapes, scratch, stream):
            Ranges.calls += 1
            ((size,),) = shapes
            context = int(size > 8)
            if self.sizes[context] != size:
                self.sizes[context] = size
                self.changes[context] += 1
            code = fake.fake_kernel(*addresses, size, scratch, stream)
            if code:
                raise RuntimeError(f"kernel failed with {code}")
            self.uses[2] += 1
            self.uses[context] = self.uses[2]
            return context

    class RangeNode(Node):
        def __init__(self, engine, on_device, scratch=0, sizes=(4,)):
            f32 = np.dtype(np.float32)
            self.key = lib.create_node([f32], [f32])
            self.session = lib.cuda.create_range_session(
                engine, [((4,), 16)], [16], scratch, 0, on_device=on_device
            )

        def __call__(self, x):
            lib.put_variant(self.key, [x.shape, x.shape], self.session)
            return Node.__call__(self, x)

    def right(node, size, value=3):
        return node(mx.nd.full((size,), value)).asnumpy().tolist() == [2 * value] * size
"""


@pytest.fixture
def check_ranges(check: Callable[[str], None]) -> Callable[[str], None]:
    """Runs a script with such an engine."""
    return lambda script: check(ENGINE + script)


@pytest.mark.parametrize("on_device", [False, True])
def test_every_shape_is_right(check_ranges, on_device):
    """Larger ones than the first too; buffers grow to the largest and stay."""
    check_ranges(f"""
    node = RangeNode(Ranges(), {on_device}, scratch=16)
    for k in range(200):
        assert right(node, 1 + k * 37 % 50, k)
    if not {on_device}:
        assert lib.cuda.usage(node.session).device == 2 * 4 * 50
    node.close()
    settle()
    assert count(GRAPHS) == 0 and count(BYTES) == 0
    print("ok")
    """)


def test_runs_at_the_same_shapes_are_recorded(check_ranges):
    """From the second one on; the first at others goes through Python, once."""
    check_ranges("""
    node = RangeNode(Ranges(), False)
    for size in (5, 6, 5):
        calls, launches = Ranges.calls, count(LAUNCHES)
        for k in range(40):
            assert right(node, size, k)
        assert Ranges.calls - calls <= 2 + 2  # before it is recorded, and to record it
        assert count(LAUNCHES) - launches >= 40 - 3
    print("ok")
    """)


def test_shapes_in_different_contexts_do_not_disturb_each_other(check_ranges):
    """A graph of one holds while the other is at other shapes."""
    check_ranges("""
    engine = Ranges()
    node = RangeNode(engine, False)
    for size in (20, 20, 20, 4, 5, 5):  # the buffers do not grow any more
        assert right(node, size)
    calls, captures = Ranges.calls, count(CAPTURES)
    for k in range(20):
        assert right(node, (5, 20)[k % 2], k)
        assert engine.uses[k % 2] == engine.uses[2]
    assert (Ranges.calls, count(CAPTURES)) == (calls, captures)
    assert lib.cuda.usage(node.session).graphs == 2
    print("ok")
    """)


def test_what_was_recorded_goes_with_the_buffers_that_it_used(check_ranges):
    """Larger ones take their place, on the GPU at the same addresses."""
    check_ranges("""
    node = RangeNode(Ranges(), False)
    for size in (5, 20, 40, 30, 80):
        for k in range(5):
            assert right(node, 5, k)
        for k in range(5):
            assert right(node, size, k)
    print("ok")
    """)


def test_shapes_that_change_all_the_time_do_not_record_for_ever(check_ranges):
    """A graph that was launched a few times only makes the next one wait longer."""
    check_ranges("""
    node, captures = RangeNode(Ranges(), False), count(CAPTURES)
    for k in range(300):
        for _ in range(3):
            assert right(node, 1 + k % 7, k)
    assert count(CAPTURES) - captures <= 10, count(CAPTURES) - captures
    assert lib.cuda.usage(node.session).graphs <= 1
    captures = count(CAPTURES)
    for k in range(100):
        assert right(node, 5, k)
    assert count(CAPTURES) == captures + 1
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_context_that_another_session_used_is_set_again(check_ranges, on_device):
    """What was recorded at its shapes before is not launched."""
    check_ranges(f"""
    engine = Ranges()
    nodes = [RangeNode(engine, {on_device}) for _ in range(2)]
    for k in range(20):
        for node, size in zip(nodes, (5, 7)):
            for _ in range(1 + k % 4):
                assert right(node, size, k)
                assert engine.sizes[0] == size
    print("ok")
    """)


def test_graphs_are_bounded(check_ranges):
    """Where arrays on the GPU are never at the same addresses."""
    check_ranges("""
    node, kept = RangeNode(Ranges(), True), []
    for k in range(500):
        x = mx.nd.full((6,), k)
        kept.append((x, node(x)))
        assert kept[-1][1].asnumpy().tolist() == [2 * k] * 6
    assert lib.cuda.usage(node.session).graphs == 8
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_scratch_that_moves_is_recorded_anew(check_ranges, on_device):
    """Another engine may need a larger one."""
    check_ranges(f"""
    node = RangeNode(Ranges(), {on_device}, scratch=16)
    x = mx.nd.full((5,), 3)
    for _ in range(5):
        assert node(x).asnumpy().tolist() == [6] * 5
    other = Node(4, {on_device}, scratch=4000)
    for _ in range(5):
        assert node(x).asnumpy().tolist() == [6] * 5
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_runs_that_cannot_be_recorded_go_through_python(check_ranges, on_device):
    """The answer is right, and the session says why."""
    check_ranges(f"""
    fake.fake_set(FAIL, 1)
    node = RangeNode(Ranges(), {on_device})
    assert "capture is not possible" in lib.cuda.unrecordable(node.session)
    for k in range(5):
        assert right(node, 4, k)
    print("ok")
    """)


def test_an_engine_that_does_not_run_is_an_error_of_the_build(check_ranges):
    """With its words; nothing is left."""
    check_ranges("""
    Ranges.enqueue_at = lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel image"))
    try:
        RangeNode(Ranges(), True)
    except NodeError as error:
        assert "no kernel image" in str(error), error
    else:
        raise AssertionError("no error")
    gc.collect()
    assert lib.cuda._engines == {} and count(BYTES) == 0
    print("ok")
    """)
