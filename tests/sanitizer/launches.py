"""Launch the kernels of one group at awkward shapes: ``python -m tests.sanitizer.launches rows``.

Prints how often each was launched, as JSON. No result is looked at: that is the other suites' part.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator

import torch
import triton

from pytriton_llama import kernels
from tests.torture import many
from tests.torture.cases import OPERATIONS
from tests.torture.layouts import sliced
from tests.torture.operation import Arguments, Operation, cast, draw, put, tensors

GROUPS = {
    "rows": ("softmax", "rms_norm", "add_rms_norm", "layer_norm", "silu_mul", "rotary_embedding", "next_token"),
    "products": ("linear", "swiglu", "fused_ffn"),
    "attention": ("flash_attention", "flash_attention_varlen", "flash_decoding"),
    "decode": ("decode_linear", "decode_qkv"),
    "quantized": ("quantized_linear", "quantized_qkv", "dequantize"),
}
LENGTHS = (1, 129)


def runs(group: str, device: str) -> Iterator[tuple[Operation, Arguments]]:
    """One row or element, lengths that no tile divides, parts of larger tensors, in both widths of numbers; then sizes
    of many programs."""
    for operation in OPERATIONS.values():
        if operation.function not in GROUPS[group]:
            continue
        for dtype in (torch.float16, torch.float32):
            for length in LENGTHS:
                yield operation, cast(draw(operation, length), dtype, device)
        arguments = cast(draw(operation, LENGTHS[-1]), torch.bfloat16, device)
        for name, t in tensors(arguments).items():
            if operation.accepts(name, sliced(t)):
                arguments = put(arguments, name, sliced(t))
        yield operation, arguments
    for operation in many.MANY.values():
        if operation.function in GROUPS[group]:
            arguments = many.draw(operation, torch.float16, "cpu")
            yield operation, cast(arguments, torch.float16, device)


def main(group: str) -> None:
    launched: Counter[str] = Counter()
    triton.knobs.runtime.launch_enter_hook.add(lambda metadata: launched.update([metadata.get()["name"]]))
    for operation, arguments in runs(group, "cuda"):
        operation.run(kernels, arguments)
        torch.cuda.synchronize()
    print(json.dumps(launched))


if __name__ == "__main__":
    main(sys.argv[1])
