"""Each planted fault is caught at the line that commits it, and a right kernel is not accused."""

import inspect

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from pytriton_llama.interpreter import trace, watch
from pytriton_llama.interpreter.tracing import AssertionFailed, OutOfBounds, Overflow, Race, Uninitialized


def line_of(function, marker):
    """file:line of the line of a kernel that carries a marker."""
    function = getattr(function, "fn", function)
    lines, first = inspect.getsourcelines(function)
    (at,) = [first + i for i, line in enumerate(lines) if marker in line]
    return f"test_trace.py:{at} in {function.__name__}"


def caught(error, kernel, grid, *args, at=None, marker="# here", **options):
    """The message of the error that the launch raises, which names the marked line."""
    with pytest.raises(error) as info, trace(**options):
        kernel[grid](*args)
    assert line_of(at or kernel, marker) in str(info.value)
    return str(info.value)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


# ------------------------------------------------------------------------------------- bytes


@triton.jit
def scale(x, y, N, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.load(x + i, mask=i < N) * 2, mask=i < N)


@triton.jit
def gathered(x, index, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(x + tl.load(index + i), mask=i % 2 == 0, other=0.0))


@triton.jit
def through_descriptors(x, y, i, j):
    y.store([i, j], x.load([i, j]) + 1)


def test_bytes_by_launch_and_argument():
    """Catches masked-off elements counted, and bytes of a gather counted as its span."""
    with trace() as t:
        scale[(3,)](zeros(70), zeros(70), 70, 32)
        gathered[(1,)](zeros(99), torch.arange(32, dtype=torch.int64), zeros(32, dtype=torch.float64), 32)
        x, y = (TensorDescriptor.from_tensor(zeros(20, 20), [16, 16]) for _ in range(2))
        through_descriptors[(1,)](x, y, 8, 8)
    assert [launch.loaded for launch in t.launches] == [{"x": 280}, {"index": 256, "x": 64}, {"x": 576}]
    assert [launch.stored for launch in t.launches] == [{"y": 280}, {"y": 256}, {"y": 576}]
    assert (t.bytes_loaded, t.bytes_stored) == (280 + 256 + 64 + 576, 280 + 256 + 576)
    assert [launch.kernel for launch in t.launches] == ["scale", "gathered", "through_descriptors"]


def test_which_elements_were_touched():
    """Catches offsets in bytes, and programs that share one record."""
    with trace() as t:
        scale[(3,)](zeros(80)[5:], zeros(70), 70, 32)
    (launch,) = t.launches
    assert launch.complete
    assert launch.touched("x").tolist() == list(range(70))
    assert launch.touched("x", "load", (2, 0, 0)).tolist() == list(range(64, 70))
    assert launch.touched("x", "store").tolist() == []
    assert launch.touched("y", program=(0, 0, 0)).tolist() == list(range(32))


def test_record_is_bounded():
    """Catches a record that grows with the model."""
    with trace(limit=100) as t:
        scale[(3,)](zeros(70), zeros(70), 70, 32)
    assert not t.launches[0].complete
    assert sum(a.offsets.size for a in t.launches[0].accesses) <= 100


@triton.autotune([triton.Config({"B": 32}, num_warps=2)], key=["N"])
@triton.heuristics({"EVEN": lambda args: args["N"] % args["B"] == 0})
@triton.jit
def tuned(x, y, N, B: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.load(x + i, mask=i < N), mask=i < N)


@triton.jit
def tupled(xs, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(xs[0] + i) + tl.load(xs[1] + i))


@triton.jit
def hooked(y, B: tl.constexpr):
    tl.store(y + tl.arange(0, B), 1.0)


hooked.add_pre_run_hook(lambda *args, **kwargs: None)


def test_every_way_to_launch_is_seen():
    """Catches launches that go around the observer: autotuners, heuristics, hooks, tuples."""
    with trace() as t:
        tuned[(3,)](zeros(70), zeros(70), 70)
        tupled[(1,)]((zeros(16), zeros(16)), zeros(16), 16)
        hooked[(1,)](zeros(16), 16)
    seen = [(launch.kernel, dict(launch.loaded), dict(launch.stored)) for launch in t.launches]
    assert seen == [
        ("tuned", {"x": 280}, {"y": 280}),
        ("tupled", {"xs[0]": 64, "xs[1]": 64}, {"y": 64}),
        ("hooked", {}, {"y": 64}),
    ]


