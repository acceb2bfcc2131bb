"""Scripts for a process with a stand-in for NVIDIA's driver."""

from __future__ import annotations

#: What they begin with: an engine that doubles its input, and nodes that run it.
SETUP = """
    import ctypes, gc, time
    import mxtrt, mxnet as mx, numpy as np
    from mxtrt.node import library
    from mxtrt.errors import NodeError

    fake = ctypes.CDLL("libcuda.so.1")
    fake.fake_kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int] + [
        ctypes.c_void_p
    ] * 2
    fake.fake_count.restype = ctypes.c_long
    fake.fake_copies.restype = ctypes.c_long
    fake.fake_copies.argtypes = [ctypes.c_void_p]
    CAPTURES, LAUNCHES, GRAPHS, BYTES, PREFETCHES, FAIL, QUERIES, WAITS = range(8)
    LATE, FAIL_COPY, IN_ERROR, HOLD, SLOW, FAIL_GPU, MOST_AT_ONCE = range(8, 15)
    lib = library()

    class Doubler:
        calls = 0

        def __init__(self, size):
            self.size = size

        def enqueue(self, addresses, scratch, stream):
            Doubler.calls += 1
            code = fake.fake_kernel(*addresses, self.size, scratch, stream)
            if code:
                raise RuntimeError(f"kernel failed with {code}")

    class Node:
        limit = 10**12  # nanoseconds; what takes longer in host memory comes later

        def __init__(self, size, on_device, scratch=0, gpu=0, **options):
            f32, sizes = np.dtype(np.float32), [4 * size]
            self.key = lib.create_node([f32], [f32])
            self.session = lib.cuda.create_session(
                Doubler(size), sizes, sizes, scratch, gpu, on_device=on_device, **options
            )
            lib.put_variant(self.key, [(size,), (size,)], self.session)

        def __call__(self, x):
            inputs, outputs = (ctypes.c_void_p * 1)(x.handle), (ctypes.c_void_p * 1)()
            place = x.ctx.device_typeid, x.ctx.device_id
            done = lib.run(self.key, inputs, 1, outputs, 1, self.limit, place)
            if done != 1:
                raise RuntimeError(f"{done} {lib.take_error()}")
            return mx.nd.NDArray(ctypes.c_void_p(outputs[0]))

        def close(self):
            lib.release(self.session)
            lib.release(self.key)

    def address(array):
        pointer = ctypes.c_void_p()
        mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
        return pointer.value

    def held():  # by sessions
        return count(GRAPHS) + count(BYTES) + len(lib.cuda._engines)

    def settle(busy=held):  # MXNet forgets a run some time after it is done
        mx.nd.waitall()
        end = time.monotonic() + 10
        while busy() and time.monotonic() < end:
            time.sleep(0.01)

    def wait(array):
        assert lib.finish(array.handle) == 1

    def count(which):
        return fake.fake_count(which)
"""
