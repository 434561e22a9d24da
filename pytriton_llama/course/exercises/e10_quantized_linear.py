"""Exercises of notebook 10."""

from collections.abc import Iterator
from types import SimpleNamespace

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device
from pytriton_llama.interpreter import trace
from pytriton_llama.kernels.quantized_weight import unpack

FIELDS, CHUNK = 16, 64  # of 2 bits


@exercise("10.a", "bytes of a token in 4 bits")
def bytes_of_token(answer: Answer) -> Iterator[tuple[bool, str]]:
    """A model of hidden_size 128, 256 in between, 4 heads and 2 key/value heads of 64, a vocabulary of 1000."""

    def config(num_hidden_layers: int) -> SimpleNamespace:
        return SimpleNamespace(
            num_hidden_layers=num_hidden_layers,
            hidden_size=128,
            intermediate_size=256,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            vocab_size=1000,
        )

    logits = 1000 * 128 + 1000 * 2
    shapes = ((512, 128), (128, 256), (512, 128), (128, 256))
    numbers, rows = sum(n * k for n, k in shapes), sum(n for n, _ in shapes)
    got = answer(config(0), 4, 32)
    yield got not in (1000 * 128 // 2 + 2 * 1000 * 4, 1000 * 128 // 2 + 2 * 1000), "the logits' weight stays in 8 bits"
    yield got != 1000 * 128, "a row of the logits' weight has a scale, too: 2 bytes"
    yield got == logits, "no layers: vocab_size × hidden_size bytes, and 2 for each row's scale"
    got = answer(config(1), 4, 32)
    yield got != logits + numbers // 2, "scales are read as well: one a group"
    yield got != logits + numbers // 2 + numbers // 32 * 4, "a scale is a float16: 2 bytes"
    yield got == logits + numbers // 2 + numbers // 32 * 2, "one layer: q, k, v, o, gate, up, down, groups of 32"
    got = answer(config(1), 4, 32, True)
    yield got == logits + numbers // 2 + numbers // 32 * 4, "a minimum is as large as a scale, and as frequent"
    got = answer(config(2), 8, 128)
    yield got == logits + 2 * (numbers + numbers // 128 * 2), "two layers in 8 bits, groups of 128"
    got = answer(config(1), 4, None)
    yield got != logits + numbers // 2 + numbers // 128 * 2, "rows have hidden_size numbers in some matrices only"
    yield got == logits + numbers // 2 + rows * 2, "group_size None: as many scales as rows, whatever their length"


@exercise("10.b", "Q4_0's blocks in our order")
def from_q4_0(answer: Answer) -> Iterator[tuple[bool, str]]:
    """blocks uint8 (N, K / 32, 18); packed int32 (N, K / 8), scales float16 (N, K / 32)."""
    draw = Draw(100)

    def case(N: int, G: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Blocks, and the q and scales in them."""
        q = torch.randint(0, 16, (N, G, 32), generator=draw.generator)
        scales = (0.1 * draw(N, G)).half().cpu()
        numbers = (q[..., :16] | q[..., 16:] << 4).to(torch.uint8)
        blocks = torch.cat((scales[..., None].view(torch.uint8), numbers), 2)
        return blocks.to(device), q.flatten(1).to(torch.uint8).to(device), scales.to(device)

    blocks, q, scales = case(3, 1)
    packed, got = answer(blocks)
    good = (packed.dtype, got.dtype, packed.shape, got.shape) == (torch.int32, torch.float16, (3, 4), (3, 1))
    yield good, "packed is int32 (N, K / 8), scales are float16 (N, K / 32)"
    flipped = scales.view(torch.uint8).flip(1).view(torch.float16)
    yield not torch.equal(got, flipped), "the scale's low byte comes first, as torch itself has it"
    yield torch.equal(got, scales), "one block a row: the first two bytes are the scale"
    given = unpack(packed, 4)
    pairs = torch.stack((q[:, :16], q[:, 16:]), 2).flatten(1)
    yield not torch.equal(given, pairs), "byte i has weights i and i + 16, not neighbours"
    swapped = torch.cat((q[:, 16:], q[:, :16]), 1)
    yield not torch.equal(given, swapped), "weight i is in the low four bits"
    yield torch.equal(given, q), "one block a row: pack takes q, 0 to 15, in the order of k"
    for N, G in ((1, 5), (37, 4)):
        blocks, q, scales = case(N, G)
        packed, got = answer(blocks)
        yield packed.shape == (N, 4 * G) and torch.equal(unpack(packed, 4), q), f"({N}, {G}) blocks: the numbers"
        yield got.shape == (N, G) and torch.equal(got, scales), f"({N}, {G}) blocks: the scales"


@exercise("10.c", "a kernel for 2 bits")
def two_bits(answer: Answer) -> Iterator[tuple[bool, str]]:
    """x (K,) float32, packed int32 (N, K / 16), scales float16 (N, K / group_size); y (N,) float32."""
    draw = Draw(101)

    def packed_from(q: torch.Tensor) -> torch.Tensor:
        words = (q.unflatten(1, (-1, FIELDS, 4)).long() << 2 * torch.arange(FIELDS)[:, None]).sum(2).flatten(1)
        return torch.where(words < 2**31, words, words - 2**32).to(torch.int32).to(device)

    def case(N: int, K: int, group_size: int, most: int = 4) -> tuple:
        """The arguments, and what is expected."""
        q = torch.randint(0, most, (N, K), generator=draw.generator)
        x, scales = draw(K), (draw(N, K // group_size).abs() + 0.1).half()
        weight = (q.to(device) - 2) * scales.double().repeat_interleave(group_size, 1)
        return (x, packed_from(q), scales, group_size), weight @ x.double()

    given, expected = case(16, 64, 64, most=2)
    got = watched(answer, *given)
    yield got.dtype == torch.float32 and got.shape == (16,), "y is (N,), float32"
    x, _, scales, _ = given
    yield not agrees(got, expected + 2 * scales[:, 0].double() * x.double().sum()), "a weight is scale · (q − 2)"
    yield agrees(got, expected), "one chunk, all q 0 or 1: field j of word i is weight 4j + i"
    given, expected = case(16, 64, 64)
    yield agrees(watched(answer, *given), expected), "q up to 3: the last field's high bit is the word's sign"
    given, expected = case(16, 256, 64)
    yield agrees(watched(answer, *given), expected), "four chunks, each a group: chunk c has the scale scales[n, c]"
    given, expected = case(16, 512, 256)
    yield agrees(watched(answer, *given), expected), "groups of 256: four chunks share a scale"
    for N, K, group_size, hint in (
        (16, 576, 64, "K = 576, nine chunks: what is loaded past K must not count"),
        (37, 128, 128, "37 rows: a program's last rows may not be there"),
        (64, 1024, 1024, "64 rows of 1024, a scale a row"),
    ):
        given, expected = case(N, K, group_size)
        yield agrees(watched(answer, *given), expected), hint
    with trace() as t:
        answer(*given)
    wide = [name for launch in t.launches for name in launch.loaded if len(launch.touched(name, "load")) == 64 * 1024]
    yield not wide, "the kernel is to read words of 16 weights, not weights that torch unpacked"
    # x once a program, of which there are at most as many as rows; a scale at most once a chunk.
    most = 64 * 1024 // 4 + 64 * 1024 * 4 + 64 * 16 * 2
    yield t.bytes_loaded <= most, "each word is loaded once, each scale once a chunk at most"