def test_nothing_is_left_behind():
    """Catches options, and an observer, that outlive the block, also after an error."""
    from triton.runtime.interpreter import interpreter_builder as builder

    options = builder.options
    with trace():
        assert builder.options.debug
    with pytest.raises(OutOfBounds), trace():
        hooked[(1,)](zeros(8), 16)
    assert builder.options is options and watch.observer is None


def test_a_trace_inside_a_trace_counts_its_own():
    """Catches an inner trace that ends the outer one."""
    with trace() as outer:
        hooked[(1,)](zeros(16), 16)
        with trace() as inner:
            hooked[(1,)](zeros(16), 16)
        hooked[(1,)](zeros(16), 16)
    assert (len(outer.launches), len(inner.launches)) == (2, 1)


# ------------------------------------------------------------------------------------- bounds


@triton.jit
def loads_beyond(x, y, N, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i)  # here
    tl.store(y + i, v, mask=i < N)


@triton.jit
def stores_beyond(x, y, N, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i, mask=i < N)
    tl.store(y + i, v)  # here


@triton.jit
def updates_beyond(y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.atomic_add(
        y + i - 3,
        1.0,
        mask=i > 1,
    )  # the call starts three lines up


@triton.jit
def gathers_beyond(x, index, y, B: tl.constexpr):
    i = tl.arange(0, B)
    j = tl.load(index + i)
    tl.store(y + i, tl.load(x + j))  # here


@triton.jit
def helper(p, i):
    return tl.load(p + i)  # here


@triton.jit
def calls_helper(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, helper(x, i) + helper(x + 1, i))


def test_load_out_of_bounds():
    """Catches a check of the first address only, or one that is a byte off; the message names program, argument and
    offsets."""
    message = caught(OutOfBounds, loads_beyond, (3,), zeros(70), zeros(70), 70, 32)
    assert "program (2, 0, 0)" in message and "argument 'x' (float32 (70,))" in message
    assert "26 of 32 elements" in message and "lowest 70, highest 95" in message
    bytes_ = zeros(31, dtype=torch.int8)
    assert "load of 1 of 32" in caught(OutOfBounds, loads_beyond, (1,), bytes_, bytes_.clone(), 31, 32)


@triton.jit
def loads_backwards(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(x + 15 - i))  # here


def test_load_before_the_beginning():
    """Catches a block of negative strides whose first element is taken for its lowest."""
    with trace(extent="view"):
        loads_backwards[(1,)](zeros(64)[32:], zeros(16), 16)
    message = caught(OutOfBounds, loads_backwards, (1,), zeros(64)[32:], zeros(32), 32, extent="view")
    assert "load of 16 of 32" in message and "lowest -16, highest -1" in message


def test_store_out_of_bounds():
    """Catches a store that is checked after it happened."""
    guarded = zeros(128)
    message = caught(OutOfBounds, stores_beyond, (3,), zeros(70), guarded[:70], 70, 32, extent="view")
    assert "store of 26" in message and "argument 'y'" in message and not guarded.any()


def test_atomic_out_of_bounds():
    """Catches atomics left out, and offsets below zero."""
    match = r"atomic of 1 of 14 elements outside argument 'y'.*lowest -1, highest -1"
    with pytest.raises(OutOfBounds, match=match), trace():
        updates_beyond[(1,)](zeros(16), 16)


def test_gather_out_of_bounds():
    """Catches pointers without a formula that nothing checks."""
    index = torch.full((16,), 3, dtype=torch.int64)
    index[5] = 64
    assert "load of 1 of 16" in caught(OutOfBounds, gathers_beyond, (1,), zeros(64), index, zeros(16), 16)


def test_the_line_is_the_helpers():
    """Catches the line of the call reported, when a helper does it."""
    caught(OutOfBounds, calls_helper, (1,), zeros(16), zeros(16), 16, at=helper)


def test_a_view_may_use_its_storage():
    """Catches a slice that is refused its parent's memory by default, and one that is not when asked to."""
    with trace():
        loads_beyond[(3,)](zeros(100)[:70], zeros(70), 70, 32)
    caught(OutOfBounds, loads_beyond, (3,), zeros(100)[:70], zeros(70), 70, 32, extent="view")


def test_neighbours_are_not_the_argument():
    """Catches a pointer that runs from one argument into another, both in one storage."""
    both = zeros(64)
    caught(OutOfBounds, loads_beyond, (1,), both[:16], both[16:48], 32, 32, extent="view")


@triton.jit
def either(x, y, out, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(out + i, tl.load(tl.where(i % 2 == 0, x + i, y + i)))


@triton.jit
def grouped(addresses, out, B: tl.constexpr):
    i = tl.arange(0, B)
    x = tl.load(addresses + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    tl.store(out + tl.program_id(0) * B + i, tl.load(x + i))


@triton.jit
def there_and_back(x, out, B: tl.constexpr):
    p = (x.to(tl.int64) + 4).to(tl.pointer_type(tl.float32))
    tl.store(out + tl.arange(0, B), tl.load(p + tl.arange(0, B)))  # here


def test_pointers_of_several_arguments_or_of_none():
    """Catches a choice between two arguments taken for one of them, a loaded address held against the arguments, and an
    argument forgotten on the way through an integer."""
    parts = [torch.randn(16) for _ in range(3)]
    addresses = torch.tensor([p.data_ptr() for p in parts])
    out = zeros(48)
    with trace() as t:
        either[(1,)](parts[0], parts[1], out, 16)
        grouped[(3,)](addresses, out, 16)
    assert torch.equal(out, torch.cat(parts))
    assert t.launches[1].loaded == {"addresses": 24, "?": 192}
    caught(OutOfBounds, there_and_back, (1,), parts[0], out, 16)


def test_bounds_can_be_switched_off():
    """Catches an option that is ignored."""
    with trace(bounds=False) as t:
        loads_beyond[(3,)](zeros(100)[:70], zeros(70), 70, 32)
    assert t.launches[0].loaded["x"] == 384


# ------------------------------------------------------------------------------------- races


@triton.jit
def overlapping(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i + tl.program_id(0) * (B // 2), tl.load(x + i))  # here


@triton.jit
def scattered(index, y, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + tl.load(index + i), i)  # here


@triton.jit
def two_values(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i // 2, tl.load(x + i))  # here


@triton.jit
def rows_that_overlap(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i[:, None] + i[None, :], tl.load(x + i[:, None] * B + i[None, :]))  # here


@triton.jit
def reads_stored(x, B: tl.constexpr):
    p = tl.program_id(0)
    i = tl.arange(0, B)
    v = tl.load(x + p * B + i)  # here
    tl.store(x + p * B + B + i, v, mask=p == 0)


@triton.jit
def reads_early(x, B: tl.constexpr):
    p = tl.program_id(0)
    i = tl.arange(0, B)
    v = tl.load(x + p * B + B + i)  # here
    tl.store(x + p * B + i, v)


@triton.jit
def in_place(x, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(x + i, tl.load(x + i) + 1)
    tl.store(x + i, tl.load(x + i) * 2)


@triton.jit
def same_value(y, B: tl.constexpr):
    tl.store(y + tl.arange(0, B) // 4, 3.0)


@triton.jit
def counts(y, B: tl.constexpr):
    tl.atomic_add(y + tl.arange(0, B) % 4, 1)


@triton.jit
def last_one_sums(x, count, y, P: tl.constexpr):
    """Split work: whoever comes last reads what all have stored."""
    p = tl.program_id(0)
    tl.store(x + p, p * 1.0)
    if tl.atomic_add(count, 1) == P - 1:
        tl.store(y, tl.sum(tl.load(x + tl.arange(0, P)), 0))


def test_two_programs_store_to_one_address():
    """Catches stores compared by first address only."""
    message = caught(Race, overlapping, (2,), zeros(32), zeros(64), 32)
    assert "program (1, 0, 0): stores to 16 elements of argument 'y'" in message and "program (0, 0, 0)" in message


def test_scattered_stores_race():
    """Catches pointers without a formula that nothing checks."""
    index = torch.arange(32)
    index[20] = 3
    assert "1 elements" in caught(Race, scattered, (2,), index, zeros(32, dtype=torch.int32), 16)


def test_one_store_with_two_values():
    """Catches a race that needs only one program, of pointers with a formula and without."""
    caught(Race, two_values, (1,), torch.arange(32.0), zeros(64), 32)
    caught(Race, rows_that_overlap, (1,), torch.arange(64.0), zeros(64), 8)


def test_load_of_what_another_program_stored():
    """Catches a result that is right only because the interpreter runs programs in order."""
    caught(Race, reads_stored, (2,), zeros(64), 16)


def test_load_of_what_a_later_program_stores():
    """Catches the other order: nothing is wrong yet when the load runs."""
    message = caught(Race, reads_early, (3,), zeros(64), 16)
    assert "program (0, 0, 0): loads 16 elements" in message and "program (1, 0, 0) stores to" in message


@pytest.mark.parametrize(
    "kernel, grid, args",
    [
        (in_place, (4,), (zeros(64), 16)),
        (same_value, (1,), (zeros(8), 32)),
        (counts, (4,), (zeros(4, dtype=torch.int32), 32)),
        (last_one_sums, (8,), (zeros(8), zeros(1, dtype=torch.int32), zeros(1), 8)),
    ],
)
def test_no_race(kernel, grid, args):
    """Catches accusations of right kernels: in place, equal values, atomics, what an atomic orders."""
    with trace():
        kernel[grid](*args)


def test_views_of_other_widths_race():
    """Catches stores that are compared element by element although the elements differ in size."""
    y = zeros(64)

    @triton.jit
    def both(y, z, B: tl.constexpr):
        i = tl.arange(0, B)
        if tl.program_id(0) == 0:
            tl.store(y + i, 1.0)
        else:
            tl.store(z + i + B, i.to(tl.int16))  # here

    caught(Race, both, (2,), y, y.view(torch.int16), 32)


@triton.jit
def reads_a_counter(x, first, B: tl.constexpr):
    if tl.program_id(0) == first:
        tl.store(x + 1, tl.load(x))  # here
    else:
        tl.atomic_add(x, 1.0)


@pytest.mark.parametrize("first", [0, 1])
def test_load_of_what_an_atomic_updates(first):
    """Catches a load that comes before the other program's atomic, not after it."""
    caught(Race, reads_a_counter, (2,), zeros(2), first, 16)


# ------------------------------------------------------------------------------------- overflow, assertions


@triton.jit
def far(x, y, stride, B: tl.constexpr):
    row = tl.program_id(0) + 70000
    p = x + row * stride  # here
    tl.store(y + tl.arange(0, B), tl.load(p + tl.arange(0, B), mask=row < 0, other=0.0))


@triton.jit
def far_rows(x, index, y, stride, B: tl.constexpr):
    rows = tl.load(index + tl.arange(0, B))
    offsets = rows * stride + 1
    p = x + offsets[:, None]  # here
    tl.store(y + tl.arange(0, B)[:, None], tl.load(p, mask=rows[:, None] < 0, other=0.0))


@triton.jit
def far_respelled(x, stride, WAY: tl.constexpr, B: tl.constexpr):
    i = tl.arange(0, B)
    offsets = i * stride
    if WAY == "shift":
        offsets = i << 29
    elif WAY == "reshape":
        offsets = tl.ravel(tl.reshape(offsets, (2, B // 2)))
    elif WAY == "join":
        offsets = tl.ravel(tl.join(i, offsets))
    elif WAY == "split":
        offsets, _ = tl.split(tl.join(offsets, i))
    elif WAY == "gather":
        offsets = tl.gather(offsets, i, 0)
    elif WAY == "negate":
        offsets = -(i - 2147483647 - 1)
    x + offsets  # here


@triton.jit
def hashed(y, B: tl.constexpr):
    i = tl.arange(0, B) + 123456789
    tl.store(y + tl.arange(0, B), i * 1664525 + 1013904223)


@triton.jit
def widened(x, y, stride, B: tl.constexpr):
    row = (tl.program_id(0) + 70000).to(tl.int64)
    tl.store(y + tl.arange(0, B), tl.load(x + row * stride + tl.arange(0, B), mask=row < 0, other=0.0))


@pytest.mark.parametrize("kernel", [far, far_rows])
def test_offset_overflow(kernel):
    """Catches products that wrap in a scalar, or in a block without a formula."""
    index = (torch.full((16,), 70000, dtype=torch.int32),) if kernel is far_rows else ()
    message = caught(Overflow, kernel, (1,), zeros(16), *index, zeros(16), 40000, 16)
    assert "int32" in message
    with trace(overflow=False):
        kernel[(1,)](zeros(16), *index, zeros(16), 40000, 16)


@pytest.mark.parametrize("way", ["product", "shift", "reshape", "join", "split", "gather", "negate"])
def test_offset_overflow_by_other_words(way):
    """Catches a shift that wraps, and offsets whose past is forgotten where their elements are moved."""
    caught(Overflow, far_respelled, (1,), zeros(16), 1 << 30, way, 16)


@pytest.mark.parametrize("kernel, args", [(hashed, ()), (widened, (zeros(16), 40000))])
def test_no_overflow(kernel, args):
    """Catches numbers that wrap on purpose and are no offsets, and int64 taken for int32."""
    y = zeros(16, dtype=torch.int32) if kernel is hashed else zeros(16)
    with trace():
        kernel[(1,)](*args[:1], y, *args[1:], 16)


@triton.jit
def asserts(x, N, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.device_assert(tl.program_id(0) < 2, "few programs")
    tl.device_assert(tl.load(x + i, mask=i < N) >= 0, "none below zero", mask=i < N)  # here


def test_device_assert_fires():
    """Catches asserts that stay off, as they do in the interpreter, and a mask that is ignored."""
    x = zeros(32)
    x[20] = -1
    asserts[(1,)](x, 32, 32)
    with trace():
        asserts[(2,)](x, 20, 32)
    assert "none below zero" in caught(AssertionFailed, asserts, (1,), x, 32, 32)
    with pytest.raises(AssertionFailed, match=r"program \(2, 0, 0\): few programs"), trace():
        asserts[(3,)](x, 20, 32)


# ------------------------------------------------------------------------------------- uninitialised memory


@triton.jit
def writes(y, N, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, 1.0, mask=i < N)


@triton.jit
def reads(x, y, N, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(x + i, mask=i < N, other=0.0))  # here


@triton.jit
def accumulates(y, B: tl.constexpr):
    tl.atomic_add(y + tl.arange(0, B), 1.0)  # here


def test_load_of_a_tensor_that_nothing_wrote():
    """Catches a gap that some store left, one element wide; what a kernel wrote may be read."""
    with trace():
        x = torch.empty(32)
        writes[(1,)](x, 31, 32)
        reads[(1,)](x, torch.empty(32), 31, 32)
    with pytest.raises(Uninitialized) as info, trace():
        x = torch.empty(32)
        writes[(1,)](x, 31, 32)
        reads[(1,)](x, torch.empty(32), 32, 32)
    assert line_of(reads, "# here") in str(info.value) and "element offsets 31" in str(info.value)


@triton.jit
def writes_halves(halves, B: tl.constexpr):
    tl.store(halves + 2 * tl.arange(0, B), 1.0)


def test_load_of_elements_of_which_a_part_was_written():
    """Catches an element that counts as written with its first byte."""
    with pytest.raises(Uninitialized, match="loads 32 elements"), trace():
        x = torch.empty(32)
        writes_halves[(1,)](x.view(torch.float16), 32)
        reads[(1,)](x, torch.empty(32), 32, 32)


@pytest.mark.parametrize(
    "make",
    [
        torch.empty_like,
        lambda x: x.new_empty(32),
        lambda x: x.new_empty_strided((32,), (1,)),
        lambda x: torch.empty_strided((32,), (1,)),
        lambda x: torch.empty_permuted((32,), (0,)),
    ],
)
def test_every_empty_tensor_is_poisoned(make):
    """Catches relatives of torch.empty, and an update in place of memory that was never zeroed."""
    with pytest.raises(Uninitialized, match=line_of(accumulates, "# here")), trace():
        accumulates[(1,)](make(zeros(32)), 32)
    with trace(uninitialized=False):
        accumulates[(1,)](make(zeros(32)), 32)


def test_torch_may_write_too():
    """Catches a tensor that torch filled after making it empty."""
    with trace():
        x = torch.empty(32)
        x.fill_(1.0)
        reads[(1,)](x, torch.empty(32), 32, 32)
        z = torch.empty(64)
        z[:32] = 1.0
        reads[(1,)](z[:32], torch.empty(32), 32, 32)


def test_inference_mode():
    """Catches a trace that asks torch for the version of a tensor that has none."""
    with trace(), torch.inference_mode():
        x = torch.empty(32)
        x.fill_(1.0)
        reads[(1,)](x, torch.empty(32), 32, 32)


def test_poison_by_hand():
    """Catches poison that spreads to the rest of the storage, and poison on what was there before."""
    whole = zeros(64)
    with trace() as t:
        t.poison(whole[32:])
        reads[(1,)](whole, torch.empty(32), 32, 32)
        with pytest.raises(Uninitialized):
            reads[(1,)](whole[32:], torch.empty(32), 32, 32)


def test_results_are_those_without_a_trace():
    """Catches a watched operation that does something else."""
    x = torch.randn(70)
    plain, watched = zeros(70), zeros(70)
    scale[(3,)](x, plain, 70, 32)
    with trace():
        scale[(3,)](x, watched, 70, 32)
    assert torch.equal(plain, watched)


@triton.jit
def waits(y_ptr):
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    tl.store(y_ptr, 1.0)


def test_waiting_for_the_previous_kernel():
    """Catches a traced launch that fails because it is one that overlaps with the launch before."""
    y = torch.full((1,), float("nan"))
    with trace() as t:
        waits[(1,)](y, launch_pdl=True)
    assert y == 1 and t.launches[0].bytes_stored == 4
