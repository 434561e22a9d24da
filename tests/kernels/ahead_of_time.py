"""Compile what the wrappers would launch, for GPUs that are not here.

    python -m tests.kernels.ahead_of_time 75 80

Run as a process of its own, without TRITON_INTERPRET. Each wrapper is called on CPU tensors with the launch itself
replaced: the kernel is compiled, down to machine code, for the arguments that it would have been launched with. A line
is printed for each kernel, tile and target, with the shared memory it takes and the registers it spills.
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
from triton.runtime.jit import JITFunction

from pytriton_llama import kernels
from pytriton_llama.kernels import arguments, tiles

# Bytes of shared memory that one program may have, by compute capability (CUDA programming guide, table of limits).
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32"}


def compile_launch(function: JITFunction, args: tuple, kwargs: dict, capability: int) -> dict:
    """Compile one launch as Triton would: 1 is a constant, multiples of 16 are known to be such."""
    options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
    values = dict(zip(function.arg_names, args, strict=False)) | kwargs
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(function.params):
        value = values[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], attributes[(i,)] = "*" + TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {"shared": compiled.metadata.shared, "stack": stack_bytes(compiled.asm["cubin"])}


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


def calls(dtype: torch.dtype):
    """Every wrapper, over sizes that between them select every tile."""

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    for N in (1, 512, 1000, 2048, 4097, 16384, tiles.MAX_ROW_BLOCK, 2 * tiles.MAX_ROW_BLOCK):
        x, weight = empty(3, N), empty(N)
        yield kernels.softmax, (x,)
        yield kernels.rms_norm, (x, weight)
        yield kernels.add_rms_norm, (x, x, weight)
        yield kernels.layer_norm, (x, weight, weight)
        yield kernels.silu_mul, (x, x)
    for M in (1, 64, 300):
        for K in (576, 100):
            x, weight = empty(M, K), empty(768, K)
            yield kernels.linear, (x, weight, empty(768), "gelu_tanh", empty(M, 768))
            yield kernels.swiglu, (x, weight, weight)
            yield kernels.fused_ffn, (x, weight.t(), None, None, "silu", 0.5)
    for head_dim in (16, 32, 64, 80, 128, 256):
        q, k = empty(2, 6, 100, head_dim), empty(2, 2, 100, head_dim)
        angles = empty(100, head_dim, dtype=torch.float32)
        lengths = empty(2, dtype=torch.int32)
        yield kernels.rotary_embedding, (q, k, angles, angles)
        yield kernels.flash_attention, (q, k, k)
        yield kernels.flash_attention, (q, k, k, True, None, 40, True)
        yield kernels.flash_decoding, (q[:, :, 0], k, k, lengths)


def main(capabilities: list[int]) -> None:
    tiles.interpreted = lambda: False  # as on a GPU machine
    arguments.check_device = lambda *_: None
    torch.cuda.get_device_properties = lambda _: type("Properties", (), {"multi_processor_count": 132})
    seen: set[str] = set()

    def record(function: JITFunction, *args, grid, warmup, **kwargs) -> None:
        pointers = sorted({TYPES[a.dtype] for a in args if isinstance(a, torch.Tensor)})
        for capability in capabilities:
            key = f"sm_{capability} {function.fn.__name__} {'/'.join(pointers)} {kwargs}"
            if key not in seen:
                seen.add(key)
                try:
                    result = compile_launch(function, args, dict(kwargs), capability)
                except Exception as error:
                    result = {"error": repr(error)[:500]}
                print(json.dumps({"key": key, "limit": SHARED[capability], **result}), flush=True)

    JITFunction.run = record
    for dtype in (torch.float16, torch.float32):
        for wrapper, values in calls(dtype):
            wrapper(*values)


if __name__ == "__main__":
    main([int(c) for c in sys.argv[1:]])
