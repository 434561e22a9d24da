"""What is measured where, and for how long."""

from pathlib import Path

# Published figures come from this GPU only: speeds of two cards in one table would say nothing about kernels.
RECORDED_ON = "NVIDIA H100"

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "benchmark_result"
LOCAL = RECORDED / "local"  # git-ignored

BUDGET = 230.0  # seconds an operation; the point in hand when it ends is still finished
REPEATS, QUICK_REPEATS, MIN_REPEATS = 100, 10, 5

# More than any GPU's L2 cache (H100: 50 MB, B200: 126 MB): what is read again after so many bytes comes from memory.
L2_BYTES = 256 * 2**20
# Single rows are too small to fill that; each buffer is still used only once between two flushes of the cache.
MAX_SETS = 256
# So many calls a graph at least, to drown the microseconds between an event and the graph's first kernel.
MIN_CALLS = 4

OURS = "pytriton_llama"
COPY = "copy"
