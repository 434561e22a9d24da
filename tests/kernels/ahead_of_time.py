"""Compile what the wrappers would launch, for GPUs that are not here.

    python -m tests.kernels.ahead_of_time compile sm_80 gfx942
    python -m tests.kernels.ahead_of_time first sm_75
    python -m tests.kernels.ahead_of_time variants

Run as a process of its own, without TRITON_INTERPRET. Each wrapper is called on CPU tensors with the launch itself
replaced. ``compile``: the kernel is compiled, down to machine code, for the arguments that it would have been launched
with, and a line is printed for each kernel, tile and target, with the shared memory it takes and the registers it
spills; ``first``: one tile an operation, in fp16. ``variants``: nothing is compiled; a line is printed for each
operation, with the number of kernels that a sequence growing token by token would compile.
"""

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonTensorDescriptor
from triton.runtime.jit import JITFunction, mangle_type
from triton.tools.tensor_descriptor import TensorDescriptor

from pytriton_llama import kernels
from pytriton_llama.kernels import QuantizedWeight, arguments, tiles

# Bytes of shared memory that one program may have, by compute capability (CUDA programming guide, table of limits).
# An AMD MI300 has 64 KB of it (CDNA 3 instruction set, LDS).
SHARED = {
    "sm_75": 65536,
    "sm_80": 166912,
    "sm_86": 101376,
    "sm_89": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_120": 101376,
    "gfx942": 65536,
}
WITH_TMA = ("sm_90", "sm_100")
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}


def arch(target: str) -> tuple[int, int]:
    """The generation as tiles.py asks for it: (9, 0) for sm_90."""
    major, minor = divmod(int(target.removeprefix("sm_")), 10) if target.startswith("sm_") else (9, 4)
    return major, minor


Descriptor = TensorDescriptor | GluonTensorDescriptor


def type_of(a: torch.Tensor | Descriptor) -> str:
    return TYPES[a.dtype] if isinstance(a, torch.Tensor) else f"{TYPES[a.base.dtype]}{a.block_shape}"


def specialised(function: JITFunction, args: tuple, kwargs: dict) -> tuple[dict, dict, dict, dict]:
    """Signature, constants, attributes and options of a launch, as Triton sees it: 1 is a constant, multiples of 16
    are known to be such."""
    options = {name: kwargs[name] for name in ("num_warps", "num_stages", "maxnreg", "launch_pdl") if name in kwargs}
    values = dict(zip(function.arg_names, args, strict=False)) | kwargs
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(function.params):
        value, special = values[parameter.name], not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and special):
            signature[parameter.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], attributes[(i,)] = "*" + TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, TensorDescriptor):
            signature[parameter.name] = f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape}>"
        elif isinstance(value, GluonTensorDescriptor):
            signature[parameter.name] = mangle_type(value)
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and special:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes, options


