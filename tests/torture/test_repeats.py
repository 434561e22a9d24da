"""The same bits each time: again and again, two streams at once, one launch close behind another, and after the memory
was full. On a GPU: an interpreter runs one program after the other."""

import gc

import pytest
import torch

from pytriton_llama import Llama, kernels
from pytriton_llama.errors import LlamaError
from tests.kernels.test_quantized_linear import draw as draw_quantized
from tests.llama.tiny import TINY
from tests.torture.many import MANY, draw
from tests.torture.test_surroundings import same

pytestmark = pytest.mark.gpu
MB = 1 << 20


@pytest.fixture(autouse=True)
def freed():
    yield
    gc.collect()
    torch.cuda.empty_cache()


def keep_busy() -> None:
    """Milliseconds of work on this stream, during which the host gets ahead: what it launches then lies close."""
    torch.use_deterministic_algorithms(False)  # whose NaN in new memory would be launches in between
    matrix = torch.ones(8192, 8192, device="cuda")
    matrix @ matrix


@pytest.mark.parametrize("op", MANY)
def test_a_hundred_repeats(op, dtype, device):
    """Catches sums in the order in which programs happen to finish, a counter that is not put back, and a launch that
    reads what the one before it has yet to write."""
    operation = MANY[op]
    arguments = draw(operation, dtype, device)
    expected = operation.run(kernels, arguments)
    keep_busy()
    for results in [operation.run(kernels, arguments) for _ in range(100)]:
        assert same(results, expected)


@pytest.mark.parametrize("op", MANY)
def test_two_streams(op, dtype, device):
    """Catches counters, or room for partial sums, that launches on two streams share."""
    operation = MANY[op]
    inputs = [draw(operation, dtype, device, seed) for seed in (1, 2)]
    expected = [operation.run(kernels, arguments) for arguments in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    for stream in streams:
        with torch.cuda.stream(stream):
            keep_busy()
    made: list[list] = [[], []]
    for _ in range(50):
        for results, stream, arguments in zip(made, streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append(operation.run(kernels, arguments))
    torch.cuda.synchronize()
    for one, right in zip(made, expected, strict=True):
        assert all(same(results, right) for results in one)


@pytest.mark.parametrize("M", [1, 3])
def test_a_weight_just_made(M):
    """Catches a weight that is read before the launch that writes it has finished."""
    packed = [draw_quantized(512, 1024, (4, 32, False), "cuda", seed) for seed in range(20)]
    x = torch.randn(M, 1024, dtype=torch.float16, device="cuda")
    expected = [kernels.decode_linear(x, weight.dequantize(x.dtype)) for weight in packed]
    keep_busy()
    made = [kernels.decode_linear(x, kernels.dequantize(weight, x.dtype)) for weight in packed * 5]
    assert same(made, expected * 5)


SHAPE = TINY | {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize("left", [0, 4, 12, 24, 48, 64, 80, 96, 128])
def test_out_of_memory(left):
    """Catches an engine that is lost once its memory was full, in the middle of a capture or anywhere else, a traceback
    instead of a line, and another answer afterwards."""
    llama = Llama.from_config(SHAPE, dtype="float32", seed=1)
    prompts = [[i % 4000 for i in range(2500)], [5, 6, 8]]
    expected = llama.generate(prompts, max_new_tokens=16)
    llama.engine.release()
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + left * MB) / total)
    try:
        assert llama.generate(prompts, max_new_tokens=16) == expected
    except LlamaError as error:
        assert "\n" not in str(error) and "memory" in str(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for _ in range(3):
        assert llama.generate(prompts, max_new_tokens=16) == expected
