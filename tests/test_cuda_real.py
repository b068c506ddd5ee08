"""The code between this package and the CUDA driver, on a GPU that is there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from googlenet_edge.engines.cuda_device import Buffer, CudaDevice, GraphDriver, Timeline, load_driver, new_stream
from googlenet_edge.engines.protocol import DeviceStage

HERE = find_spec("pycuda") is not None and (Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists())

pytestmark = pytest.mark.skipif(not HERE, reason="needs an NVIDIA GPU and pycuda")


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    device = CudaDevice(load_driver())
    with device.current():
        yield device
    device.close()


class Copy:
    """Pixels that go to the GPU, from one place there to another, and back."""

    def __init__(self, driver: Any) -> None:
        self.driver, self.stream = driver, new_stream(driver)
        self.there, self.back = (Buffer(driver, (8, 64, 64, 3), np.uint8) for _ in range(2))

    def work(self) -> None:
        self.driver.memcpy_dtod_async(self.back.address, self.there.address, self.there.host.nbytes, self.stream)

    def free(self) -> None:
        self.there.free()
        self.back.free()


def test_a_recorded_graph_does_nothing_until_it_is_launched_and_then_its_work(device: CudaDevice) -> None:
    copy, times = Copy(device.driver), Timeline(device.driver)
    pixels = np.random.default_rng(0).integers(1, 256, copy.there.host.shape, np.uint8)
    copy.there.host[:], copy.back.host[:] = pixels, 0
    copy.back.to_device(copy.stream, 8)
    graph = GraphDriver().record(copy.stream.handle, copy.work)
    copy.there.to_device(copy.stream, 8)
    copy.back.to_host(copy.stream, 8)
    copy.stream.synchronize()
    assert not copy.back.host.any()
    times.mark(0, copy.stream)
    times.mark(1, copy.stream)
    graph.launch(copy.stream.handle)
    times.mark(2, copy.stream)
    copy.back.to_host(copy.stream, 8)
    times.mark(3, copy.stream)
    copy.stream.synchronize()
    assert np.array_equal(copy.back.host, pixels)
    assert times.times_ms()[DeviceStage.COMPUTE] > 0.0005  # which stands for what is too short to be measured
    graph.close()
    del times
    copy.free()


def test_a_stream_works_on_after_something_could_not_be_recorded(device: CudaDevice) -> None:
    copy = Copy(device.driver)
    copy.there.host[:], copy.back.host[:] = 7, 0
    with pytest.raises(Exception, match="operation not permitted when stream is capturing"):
        GraphDriver().record(copy.stream.handle, copy.stream.synchronize)
    copy.there.to_device(copy.stream, 8)
    copy.work()
    copy.back.to_host(copy.stream, 8)
    copy.stream.synchronize()
    assert (copy.back.host == 7).all()
    copy.free()
