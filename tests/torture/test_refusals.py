"""Every operand of every public operation, wrong: refused in one line that names the operation, before a launch."""

import dataclasses

import pytest
import torch

from pytriton_llama import interpreter, kernels
from pytriton_llama.kernels.quantized_weight import pack
from tests.kernels.test_decode_linear import qkv_inputs
from tests.kernels.test_next_token import four
from tests.kernels.test_quantized_linear import draw as draw_quantized
from tests.torture.cases import OPERATIONS
from tests.torture.operation import cast, draw, put, tensors

LENGTH = 17
WRONG = {
    "on another device": lambda t: t.to("meta"),
    "of another dtype": lambda t: t.to(torch.float64 if t.is_floating_point() else torch.int16),
    "with a dimension more": lambda t: t[None],
    "without dimensions": lambda t: t.flatten()[0],
    "a column short": lambda t: t[..., :-1].contiguous(),
    "without columns": lambda t: t[..., :0],
}
SHAPES = list(WRONG)[2:]
# What is none of these, as documented: rows that nothing else must fit, and any number of tokens to stop at.
RIGHT = {("softmax", "x"): SHAPES, ("next_token", "stop_tokens"): SHAPES[2:]} | {
    (function, "x"): SHAPES[:1] for function in ("rms_norm", "layer_norm", "swiglu")
}


def wrong_operands() -> list:
    return [
        pytest.param(op, name, wrong, id=f"{op}-{name}-{wrong}")
        for op, operation in OPERATIONS.items()
        for name in tensors(draw(operation, LENGTH))
        for wrong in WRONG
        if wrong not in RIGHT.get((operation.function, name), ())
    ]


@pytest.mark.parametrize(("op", "name", "wrong"), wrong_operands())
def test_wrong_operand(op, name, wrong, device):
    """Catches a condition left out, turned round or joined to another by the wrong word: memory that is not the
    tensor's, another's rows taken for its own, an error from inside of torch or Triton."""
    operation = OPERATIONS[op]
    arguments = cast(draw(operation, LENGTH), torch.float32, device)
    with pytest.raises((TypeError, ValueError), match=rf"^({operation.function}: |packed is )"):
        operation.run(kernels, put(arguments, name, WRONG[wrong](tensors(arguments)[name])))


@pytest.mark.skipif(not interpreter.enabled(), reason="of a GPU only one before sm_80 has no bfloat16")
def test_bfloat16_where_it_is_wrong(randn):
    """Catches a dtype that this process cannot do right."""
    interpreter.disable()  # what is left is Triton's own
    try:
        with pytest.raises(TypeError, match="softmax: no bfloat16"):
            kernels.softmax(randn(3, 8, dtype=torch.bfloat16))
        kernels.softmax(randn(3, 8, dtype=torch.float16))
    finally:
        interpreter.enable()


def test_nothing_to_take_it_from(device, randn):
    """Catches a division by heads, columns or groups that are none, and a choice among no tokens."""
    q, none = randn(2, 4, 16), randn(2, 0, 9, 16)
    for match, refused in {
        "multiple of key/value heads": lambda: kernels.flash_attention(randn(2, 4, 9, 16), none, none),
        "decoding.*multiple of key/value heads": lambda: kernels.flash_decoding(
            q, none, none, torch.ones(2, dtype=torch.int32, device=device)
        ),
        "cu_seqlens": lambda: kernels.flash_attention_varlen(
            q, q, q, *[torch.empty(0, dtype=torch.int32, device=device)] * 2
        ),
        "vocabulary is empty": lambda: kernels.next_token(
            randn(4, 0), **four(device), embedding=randn(0, 8), x=randn(4, 8)
        ),
        "x \\(3, 8\\)": lambda: kernels.next_token(randn(4, 30), **four(device), embedding=randn(30, 8), x=randn(3, 8)),
        "head_dim is 0": lambda: kernels.decode_qkv(*qkv_inputs(randn, torch.float32, 2, 4, 2, 0)),
        "no dimension": lambda: kernels.layer_norm(randn(1)[0], randn(1), randn(1)),
        "one dimension at least": lambda: kernels.silu_mul(randn(1)[0], randn(1)[0]),
    }.items():
        with pytest.raises(ValueError, match=match):
            refused()


def test_forms_of_packed_weights(device, randn):
    """Catches other bits, numbers that fill no chunk, and groups that no chunk fills or that a row does not."""
    weight = draw_quantized(8, 128, (4, 32, False), device)
    for group in (0, 16, 48, 96):
        with pytest.raises(ValueError, match="groups of"):
            kernels.quantized_linear(randn(3, 128), dataclasses.replace(weight, group_size=group))
    for bits in (0, 3, 16):
        with pytest.raises(ValueError, match="known: 4, 8"):
            dataclasses.replace(weight, bits=bits)
    for shape in ((8, 100), (128,)):
        with pytest.raises(ValueError, match="rows of a multiple of 32"):
            pack(torch.ones(shape, dtype=torch.uint8), 4)


@pytest.mark.parametrize("dropout_p", [-0.1, 1.0, float("nan")])
def test_dropout_of_no_share(dropout_p, randn):
    """Catches a division by 1 − 1, and a bound on one side only."""
    with pytest.raises(ValueError, match="dropout_p is"):
        kernels.fused_ffn(randn(3, 8), randn(8, 5), dropout_p=dropout_p)