def compile_launch(function: JITFunction, args: tuple, kwargs: dict, target: str) -> dict:
    signature, constants, attributes, options = specialised(function, args, kwargs)
    Source = GluonASTSource if function.is_gluon() else ASTSource
    source = Source(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    if target.startswith("gfx"):
        options = {k: v for k, v in options.items() if k not in ("maxnreg", "launch_pdl")}  # NVIDIA's
        compiled = triton.compile(source, target=GPUTarget("hip", target, 64), options=options)
        return {"shared": compiled.metadata.shared, "stack": 0}
    compiled = triton.compile(source, target=GPUTarget("cuda", int(target[3:]), 32), options=options)
    return {
        "shared": compiled.metadata.shared,
        "stack": stack_bytes(compiled.asm["cubin"]),
        "early": early_arrivals(compiled.asm["ptx"]),
    }


def early_arrivals(ptx: str) -> int:
    """Arrivals at a barrier in shared memory, by one thread for its group, before the group's warps have met after a
    wait: another warp may still be waiting, for a phase that is over before it looks."""
    steps = re.findall(r"mbarrier\.try_wait|bar\.sync|barrier\.sync|bar\.warp\.sync|mbarrier\.arrive\.shared", ptx)
    early, met = 0, True
    for step in steps:
        early += step == "mbarrier.arrive.shared" and not met
        met = "sync" in step if step != "mbarrier.arrive.shared" else met
    return early


def stack_bytes(cubin: bytes) -> int:
    """Bytes of local memory a thread: registers that did not fit."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"STACK:(\d+)", out.stdout + out.stderr)
    assert found, out.stdout + out.stderr
    return int(found[1])


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


# Columns that between them select every tile of rows: short, padded, whole, walked; starting anywhere (odd).
COLUMNS = (1, 512, 1024, 2048, 4096, 8192, 11008, 16384, 20480, 32768, 65536, 131072)
ODD_COLUMNS = (511, 1023, 4097, 8191, 16383, 50257)


# (M, N, K) that between them select every tile of a matrix product, whole and cut in pieces.
MATRICES = (
    (300, 768, 576),
    (4096, 4096, 4096),
    (3072, 3072, 3072),
    (1024, 4096, 4096),
    (1024, 1024, 1024),
    (64, 3072, 2048),
    (64, 8192, 2048),
    (64, 2048, 8192),
    (16, 4096, 4096),
    (1, 768, 576),
    (4096, 4095, 4096),
    (300, 767, 100),
    (1, 767, 100),
)


def calls(dtype: torch.dtype):
    """Every wrapper, over sizes that between them select every tile; one of each first."""
    for N in (4096, *COLUMNS, *ODD_COLUMNS):
        x, weight = empty(3, N, dtype=dtype), empty(N, dtype=dtype)
        yield from row_calls(x, weight)
    yield from row_calls(empty(4096, 3, dtype=dtype).t(), empty(4096, dtype=dtype))
    for M, N, K in MATRICES:
        x, weight, bias = empty(M, K, dtype=dtype), empty(N, K, dtype=dtype), empty(N, dtype=dtype)
        yield kernels.linear, (x, weight)
        yield kernels.linear, (x, weight, bias, "gelu_tanh", empty(M, N, dtype=dtype))
        yield kernels.swiglu, (x, weight, empty(N, K, dtype=dtype))
        yield kernels.fused_ffn, (x, empty(K, N, dtype=dtype), bias, empty(M, N, dtype=dtype), "silu", 0.5)
    for head_dim in (64, 16, 32, 80, 128, 256):
        q, k = empty(2, 6, 100, head_dim, dtype=dtype), empty(2, 2, 100, head_dim, dtype=dtype)
        angles = empty(100, head_dim, dtype=torch.float32)
        lengths = empty(2, dtype=torch.int32)
        yield kernels.rotary_embedding, (q, k, angles, angles)
        yield kernels.flash_attention, (q, k, k)
        yield kernels.flash_attention, (q, k, k, True, None, 40, True)
        yield (
            kernels.flash_attention_varlen,
            (q[0].transpose(0, 1), *(k[0].transpose(0, 1),) * 2, lengths, lengths, True),
        )
        many = empty(1, 2, 5000, head_dim, dtype=dtype)
        yield kernels.flash_attention, (many, many, many, True)
        # One sequence and more, short caches and long, within a decode step and by itself.
        for batch, max_length, after_qkv in ((1, 128, True), (2, 4096, False), (64, 128, True)):
            cache = empty(batch, 2, max_length, head_dim, dtype=dtype)
            lengths = empty(batch, dtype=torch.int32)
            q = empty(batch, 6, head_dim, dtype=dtype)
            yield kernels.flash_decoding, (q, cache, cache, lengths, None, None, after_qkv)
    yield from decode_calls(dtype)


# (heads, kv_heads, head_dim, intermediate_size) of hidden sizes that between them select every tile of a decode step.
DECODING = ((9, 3, 64, 1536), (32, 8, 64, 8192), (32, 8, 128, 14336))


def decode_calls(dtype: torch.dtype):
    for M in (1, 16, 64):
        for heads, kv_heads, head_dim, inter in DECODING:
            hidden = heads * head_dim
            x, weight, norm = (
                empty(M, hidden, dtype=dtype),
                empty(hidden, hidden, dtype=dtype),
                empty(hidden, dtype=dtype),
            )
            gate, down = empty(inter, hidden, dtype=dtype), empty(hidden, inter, dtype=dtype)
            cache, angles = empty(M, kv_heads, 128, head_dim, dtype=dtype), empty(128, head_dim, dtype=torch.float32)
            qkv = empty((heads + 2 * kv_heads) * head_dim, hidden, dtype=dtype)
            lengths = empty(M, dtype=torch.int32)
            yield kernels.decode_linear, (x, weight, norm, None, 1e-5, x)
            yield kernels.decode_linear, (x, gate, None, norm, 1e-5, None, gate)
            yield kernels.decode_linear, (empty(M, inter, dtype=dtype), down)
            yield kernels.decode_linear, (x, empty(32768, hidden, dtype=dtype), None, norm)
            yield kernels.decode_qkv, (x, qkv, None, norm, 1e-5, angles, angles, lengths, cache, cache)
    yield from quantized_calls(dtype)
    flags = [empty(2, dtype=t) for t in (torch.float32, torch.int64, *(torch.int32,) * 4)]
    embedding, tokens = empty(5000, 576, dtype=dtype), empty(4, 2, dtype=torch.int32)
    state = (*flags[:5], flags[5], tokens, flags[5])
    for matrix in (embedding, quantized(5000, 576, 8, 576)):
        yield kernels.next_token, (empty(2, 5000, dtype=dtype), *state, matrix, empty(2, 576, dtype=dtype))


def quantized(N: int, K: int, bits: int, group_size: int, minima: bool = False) -> QuantizedWeight:
    packed, scales = empty(N, K * bits // 32, dtype=torch.int32), empty(N, K // group_size, dtype=torch.float16)
    return QuantizedWeight(packed, scales, scales if minima else None, bits, group_size)


def quantized_calls(dtype: torch.dtype):
    """Rows of one and several, whole groups and parts, with minima and without, in either number of bits."""
    for heads, kv_heads, head_dim, inter in DECODING:
        hidden = heads * head_dim
        for bits, group_size, minima in ((4, 64, False), (8, 0, False), (4, 32, True)):
            for M in (1, 16, 64):
                x, norm = empty(M, hidden, dtype=dtype), empty(hidden, dtype=dtype)
                square, gate = (quantized(n, hidden, bits, group_size or hidden, minima) for n in (hidden, inter))
                down = quantized(hidden, inter, bits, group_size or inter, minima)
                qkv = quantized((heads + 2 * kv_heads) * head_dim, hidden, bits, group_size or hidden, minima)
                cache = empty(M, kv_heads, 128, head_dim, dtype=dtype)
                angles, lengths = empty(128, head_dim, dtype=torch.float32), empty(M, dtype=torch.int32)
                yield kernels.quantized_linear, (x, square, None, None, 1e-5, x)
                yield kernels.quantized_linear, (x, gate, None, norm, 1e-5, None, gate)
                yield kernels.quantized_linear, (empty(M, inter, dtype=dtype), down)
                yield kernels.quantized_qkv, (x, qkv, None, norm, 1e-5, angles, angles, lengths, cache, cache)
            yield kernels.dequantize, (square, dtype)


def row_calls(x: torch.Tensor, weight: torch.Tensor):
    yield kernels.softmax, (x,)
    yield kernels.rms_norm, (x, weight)
    yield kernels.add_rms_norm, (x, x, weight)
    yield kernels.layer_norm, (x, weight, weight)
    yield kernels.silu_mul, (x, x)
    yield kernels.silu_mul, (x[:, ::2], x[:, ::2])


square, another = empty(2048, 2048, dtype=torch.float16), empty(2048, 2048, dtype=torch.float16)


def growing(op: str, length: int) -> None:
    """One call of an operation that sees one token more each time."""
    x, wide = empty(length, 64, dtype=torch.float16), empty(1, length, dtype=torch.float16)
    weight = empty(64, dtype=torch.float16)
    q = empty(1, 2, length, 64, dtype=torch.float16)
    wide_x = empty(length, 2048, dtype=torch.float16)
    angles = empty(length, 64, dtype=torch.float32)
    {
        "softmax": lambda: kernels.softmax(wide),  # a row of scores
        "rms_norm": lambda: kernels.rms_norm(x, weight),
        "add_rms_norm": lambda: kernels.add_rms_norm(x, x, weight),
        "layer_norm": lambda: kernels.layer_norm(x, weight, weight),
        "silu_mul": lambda: kernels.silu_mul(x, x),
        "linear": lambda: kernels.linear(wide_x, square),
        "swiglu": lambda: kernels.swiglu(wide_x, square, another),
        "rotary_embedding": lambda: kernels.rotary_embedding(q, q, angles, angles),
    }[op]()


GROWING = ("softmax", "rms_norm", "add_rms_norm", "layer_norm", "silu_mul", "rotary_embedding", "linear", "swiglu")
LENGTHS = range(1, 8193)


def as_on(target: str, launch) -> None:
    """Wrappers take CPU tensors for tensors on that GPU from now on, and call ``launch`` instead of launching."""
    for cached in (
        tiles.linear,
        tiles.swiglu,
        tiles.decode_linear,
        tiles._quantized_linear,
        tiles.dependent,
        tiles.multiprocessors,
    ):
        cached.cache_clear()
    tiles.interpreted = lambda: False
    tiles.capability = lambda _: arch(target)
    arguments.has_gluon = lambda _: target == "sm_90"
    arguments.has_tma = tiles.has_tma = lambda _: target in WITH_TMA
    arguments.check_device = lambda *_: None
    torch.cuda.get_device_properties = lambda _: type("Properties", (), {"multi_processor_count": 132})
    JITFunction.run = lambda function, *args, grid, warmup, **kwargs: launch(function, args, kwargs)


def compile_all(target: str, dtypes: list[torch.dtype], first_only: bool) -> None:
    seen: set[str] = set()
    wrapper = None

    def launch(function: JITFunction, args: tuple, kwargs: dict) -> None:
        pointers = sorted({type_of(a) for a in args if isinstance(a, torch.Tensor | Descriptor)})
        absent = [name for name, a in zip(function.arg_names, args, strict=False) if a is None]
        key = f"{target} {function.fn.__name__} {'/'.join(pointers)} without {'/'.join(absent)} {kwargs}"
        if key in seen or (first_only and wrapper in wrappers):
            return
        seen.add(key)
        try:
            result = compile_launch(function, args, kwargs, target)
        except Exception as error:
            result = {"error": repr(error)[:500]}
        print(json.dumps({"key": key, "limit": SHARED[target], **result}), flush=True)

    as_on(target, launch)
    for dtype in dtypes:
        wrappers: set = set()
        for wrapper, values in calls(dtype):
            wrapper(*values)
            wrappers.add(wrapper)


def count_variants() -> None:
    found: dict[str, set] = {op: set() for op in GROWING}
    op = GROWING[0]
    as_on("sm_90", lambda function, args, kwargs: found[op].add(repr((function, *specialised(function, args, kwargs)))))
    for op in GROWING:
        for length in LENGTHS:
            growing(op, length)
        print(json.dumps({"op": op, "variants": len(found[op])}), flush=True)


if __name__ == "__main__":
    mode, *targets = sys.argv[1:]
    if mode == "variants":
        count_variants()
    for name in targets:
        sixteen_bits = [torch.float16] if name == "sm_75" else [torch.float16, torch.bfloat16]
        compile_all(name, {"compile": [*sixteen_bits, torch.float32], "first": [torch.float16]}[mode], mode == "first")
