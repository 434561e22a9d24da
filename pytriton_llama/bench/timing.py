"""The one module that needs a GPU: how long a call takes there, and what the GPU is.

Every contender is captured in a CUDA graph, so that kernels of a few µs are not timed as Python's 10–40 µs of
launching them (that is :meth:`CudaTimer.launch_cost`, apart). A graph calls its contender on one set of inputs after
the other, each set with outputs of its own, together larger than the L2 cache; and the cache is flushed before each
replay. So every byte comes from memory and goes there, as far as ``settings.L2_BYTES`` can make it.
"""

import importlib.metadata
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from triton.runtime.jit import JITFunction

from pytriton_llama.bench import settings
from pytriton_llama.bench.case import Inputs, Run
from pytriton_llama.bench.results import Environment
from pytriton_llama.errors import LlamaError
from pytriton_llama.runtime import interpreted


class CudaTimer:
    device = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available() or interpreted():
            raise LlamaError("bench: needs a GPU that kernels are compiled for; the interpreter's times say nothing")
        self.scratch = torch.empty(settings.L2_BYTES, dtype=torch.uint8, device=self.device)

    def sampler(self, run: Run, sets: Sequence[Inputs]) -> Callable[[], float]:
        """A function that measures once: seconds a call of ``run``, averaged over the calls of one graph."""
        calls = max(len(sets), settings.MIN_CALLS)
        # Whatever is compiled, loaded or allocated on a first call must not be captured.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for inputs in sets[:3]:
                run(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Outputs stay alive for one round, else the allocator would hand the same memory (in L2) to every call.
        outputs: deque = deque(maxlen=len(sets))
        with torch.cuda.graph(graph, stream=side):
            for i in range(calls):
                outputs.append(run(*sets[i % len(sets)]))
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        # A graph owns neither the code nor the memory that it replays: without this, compiled code may be unloaded.
        def sample(alive: object = (run, sets, outputs)) -> float:
            self.scratch.zero_()  # takes longer than it takes Python to queue the next three lines
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / calls

        sample()
        return sample

    def launch_cost(self, run: Run, inputs: Inputs) -> float:
        """Seconds of the host's time a call costs when nobody waits for the GPU."""
        torch.cuda.synchronize()
        started = time.perf_counter()
        run(*inputs)
        torch.cuda.synchronize()
        # Work that is queued has to be done in the end: little of it where a call takes long.
        calls = max(2, min(20, int(0.05 / (time.perf_counter() - started))))
        times = []
        for _ in range(9):
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(calls):
                run(*inputs)
            times.append((time.perf_counter() - started) / calls)
        torch.cuda.synchronize()
        return statistics.median(times)

    def bare_launch_cost(self, run: Run, inputs: Inputs) -> float:
        """The same for the launches alone that a call of ours makes, and the allocation of what they write."""
        launches = recorded_launches(run, inputs)
        known = {t.data_ptr() for t in inputs}
        results = [t for _, _, args, _ in launches for t in args if torch.is_tensor(t) and t.data_ptr() not in known]

        def bare() -> None:
            for result in results:
                torch.empty_like(result)
            for kernel, grid, args, keywords in launches:
                kernel[grid](*args, **keywords)

        return self.launch_cost(bare, ())

    def synchronize(self) -> None:
        """Wait for the GPU; raises if an earlier kernel has broken its context."""
        torch.cuda.synchronize()


def recorded_launches(run: Run, inputs: Inputs) -> list[tuple[JITFunction, tuple, tuple, dict]]:
    """Kernel, grid, arguments and keywords of every launch in a call."""
    launches, launch = [], JITFunction.run

    def record(kernel, *args, grid, warmup, **keywords):
        launches.append((kernel, grid, args, keywords))
        return launch(kernel, *args, grid=grid, warmup=warmup, **keywords)

    JITFunction.run = record
    try:
        run(*inputs)
    finally:
        JITFunction.run = launch
    return launches


def environment() -> Environment:
    """The GPU in use and the versions that decide its speed."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return Environment(
        torch.cuda.get_device_name(), driver, ", ".join(map(_version, ("torch", "triton", "liger-kernel")))
    )


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} none"
