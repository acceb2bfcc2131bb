"""Sessions on a GPU, with a stand-in for NVIDIA's driver that works in host memory."""

from __future__ import annotations

import pytest
from support.cuda import SETUP
from support.process import run


def test_a_forward_in_host_memory_is_one_graph_launch(check):
    """Recorded once, copies included; no Python at a forward; fresh inputs give fresh outputs."""
    check("""
    node = Node(4, on_device=False, scratch=64)
    calls, captures, launches = Doubler.calls, count(CAPTURES), count(LAUNCHES)
    for k in range(100):
        assert node(mx.nd.full((4,), k)).asnumpy().tolist() == [2 * k] * 4
    assert (Doubler.calls, count(CAPTURES)) == (calls, captures)
    assert count(LAUNCHES) == launches + 100
    print("ok")
    """)


def test_arrays_on_the_gpu_are_used_where_they_are(check):
    """One graph for every set of addresses, recorded when it is first seen and then kept."""
    check("""
    node = Node(4, on_device=True)
    x = [mx.nd.full((4,), k) for k in range(3)]
    for a in x:
        a.wait_to_read()
    node(x[0])
    first, places = count(CAPTURES), set()
    for _ in range(50):
        for k, a in enumerate(x):
            out = node(a)
            assert out.asnumpy().tolist() == [2 * k] * 4
            places.add((k, address(out)))
    assert count(CAPTURES) - first <= len(places)
    print("ok")
    """)


