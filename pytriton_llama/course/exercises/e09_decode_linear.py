"""Exercises of notebook 09."""

from collections.abc import Iterator
from types import SimpleNamespace

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device
from pytriton_llama.course.traffic import traffic
from pytriton_llama.interpreter import trace


@exercise("09.a", "bytes of a token")
def bytes_of_token(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Weights and cache; a model of two layers, hidden_size 8, 12 in between, 4 heads and 2 key/value heads of 4."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")

    def config(*sizes: int, head_dim: int = 4, vocab_size: int = 100) -> SimpleNamespace:
        return SimpleNamespace(**dict(zip(names, sizes, strict=True)), head_dim=head_dim, vocab_size=vocab_size)

    q, kv, o, ffn = 16 * 8, 2 * 8 * 8, 8 * 16, 3 * 12 * 8
    layer = q + kv + o + ffn
    got = answer(config(0, 8, 12, 4, 2), 0)
    yield got != 4 * 100 * 8, "no layers: the logits' weight, once. Of the embedding a token reads one row"
    yield got == 2 * 100 * 8, "no layers: the logits' weight, vocab_size × hidden_size, 2 bytes a number"
    got = answer(config(1, 8, 12, 4, 2), 0)
    yield got != 2 * (800 + layer - q - o + 2 * 64), "heads · head_dim need not be hidden_size: q has so many rows"
    yield got == 2 * (800 + layer), "one layer, no cache: q, k, v, o, gate, up, down"
    yield answer(config(2, 8, 12, 4, 2), 0) == 2 * (800 + 2 * layer), "two layers, one set of logits"
    got = answer(config(2, 8, 12, 4, 2), 10)
    yield got != 2 * (800 + 2 * layer + 2 * 10 * 16 * 2), "the cache has key/value heads alone"
    yield got == 2 * (800 + 2 * layer + 2 * 10 * 8 * 2), "10 tokens of cache: keys and values of each, in each layer"
    got = answer(config(16, 2048, 8192, 32, 8, head_dim=64, vocab_size=128256), 8192)
    yield got == 2 * 1_235_746_816 + 8192 * 32768, "Llama-3.2-1B with 8192 tokens of cache"


@exercise("09.b", "int8 weights, a scale a row")
def int8_rows(answer: Answer) -> Iterator[tuple[bool, str]]:
    """x (K,) and scales (N,) float32, weight (N, K) int8; y (N,) float32."""
    draw = Draw(90)

    def case(N: int, K: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weight = draw(N, K, scale=40.0).round().clamp(-128, 127).to(torch.int8)
        return draw(K), weight, draw(N).abs() + 0.1

    def product(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return weight.double() @ x.double() * scales.double()

    x, weight, scales = case(16, 64)
    got = watched(answer, x, weight, torch.ones_like(scales))
    yield got.dtype == torch.float32 and got.shape == (16,), "y is (N,), float32"
    yield agrees(got, product(x, weight, torch.ones_like(scales))), "all scales 1: the weights are whole numbers"
    got = watched(answer, x, weight, scales)
    yield not agrees(got, product(x, weight, scales**2)), "the scale is in it twice"
    yield agrees(got, product(x, weight, scales)), "row n has its own scale, scales[n]"
    for N, K, hint in (
        (16, 300, "K = 300, no power of two: what is loaded past K must be 0"),
        (37, 64, "37 rows: a program's last rows may not be there"),
    ):
        given = case(N, K)
        yield agrees(watched(answer, *given), product(*given)), hint
    given = case(64, 512)
    yield agrees(watched(answer, *given), product(*given)), "64 rows of 512"
    with trace() as t:
        answer(*given)
    # The argument of which 64 · 512 numbers are read is the weight: a byte each.
    whole = [
        launch.loaded[name]
        for launch in t.launches
        for name in launch.loaded
        if len(launch.touched(name, "load")) == 64 * 512
    ]
    yield max(whole, default=0) <= 64 * 512, "the kernel is to read the weight in int8, once, not a wider copy"
    asked = t.bytes_loaded - 64 * 512
    # x once a program, of which there are at most as many as rows; scales once.
    yield asked <= 64 * 512 * 4 + 64 * 4, "a scale is loaded once a row: it factors out of the sum, as 1/rms does"


@exercise("09.c", "the likeliest token, no logits written")
def likeliest(answer: Answer) -> Iterator[tuple[bool, str]]:
    """x (K,), weight (N, K): the index of the largest of N products."""
    draw = Draw(91)

    def index(x: torch.Tensor, weight: torch.Tensor) -> int:
        return int((weight.double() @ x.double()).argmax())

    def one_hot(N: int, values: dict[int, float], rest: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits as given."""
        weight = torch.zeros(N, 64, device=device)
        weight[:, 0] = rest
        for row, value in values.items():
            weight[row, 0] = value
        x = torch.zeros(64, device=device)
        x[0] = 1.0
        return x, weight

    x, weight = one_hot(16, {5: 2.0}, 0.0)
    got = watched(answer, x, weight)
    yield int(got) != 2, "that is the largest product; asked for is where it stands"
    yield int(got) == 5, "16 rows, row 5 the largest"
    yield int(watched(answer, *one_hot(1000, {7: 2.0, 900: 3.0}, 0.0))) == 900, "1000 rows: the best of all programs'"
    given = one_hot(1001, {333: -1.0}, -2.0)  # odd: some lane is off, however many rows a program takes
    yield int(watched(answer, *given)) == 333, "all products negative: a lane that is off must not win with its 0"
    given = one_hot(1000, {40: 3.0, 41: 3.0, 901: 3.0}, 0.0)
    yield int(watched(answer, *given)) == 40, "of equals, the first"
    given = draw(300), draw(64, 300)
    yield int(watched(answer, *given)) == index(*given), "K = 300, no power of two"
    given = draw(128, dtype=torch.float16), draw(512, 128, dtype=torch.float16)
    yield int(watched(answer, *given)) == index(*given), "fp16"
    # At 16 rows a program: a best and an index, 8 or 12 bytes, for 32 bytes of logits.
    yield traffic(answer, *given).stored < 512 * 2, "the logits are written: only each program's best may leave it"
