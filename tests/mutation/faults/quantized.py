"""Faults in weights in 8 and 4 bits."""

FAULTS = {
    "kernels/quantized_linear.py": [
        (
            "dequantize: a number of weights in 32 bits",
            "mask=offs // CHUNK < count",
            "mask=offs < count * CHUNK",
            "kernels/test_quantized_linear.py::test_dequantize_more_than_32_bits_count",
        ),
        (
            "quantized_linear: the scale of the first group for all",
            "scales, minima = next_scales, next_minima\n        if HAS_UP",
            "minima = next_minima\n        if HAS_UP",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: the scale of the previous group",
            "next_scales, next_minima = groups_at(weight, rows, mask_rows, k + BLOCK_K, K, GROUP)",
            "next_scales, next_minima = groups_at(weight, rows, mask_rows, k, K, GROUP)",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: minima times the wrong sum",
            "y += minima.to(tl.float32) * x_sum[:, None]",
            "y += minima.to(tl.float32) * offset[:, None]",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: the first field's excess for all",
            "offset += excess(j, HAS_MINIMA, BITS, PER_SHIFT) * x",
            "offset += excess(0, HAS_MINIMA, BITS, PER_SHIFT) * x",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: x is summed up before the norm",
            "        if norm_ptr is not None:\n"
            "            squares += x * x\n"
            "            x *= tl.load(norm_ptr + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)\n"
            "        x_sum += x\n",
            "        x_sum += x\n"
            "        if norm_ptr is not None:\n"
            "            squares += x * x\n"
            "            x *= tl.load(norm_ptr + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)\n",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: fields in the order of words",
            "q = tl.permute(tl.reshape(q, (BLOCK_N, BLOCK_K // (4 * FIELDS), 4, FIELDS)), (0, 1, 3, 2))\n    q = tl",
            "q = tl",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: the middle of the range is off by one",
            "(0 if HAS_MINIMA else 1 << (BITS - 1))",
            "(0 if HAS_MINIMA else (1 << (BITS - 1)) - 1)",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: a chunk's number taken for a weight's",
            "(offs_c * CHUNK // GROUP)[:, None]",
            "(offs_c // GROUP)[:, None]",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear, many rows: the bias is left out",
            "return linear(x, dequantize(weight, x.dtype), bias, residual=residual)",
            "return linear(x, dequantize(weight, x.dtype), residual=residual)",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear, many rows: the residual is left out",
            "return y if residual is None else y + residual",
            "return y",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_linear: an excess that float32 has no bits for",
            "    # float32 has no bits to spare for a second excess.\n"
            "    PER_SHIFT: tl.constexpr = 1 if x_ptr.dtype.element_ty == tl.float32 else 8 // BITS",
            "    PER_SHIFT: tl.constexpr = 8 // BITS",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_qkv: k's strides for the cache of v",
            "    v_cache = (v_cache_ptr, v_batch_stride, v_head_stride, v_row_stride)",
            "    v_cache = (v_cache_ptr, k_batch_stride, k_head_stride, k_row_stride)",
            "kernels/test_quantized_linear.py::test_qkv",
        ),
        (
            "dequantize: a chunk's number taken for a weight's",
            "groups = offs_c * CHUNK // GROUP",
            "groups = offs_c // GROUP",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "dequantize: the minimum is scaled",
            "w = q.to(tl.float32) * scales + minima",
            "w = (q.to(tl.float32) + minima) * scales",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_qkv: v is left out",
            "count = (q_heads + 2 * kv_heads) * HALF",
            "count = (q_heads + kv_heads) * HALF",
            "kernels/test_quantized_linear.py::test_qkv",
        ),
        (
            "quantized_linear, some rows: the default eps",
            "if M > 1 and norm_weight is not None:\n"
            "        x, norm_weight = rms_norm(x, norm_weight, eps), None\n"
            "    if M > tiles",
            "if M > 1 and norm_weight is not None:\n"
            "        x, norm_weight = rms_norm(x, norm_weight), None\n"
            "    if M > tiles",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
        (
            "quantized_qkv, many rows: the bias is left out",
            "x = quantized_linear(x, weight, bias, norm_weight, eps)",
            "x = quantized_linear(x, weight, None, norm_weight, eps)",
            "kernels/test_quantized_linear.py::test_qkv",
        ),
    ],
    "kernels/quantized_weight.py": [
        (
            "join: the minima are lost",
            "return QuantizedWeight(packed, scales, minima, first.bits, first.group_size)",
            "return QuantizedWeight(packed, scales, None, first.bits, first.group_size)",
            "kernels/test_quantized_linear.py::test_rows_of_several_weights",
        ),
        (
            "pack: the highest field loses its top bit",
            "torch.where(words < 2**31, words, words - 2**32)",
            "torch.where(words < 2**31, words, words - 2**31)",
            "kernels/test_quantized_linear.py::test_against_fp64",
        ),
    ],
}