def test_addresses_that_never_repeat_do_not_record_for_ever(check):
    """Once all graphs are in use, most forwards go through the session's own buffers."""
    check("""
    node = Node(4, on_device=True)
    before, kept = count(CAPTURES), []
    for k in range(2000):
        x = mx.nd.full((4,), k)
        kept.append((x, node(x)))
        assert kept[-1][1].asnumpy().tolist() == [2 * k] * 4
    assert count(CAPTURES) - before <= 32 + 1 + 8, count(CAPTURES) - before
    assert lib.cuda.usage(node.session).graphs == 33
    assert lib.cuda.usage(node.session).device == 32
    node.close()
    settle()
    assert count(GRAPHS) == 0 and count(BYTES) == 0
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_engines_share_one_scratch_memory(check, on_device):
    """As large as the neediest asks for; what was recorded with the old one is recorded again."""
    check(f"""
    x = mx.nd.full((4,), 3)
    nodes = []
    for size in (1000, 500, 4000, 100):
        nodes.append(Node(4, on_device={on_device}, scratch=size))
        for node in nodes:
            assert node(x).asnumpy().tolist() == [6] * 4
        assert lib.cuda.memory().scratch == max(1000, size if size == 4000 else 0) or size == 100
    assert lib.cuda.memory().scratch == 4000
    for node in nodes:
        node.close()
    settle()
    assert lib.cuda.memory().scratch == 0 and count(BYTES) == 0 and count(GRAPHS) == 0
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_runs_that_cannot_be_recorded_go_through_python(check, on_device):
    """The answer is right, and the session says why."""
    check(f"""
    fake.fake_set(FAIL, 1)
    node = Node(4, on_device={on_device}, scratch=16)
    assert "capture is not possible" in lib.cuda.unrecordable(node.session)
    calls = Doubler.calls
    for k in range(5):
        assert node(mx.nd.full((4,), k)).asnumpy().tolist() == [2 * k] * 4
    assert Doubler.calls == calls + 5
    print("ok")
    """)


def test_a_scratch_that_does_not_fit_is_an_error_of_the_build(check):
    """Nothing is left of the session, and other engines go on."""
    check("""
    x = mx.nd.full((4,), 3)
    node = Node(4, on_device=True, scratch=100)
    assert node(x).asnumpy().tolist() == [6] * 4
    engines = len(lib.cuda._engines)
    try:
        Node(4, on_device=True, scratch=1 << 40)
    except NodeError as error:
        assert "out of memory" in str(error), error
    assert len(lib.cuda._engines) == engines
    assert node(x).asnumpy().tolist() == [6] * 4
    print("ok")
    """)


def test_an_engine_that_does_not_run_is_an_error_of_the_build(check):
    """With the words of the engine."""
    check("""
    Doubler.enqueue = lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel image"))
    try:
        Node(4, on_device=True)
    except NodeError as error:
        assert "no kernel image" in str(error), error
    gc.collect()
    assert lib.cuda._engines == {} and count(BYTES) == 0
    print("ok")
    """)


def test_evicted_arrays_keep_their_values_and_stay_usable(check):
    """Read, written, reshaped, copied, used by operators, and freed into MXNet's pool."""
    check("""
    values = np.random.RandomState(0).rand(500, 1000).astype(np.float32)
    x = mx.nd.array(values)
    view = x.reshape((1000, 500))
    executor = (mx.sym.var("a") * 2).bind(mx.cpu(), {"a": x}, grad_req="null")
    before = executor.forward()[0].asnumpy()
    assert lib.evict(x, 0) == values.nbytes
    watch = lib.watch([x])
    assert lib.evict(x, 0) == values.nbytes  # it is there, or was and is again
    assert not watch.changed()
    assert count(PREFETCHES) == 1
    assert (x.asnumpy() == values).all()
    assert (view.asnumpy().ravel() == values.ravel()).all()
    assert (executor.forward()[0].asnumpy() == before).all()
    x[:] = 3
    assert (executor.forward()[0].asnumpy() == 6).all()
    assert (view.asnumpy() == 3).all()
    del x, view, executor
    mx.nd.waitall()
    print("ok")
    """)


def test_a_run_on_the_gpu_is_finished_by_whoever_waits_for_it(check):
    """The call returns at once; its waiter, MXNet's waits and operators that read it all work."""
    check("""
    node = Node(4, on_device=True)
    for k in range(300):
        x = mx.nd.full((4,), k)
        if k % 2:
            x.wait_to_read()  # otherwise the run starts when its input is there
        out = node(x)
        if k % 5 == 0:
            wait(out)
        elif k % 5 == 1:
            mx.nd.waitall()
        elif k % 5 == 2:
            out = out + 0
        elif k % 5 == 3:
            x[:] = -1  # after the run has read it
            wait(out)
        assert out.asnumpy().tolist() == [2 * k] * 4
    assert count(WAITS) > 0 and count(QUERIES) > 0
    print("ok")
    """)


def test_an_error_on_the_gpu_is_raised_where_the_output_is_read(check):
    """As MXNet raises its own; the next run works."""
    check("""
    node = Node(4, on_device=True, scratch=16)
    x = mx.nd.full((4,), 3)
    fake.fake_set(FAIL, 1)  # nothing new is recorded: the engine is asked itself
    real, Doubler.enqueue = Doubler.enqueue, lambda *_: 1 / 0
    try:
        node(x).asnumpy()
    except mx.MXNetError as error:
        assert "ZeroDivisionError" in str(error), error
    else:
        raise AssertionError("no error")
    Doubler.enqueue = real
    assert node(x).asnumpy().tolist() == [6] * 4
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_outputs_that_nobody_holds_are_used_again(check, on_device):
    """What runs in a steady state allocates nothing; what is held, a view included, stays."""
    check(f"""
    node = Node(4, on_device={on_device})
    x = mx.nd.full((4,), 1)
    places = set()
    for _ in range(100):
        out = node(x)
        places.add(address(out))
    out.wait_to_read()
    assert len(places) <= 3, len(places)
    held = [node(mx.nd.full((4,), k)).reshape((2, 2)) for k in range(20)]
    for k, view in enumerate(held):
        assert view.asnumpy().ravel().tolist() == [2 * k] * 4
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_outputs_that_are_kept_do_not_follow_the_number_of_shapes(check, on_device):
    """Forty shapes of a node with a MiB of outputs each: 16 MiB, and those of the last shape."""
    check(f"""
    f32, mib = np.dtype(np.float32), 1 << 20
    key = lib.create_node([f32], [f32])
    for rows in range(1, 41):
        size = 1024 * 256 + rows
        session = lib.cuda.create_session(
            Doubler(size), [4 * size], [4 * size], 0, 0, on_device={on_device}
        )
        lib.put_variant(key, [(size,), (size,)], session)
        lib.release(session)
    node = Node.__new__(Node)
    node.key = key
    for _ in range(2):
        for rows in range(1, 41):
            x = mx.nd.full((1024 * 256 + rows,), rows)
            assert (node(x).asnumpy() == 2 * rows).all()
            assert lib.spare_bytes <= 19 * mib, lib.spare_bytes
    assert lib.spare_bytes > 8 * mib
    lib.release(key)
    del node, x
    settle(lambda: lib.spare_bytes)
    assert lib.spare_bytes == 0
    print("ok")
    """)


def test_runs_on_the_gpu_work_on_the_naive_engine(driver):
    """MXNet's engine without threads."""
    script = """
    node = Node(4, on_device=True)
    for k in range(20):
        assert node(mx.nd.full((4,), k)).asnumpy().tolist() == [2 * k] * 4
    print("ok")
    """
    done = run(SETUP + script, LD_LIBRARY_PATH=str(driver), MXNET_ENGINE_TYPE="NaiveEngine")
    assert done.returncode == 0, done.stderr


def test_a_run_that_the_engine_of_mxnet_refuses_is_an_error_and_leaves_nothing(driver):
    """NaiveEngine raises where it is handed the run; what was prepared for it is freed once."""
    script = """
    node, x = Node(4, on_device=True), mx.nd.full((4,), 3)
    x.wait_to_read()
    fake.fake_set(FAIL, 1)  # nothing new is recorded: the engine is asked itself
    real, Doubler.enqueue = Doubler.enqueue, lambda *_: 1 / 0
    for _ in range(20):
        try:
            node(x)
        except RuntimeError as error:
            assert str(error).startswith("0 MXNet's engine refused a run"), error
        else:
            raise AssertionError("no error")
    assert lib.lib.mxtrt_owners(x.handle) == 1
    Doubler.enqueue = real
    assert node(x).asnumpy().tolist() == [6] * 4
    node.close()
    gc.collect()
    assert lib.cuda._engines == {} and count(GRAPHS) == 0
    print("ok")
    """
    done = run(SETUP + script, LD_LIBRARY_PATH=str(driver), MXNET_ENGINE_TYPE="NaiveEngine")
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("failing", [1, 2])  # the input's or the output's
def test_no_engine_is_given_an_address_that_mxnet_does_not_give(check, on_device, failing):
    """The run goes through MXNet; where it is under way already, reading its output raises."""
    check(f"""
    from mxnet.base import _LIB

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    asked = []

    @kind
    def get_data(array, data):
        asked.append(array)
        return -1 if len(asked) == failing else _LIB.MXNDArrayGetData(
            ctypes.c_void_p(array), ctypes.c_void_p(data)
        )

    from mxtrt.node.abi import MXNET_FUNCTIONS as names

    functions = [ctypes.cast(getattr(_LIB, name), ctypes.c_void_p).value for name in names]
    functions[names.index("MXNDArrayGetData")] = ctypes.cast(get_data, ctypes.c_void_p).value
    node, x = Node(4, on_device={on_device}), mx.nd.full((4,), 3)
    x.wait_to_read()
    for failing in ({failing}, 0):
        asked.clear()
        lib.lib.mxtrt_arrays_init((ctypes.c_void_p * len(names))(*functions))
        try:
            seen = node(x).asnumpy().tolist()
        except RuntimeError as error:
            seen = str(error)
        if failing and {on_device} and failing == 2:
            assert "MXNet gave no address of an array" in seen, seen
        elif failing:
            assert seen.startswith("-1"), seen
        else:
            assert seen == [6] * 4, seen
    settle(lambda: lib.lib.mxtrt_owners(x.handle) > 1)
    assert lib.lib.mxtrt_owners(x.handle) == 1
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_session_is_dropped_while_the_gpu_is_in_error(check, on_device):
    """Its scratch memory is given back; a process that is to serve on the CPU goes on."""
    check(f"""
    node = Node(4, on_device={on_device}, scratch=64)
    assert node(mx.nd.full((4,), 3)).asnumpy().tolist() == [6] * 4
    fake.fake_set(IN_ERROR, 1)
    node.close()
    settle()
    assert lib.cuda._engines == {{}} and count(BYTES) == 0 and count(GRAPHS) == 0
    fake.fake_set(IN_ERROR, 0)
    assert lib.cuda.memory().scratch == 0
    assert Node(4, on_device={on_device})(mx.nd.ones((4,))).asnumpy().tolist() == [2] * 4
    print("ok")
    """)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("record", [False, True])
def test_a_session_is_dropped_while_another_asks_python(check, on_device, record):
    """As by the garbage collector, which runs anywhere; its memory is given back at once."""
    check(f"""
    options = dict(on_device={on_device}, scratch=64)
    dropped = [Node(4, **options) for _ in range(3)]
    enqueue = Doubler.enqueue

    def collecting(self, *given):
        if dropped:
            dropped.pop().close()
        return enqueue(self, *given)

    x = mx.nd.full((4,), 3)
    Doubler.enqueue = collecting
    for _ in range(4):
        node = Node(4, record={record}, **options)  # runs it for the first time
        assert node(x).asnumpy().tolist() == [6] * 4
        node.close()
    assert not dropped
    del node
    settle()
    assert lib.cuda._engines == {{}} and count(BYTES) == 0 and count(GRAPHS) == 0
    print("ok")
    """)


@pytest.mark.parametrize("waiting", ["lib.finish(late.handle)", "None"])
def test_runs_under_way_end_with_an_error_when_the_gpu_does(check, waiting):
    """Whoever notices, a thread that waits or the one that looks, tells MXNet."""
    check(f"""
    node, x = Node(4, on_device=True), mx.nd.full((4,), 3)
    fake.fake_set(HOLD, 1)
    early, late = node(x), node(x)
    fake.fake_set(IN_ERROR, 1)
    {waiting}
    fake.fake_set(HOLD, 0)
    try:
        late.wait_to_read()
    except mx.MXNetError as error:
        assert "an illegal memory access" in str(error), error
    else:
        raise AssertionError("no error")
    print("ok")
    """)


# A symbol of optimize_for on GPU 0, and its engine node as MXNet's operator calls it there.  What
# doubles its input is a dense layer, so that a wrong weight is a wrong answer.
SYMBOL = """
    from mxtrt.plan import graph_pass
    from mxtrt.engines import Session
    from mxtrt.errors import EngineError
    from mxtrt.graph.rewrite import node_attributes

    class Engine:
        name, version, contexts = "stand-in", "1", ("cpu", "gpu")
        dtypes, computes_float16 = {np.dtype(np.float32)}, False
        static_shapes, takes_ranges, shares_sessions = True, False, False
        opset = 17
        on_cpu = False

        def build(self, request):
            (x,), (out,) = request.inputs, request.outputs
            if x.shape[0] > 2:
                raise EngineError("the stand-in takes two rows at most")
            return Session(lib.cuda.create_session(
                Doubler(x.nbytes // 4), [x.nbytes], [out.nbytes], 0, 0, on_device=True
            ))

    graph_pass.select = lambda options: Engine()
    weight = mx.nd.array(2 * np.eye(4))
    given = {"data": mx.nd.zeros((2, 4)), "dense_weight": weight}
    symbol = mx.sym.FullyConnected(
        mx.sym.var("data"), num_hidden=4, no_bias=True, flatten=False, name="dense"
    )

    def partitioned(**options):
        return symbol.optimize_for("TensorRT", dict(given), {}, mx.gpu(0), **options)

    stream = ctypes.c_void_p()
    lib.cuda.make_current(0)
    fake.cuStreamCreate(ctypes.byref(stream), 0)

    def copies():  # of tensors, and of weights
        return fake.fake_copies(stream), fake.fake_copies(lib.cuda.stream(0))

    def forward(engines, x):
        node, c = engines.plan.nodes[0], lib.lib
        there = [lib.cuda.allocate(x.nbytes) for _ in range(2)]
        ctypes.memmove(there[0], x.ctypes.data, x.nbytes)
        attrs = node_attributes(node.key, lib.token, 1, 1)
        keys = (ctypes.c_char_p * len(attrs))(*(name.encode() for name in attrs))
        values = (ctypes.c_char_p * len(attrs))(*(value.encode() for value in attrs.values()))
        sizes = (ctypes.c_uint * 2)(*x.shape)
        dims = (ctypes.POINTER(ctypes.c_uint) * 1)(sizes)
        ndims, types, state = (ctypes.c_int * 1)(2), (ctypes.c_int * 1)(0), ctypes.c_void_p()
        lib.checked(c._opCallCreateOpState(
            None, keys, values, len(attrs), b"gpu", 0, dims, ndims, 1, None, ctypes.byref(state)
        ))
        long = (ctypes.c_int64 * 2)(*x.shape)
        shapes = (ctypes.POINTER(ctypes.c_int64) * 1)(long)
        tensors = [
            (shapes, ndims, (ctypes.c_void_p * 1)(data), types, None, None, None, 1)
            for data in there
        ]
        try:
            lib.checked(c._opCallFStatefulCompute(
                1, state, *tensors[0], *tensors[1], *[None] * 4, stream, *[None] * 14
            ))
            out = np.empty_like(x)
            ctypes.memmove(out.ctypes.data, there[1], x.nbytes)
            return out
        finally:
            c._opCallDestroyOpState(state)
            for data in there:
                lib.cuda.free(data)

    def error(call, *args):
        try:
            call(*args)
        except (NodeError, EngineError) as error:
            return str(error)

    def break_down():
        fake.fake_set(FAIL, 1)  # nothing new is recorded: the engine is asked itself
        Doubler.enqueue = lambda *_: 1 / 0

    x = np.arange(8, dtype=np.float32).reshape(2, 4)
"""


@pytest.fixture
def check_symbol(check):
    """Runs a script with such a symbol."""
    return lambda script: check(SYMBOL + script)


def test_a_symbol_on_the_gpu_is_answered_when_its_engine_fails(check_symbol):
    """In the same request and from then on, behind what the operator's stream has to do."""
    check_symbol("""
    engines = partitioned()
    assert (forward(engines, x) == 2 * x).all()
    break_down()
    fake.fake_set(LATE, 1)
    weights = copies()[1]
    for k in range(1, 4):
        assert (forward(engines, x + k) == 2 * (x + k)).all()
        assert copies() == (2 * k, weights + 1)
    assert mxtrt.stats().fallbacks == 3
    assert mxtrt.stats().engine_failures == 1 and "dense" in engines.plan.state.reasons
    print("ok")
    """)


def test_a_symbol_on_the_gpu_is_answered_at_shapes_for_which_no_engine_builds(check_symbol):
    """Its engine stays in use at the others; with take_over off the request fails, as before."""
    check_symbol("""
    engines, larger = partitioned(), np.ones((3, 4), np.float32)
    for _ in range(2):
        assert engines.infer_shape(data=(3, 4))[1] == [(3, 4)]
        assert (forward(engines, larger) == 2).all()
    launches = count(LAUNCHES)
    assert (forward(engines, x) == 2 * x).all()
    assert count(LAUNCHES) == launches + 1 and not engines.plan.state.reasons
    assert mxtrt.stats().fallbacks == 2 and mxtrt.stats().engine_failures == 0
    (without,) = partitioned(take_over=False).plan.nodes
    assert "two rows at most" in error(without.infer, ((3, 4),))
    print("ok")
    """)


def test_a_run_that_is_not_put_on_the_gpu_is_answered_too(check_symbol):
    """An executor's, from the thread that calls; then the executor is MXNet's."""
    check_symbol("""
    with mxtrt.options(enabled=True):
        executor = symbol.bind(mx.cpu(), given, grad_req="null")
    for k in range(4):
        if k == 1:
            break_down()
        (out,) = executor.forward(data=mx.nd.array(x + k))
        assert (out.asnumpy() == 2 * (x + k)).all()
    assert mxtrt.stats().engine_runs == mxtrt.stats().fallbacks == 1
    assert mxtrt.stats().engine_failures == 1 and executor._mxtrt is None
    print("ok")
    """)


def test_a_run_in_host_memory_that_does_not_come_is_answered(check_symbol):
    """It was on its way when the GPU failed: who waits for its output has MXNet's answer."""
    check_symbol("""
    def build(self, request):
        sizes = [request.inputs[0].nbytes], [request.outputs[0].nbytes]
        double = Doubler(sizes[0][0] // 4)
        return Session(lib.cuda.create_session(
            double, *sizes, 0, 0, on_device=False, lanes=2, more=lambda session: None
        ))

    Engine.build = build
    with mxtrt.options(enabled=True, inline_below=1):
        executor = symbol.bind(mx.cpu(), given, grad_req="null")
    for k in range(4):
        (out,) = executor.forward(data=mx.nd.array(x + k))
        assert (out.asnumpy() == 2 * (x + k)).all()
    assert mxtrt.stats().engine_runs == 4 and mxtrt.stats().fallbacks == 0
    fake.fake_set(HOLD, 1)  # the GPU takes long
    (out,) = executor.forward(data=mx.nd.array(x + 4))
    fake.fake_set(IN_ERROR, 1)
    assert (out.asnumpy() == 2 * (x + 4)).all()
    fake.fake_set(HOLD, 0)
    (out,) = executor.forward(data=mx.nd.array(x + 5))
    assert (out.asnumpy() == 2 * (x + 5)).all()
    assert mxtrt.stats().engine_failures == mxtrt.stats().fallbacks == 1
    assert executor._mxtrt is None
    fake.fake_set(IN_ERROR, 0)
    print("ok")
    """)


def test_a_failing_node_that_was_released_says_what_failed(check_symbol):
    """Its run outlived it; nobody knows its segment any more."""
    check_symbol("""
    partitioned()  # installs what is called back
    node = Node(4, on_device=True)
    break_down()
    for _ in range(2):
        try:
            node(mx.nd.ones((4,))).wait_to_read()
        except mx.MXNetError as error:
            assert "ZeroDivisionError" in str(error), error
        else:
            raise AssertionError("no error")
        lib._types.clear()
    print("ok")
    """)


def test_evicted_weights_are_read_where_they_are(check_symbol):
    """The GPU copies none of them; a write to one since the build is an error, as on the CPU."""
    check_symbol("""
    engines, other = partitioned(), partitioned()
    lib.evict(weight, 0, engines.plan.baseline._own._watch)
    break_down()
    weights = copies()[1]
    assert (forward(engines, x) == 2 * x).all()
    assert copies() == (2, weights)
    told = error(forward, other, x)
    assert "ZeroDivisionError" in told and "its weights were written to since" in told, told
    assert copies() == (3, weights)  # the other's outputs are as they were
    print("ok")
    """)


def test_a_weight_that_is_written_to_while_it_is_copied_is_not_used(check_symbol):
    """Whether it was is asked when the copies are there."""
    check_symbol("""
    (engines, copy_out) = partitioned(), lib.cuda.copy_out

    def written_to(ordinal, address, array, stream=0):
        copy_out(ordinal, address, array, stream)
        if array.shape == weight.shape:
            weight[:] = 0
            weight.wait_to_read()

    lib.cuda.copy_out = written_to
    break_down()
    assert "its weights were written to since" in error(forward, engines, x)
    print("ok")
    """)


def test_a_gpu_in_error_says_both(check_symbol):
    """What the engine said, and that nothing can be copied; no process is started for it."""
    check_symbol("""
    from mxtrt.plan.takeover import TakeOver

    engines = partitioned()
    break_down()
    fake.fake_set(FAIL_COPY, 1)
    told = error(forward, engines, x)
    assert "ZeroDivisionError" in told, told
    assert "MXNet's operators did not take over: CUDA: an illegal memory access" in told, told
    assert "dense" in engines.plan.state.reasons and engines.plan.nodes[0].fallback.process is None
    fake.fake_set(FAIL_COPY, 0)
    assert (forward(engines, x) == 2 * x).all()
    answer = TakeOver.__call__
    TakeOver.__call__ = lambda self, inputs: (answer(self, inputs), fake.fake_set(FAIL_COPY, 1))[0]
    assert "CUDA: an illegal memory access" in error(forward, engines, x)
    print("ok")
    """)


def test_two_gpus_run_at_once(check):
    """In turns from one thread, and from a thread for each; every run is of its own input."""
    check("""
    import threading
    nodes = [Node(4, on_device=True, scratch=64, gpu=gpu) for gpu in (0, 1)]
    xs = [mx.nd.ones((4,), ctx=mx.cpu(gpu)) for gpu in (0, 1)]
    for k in range(200):
        outs = [node(x + k) for node, x in zip(nodes, xs)]
        assert [out.asnumpy().tolist() for out in outs] == [[2.0 * (k + 1)] * 4] * 2
    failed = []

    def work(gpu):
        try:
            for k in range(500):
                assert nodes[gpu](xs[gpu] + k).asnumpy().tolist() == [2.0 * (k + 1)] * 4
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(gpu,)) for gpu in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed, failed
    print("ok")
    """)


def test_a_run_is_not_done_because_a_later_one_on_another_gpu_is(check):
    """Each GPU does its runs in order, and knows nothing of the other's."""
    check("""
    import threading
    nodes = [Node(4, on_device=True, gpu=gpu) for gpu in (0, 1)]
    xs = [mx.nd.ones((4,), ctx=mx.cpu(gpu)) for gpu in (0, 1)]
    mx.nd.waitall()
    fake.fake_set(HOLD, 1)  # the first GPU takes long
    slow = nodes[0](xs[0])
    quick = nodes[1](xs[1])
    wait(quick)
    assert quick.asnumpy().tolist() == [2.0] * 4
    waiting = threading.Thread(target=slow.wait_to_read, daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    fake.fake_set(HOLD, 0)
    waiting.join(10)
    assert not waiting.is_alive()
    print("ok")
    """)


def test_engines_are_let_go_from_any_thread(check):
    """What is made on one thread runs on another, and leaves both GPUs without their scratch."""
    check("""
    import threading
    nodes = [Node(4, on_device=gpu == 1, scratch=64 * (gpu + 1), gpu=gpu) for gpu in (0, 1)]
    assert [lib.cuda.memory(gpu).scratch for gpu in (0, 1)] == [64, 128]

    def work():
        for gpu in (1, 0):
            x = mx.nd.ones((4,), ctx=mx.cpu(gpu))
            assert nodes[gpu](x).asnumpy().tolist() == [2.0] * 4
        settle(lambda: 0)
        [node.close() for node in nodes]

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    settle(lambda: sum(lib.cuda.memory(gpu).scratch for gpu in (0, 1)))
    assert [lib.cuda.memory(gpu).scratch for gpu in (0, 1)] == [0, 0]
    assert count(BYTES) == 0
    print("ok")
    """)


def test_a_users_thread_keeps_its_current_gpu(check):
    """Another library goes on with it: after a build, a wait, a look at memory and a drop."""
    check("""
    import gc

    def current():
        return lib.lib.mxtrt_cuda_current()

    lib.cuda.make_current(0)
    mine = current()
    assert mine
    node = Node(4, on_device=True, scratch=64, gpu=1)
    assert current() == mine
    out = node(mx.nd.ones((4,), ctx=mx.cpu(1)))
    wait(out)
    assert current() == mine
    lib.cuda.memory(1)
    assert current() == mine
    with lib.cuda.current(1):
        assert current() not in (0, mine)
    assert current() == mine
    mx.nd.waitall()
    node.close()
    gc.collect()
    assert current() == mine
    print("ok")
    """)


def test_gpus_are_counted(check):
    """Also before one is opened."""
    check("""
    assert lib.cuda.count() == 2
    assert lib.cuda.device(1).name == "Stand-in"
    print("ok")
    """)
