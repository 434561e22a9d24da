"""The sizes that softmax, the norms and the element-wise kernels share: M rows of N columns."""

from pytriton_llama.bench.case import Point

# Powers of two, what lies beside them, and Llama's own widths (2048 … 14336; 11008 is Llama-2-7B's).
COLUMNS = (512, 1000, 1024, 2000, 4096, 4097, 11008, 16384, 32768, 65536, 131072)
# One row is what a decode step has.
SINGLE = (2048, 4096, 16384)
SETTING = "8192 rows of N columns (2048 above 32768)"


def height(N: int) -> int:
    """8192 rows, 2048 above 32k columns: 0.5 GB of 16-bit numbers at most, on each side."""
    return 8192 if N <= 32768 else 2048


POINTS = tuple(
    Point(shape, dtype)
    for dtype in ("fp16", "bf16")
    for shape in [(height(N), N) for N in COLUMNS] + [(1, N) for N in SINGLE]
)
QUICK = tuple(Point((height(N), N), "fp16") for N in (1024, 4096, 16384))


def many(point: Point) -> bool:
    """Whether the point belongs into a plot over N: a single row is bound by latency."""
    return point.shape[0] > 1
