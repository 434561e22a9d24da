"""Faults in a decode step's own kernels."""

FAULTS = {
    "kernels/decode_linear.py": [
        (
            "decode_linear: eps outside of the root",
            "scale = tl.rsqrt(tl.sum(squares) / K + eps)",
            "scale = tl.rsqrt(tl.sum(squares) / K) + eps",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_linear, some rows: eps forgotten",
            "axis=0) / K + eps)[None, :]",
            "axis=0) / K)[None, :]",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_linear: the weight is read past K",
            "mask = mask_rows[:, None] & (offs_k < K)[None, :]",
            "mask = mask_rows[:, None] & (offs_k >= 0)[None, :]",
            "kernels/test_bounds.py::test_decode_step",
        ),
        (
            "decode_linear: gate and up swapped",
            "y = y * tl.sigmoid(y) * up",
            "y = up * tl.sigmoid(up) * y",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_qkv: the cache's position is off by one",
            "other=0).to(tl.int64) - 1",
            "other=0).to(tl.int64)",
            "kernels/test_decode_linear.py::test_qkv",
        ),
        (
            "decode_qkv: a sequence of length 0 writes before its cache",
            "mask = (position >= 0)[:, None] & mask_n[None, :]",
            "mask = (position >= -1)[:, None] & mask_n[None, :]",
            "kernels/test_decode_linear.py::test_qkv",
        ),
        (
            "decode_qkv: the first half's bias for both",
            "bias_ptr + rows + HALF",
            "bias_ptr + rows",
            "kernels/test_decode_linear.py::test_qkv",
        ),
        (
            "decode_qkv: v written behind k's heads",
            "of_k = mask & ((k_heads >= 0) & (k_heads < kv_heads))[None, :]",
            "of_k = mask & (k_heads >= 0)[None, :]",
            "kernels/test_bounds.py::test_decode_step",
        ),
        (
            "decode_linear, some rows: up without the norm's weight",
            "up = (up * norm).to(x.dtype)",
            "up = up.to(x.dtype)",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_linear, some rows: the norm's weight on x, which overflows",
            "weight = (weight * norm).to(x.dtype)",
            "weight, x = weight, (x * norm).to(x.dtype)",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_linear, many rows: the bias is left out",
            "return linear(n, weight, bias, residual=residual)",
            "return linear(n, weight, residual=residual)",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_linear, many rows: the residual is left out",
            "y = swiglu(n, weight, up_weight)\n        return y if residual is None else y + residual",
            "return swiglu(n, weight, up_weight)",
            "kernels/test_decode_linear.py::test_against_fp64",
        ),
        (
            "decode_qkv: k's first head written behind q's",
            "heads[None, :]) * (2 * HALF) + offs_d[None, :]\n    of_q = mask & (heads < q_heads)[None, :]",
            "heads[None, :]) * (2 * HALF) + offs_d[None, :]\n    of_q = mask & (heads <= q_heads)[None, :]",
            "kernels/test_bounds.py::test_decode_step",
        ),
        (
            "decode_qkv, many rows: the bias is left out",
            "x, K = linear(rms_norm(x, norm_weight, eps), weight, bias), N",
            "x, K = linear(rms_norm(x, norm_weight, eps), weight), N",
            "kernels/test_decode_linear.py::test_qkv",
        ),
        (
            "decode_qkv: v's second half turns as well",
            "tl.store(v_ptrs + HALF, high.to",
            "tl.store(v_ptrs + HALF, turned_high.to",
            "kernels/test_decode_linear.py::test_qkv",
        ),
        (
            "decode_qkv: v's cache may have any last stride",
            "need(k_cache.stride(3) == v_cache.stride(3) == 1",
            "need(k_cache.stride(3) == 1",
            "kernels/test_decode_linear.py::test_bad_arguments_are_named",
        ),
    ],
}
