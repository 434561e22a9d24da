"""Faults in softmax, the norms and silu_mul."""

FAULTS = {
    "kernels/softmax.py": [
        (
            "online softmax: the maximum starts at 0",
            'row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)',
            "row_max = tl.zeros((BLOCK_M,), tl.float32)",
            "kernels/test_softmax.py::test_rows_longer_than_a_block",
        ),
        (
            "online softmax: the sum is not rescaled when the maximum grows",
            "row_sum = row_sum * tl.exp2((row_max - shift) * LOG2_E) + tl.sum",
            "row_sum = row_sum + tl.sum",
            "kernels/test_softmax.py::test_rows_longer_than_a_block",
        ),
        (
            "online softmax: −inf − (−inf)",
            'shift = tl.where(new_max == float("-inf"), 0.0, new_max)',
            "shift = new_max",
            "kernels/test_softmax.py::test_rows_longer_than_a_block",
        ),
        (
            "softmax: padding counts as a score of 0",
            'x = tl.load(x_ptrs, mask=mask, other=float("-inf")).to(tl.float32)',
            "x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)",
            "kernels/test_softmax.py::test_rows",
        ),
        (
            "online softmax: a row's stride taken for its length",
            "x_rows = x_ptr + offs_m[:, None] * x_row_stride",
            "x_rows = x_ptr + offs_m[:, None] * N",
            "kernels/test_rows.py::test_layouts",
        ),
        (
            "softmax: dimensions moved back the wrong way",
            "return y if last else y.movedim(-1, dim)",
            "return y if last else y.movedim(dim, -1)",
            "kernels/test_softmax.py::test_any_dimension",
        ),
        (
            "softmax: the sum of a whole tile",
            "y = numerator * (1.0 / tl.sum(numerator, axis=1))[:, None]",
            "y = numerator * (1.0 / tl.sum(numerator))",
            "kernels/test_softmax.py::test_rows",
        ),
        (
            "softmax: rows × stride in 32 bits",
            "offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)\n"
            "    offs_n = tl.arange(0, BLOCK_N)\n"
            "    mask = ",
            "offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)\n"
            "    offs_n = tl.arange(0, BLOCK_N)\n"
            "    mask = ",
            "torture/test_offsets.py::test_strides",
        ),
        (
            "online softmax: rows × stride in 32 bits",
            "offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)\n"
            "    offs_n = tl.arange(0, BLOCK_N)\n"
            "    mask_m = ",
            "offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)\n"
            "    offs_n = tl.arange(0, BLOCK_N)\n"
            "    mask_m = ",
            "torture/test_offsets.py::test_strides",
        ),
        (
            "softmax: columns × stride in 32 bits",
            "x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :].to(tl.int64) * x_col_stride",
            "x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :] * x_col_stride",
            "torture/test_offsets.py::test_strides",
        ),
    ],
    "kernels/rms_norm.py": [
        (
            "rms_norm: eps outside of the root",
            "normed = x * tl.rsqrt(tl.sum(x * x, axis=1) / N + eps)[:, None]",
            "normed = x * (tl.rsqrt(tl.sum(x * x, axis=1) / N) + eps)[:, None]",
            "kernels/test_rms_norm.py::test_rms_norm",
        ),
        (
            "rms_norm: the mean over the block, not the row",
            "tl.sum(x * x, axis=1) / N + eps",
            "tl.sum(x * x, axis=1) / BLOCK_N + eps",
            "kernels/test_rms_norm.py::test_rms_norm",
        ),
        (
            "rms_norm: weighted before it is rounded",
            "normed = normed.to(y_ptr.dtype.element_ty).to(tl.float32)\n",
            "normed = normed.to(tl.float32)\n",
            "kernels/test_rms_norm.py::test_rounds_before_weighting_as_llama_does",
        ),
        (
            "long rms_norm: weighted before it is rounded",
            "normed = (x * scale).to(y_ptr.dtype.element_ty).to(tl.float32)",
            "normed = x * scale",
            "kernels/test_rms_norm.py::test_rounds_before_weighting_as_llama_does",
        ),
        (
            "add_rms_norm: the norm of a sum that is not rounded",
            "x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)\n"
            "        tl.store(sum_ptr + y_offs, x, mask=mask)",
            "x = x.to(tl.float32) + residual.to(tl.float32)\n"
            "        tl.store(sum_ptr + y_offs, x.to(x_ptr.dtype.element_ty), mask=mask)",
            "kernels/test_rms_norm.py::test_rounds_before_weighting_as_llama_does",
        ),
        (
            "long rms_norm: squares in 16 bits",
            "squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1)",
            "squares += tl.sum((x * x).to(tl.float32), axis=1)",
            "kernels/test_rms_norm.py::test_squares_are_summed_in_float32",
        ),
        (
            "rms_norm: squares in 16 bits",
            "x = x.to(tl.float32)\n    # Squares",
            "# Squares",
            "kernels/test_rms_norm.py::test_squares_are_summed_in_float32",
        ),
        (
            "long rms_norm: eps divided by N",
            "scale = tl.rsqrt(squares / N + eps)[:, None]",
            "scale = tl.rsqrt((squares + eps) / N)[:, None]",
            "kernels/test_rms_norm.py::test_rms_norm",
        ),
        (
            "long add_rms_norm: x's strides for the residual",
            "residual_ptrs = residual_ptr + offs_m[:, None] * residual_row_stride + offs * residual_col_stride",
            "residual_ptrs = residual_ptr + offs_m[:, None] * x_row_stride + offs * x_col_stride",
            "kernels/test_rows.py::test_inputs_of_different_layouts",
        ),
        (
            "add_rms_norm: x's row stride for the residual",
            "residual_offs = offs_m[:, None] * residual_row_stride",
            "residual_offs = offs_m[:, None] * x_row_stride",
            "kernels/test_rows.py::test_layouts",
        ),
        (
            "rms_norm: a strided weight read as if it were contiguous",
            "weight = weight.contiguous()",
            "weight = weight",
            "kernels/test_rows.py::test_inputs_of_different_layouts",
        ),
    ],
    "kernels/layer_norm.py": [
        (
            "layer_norm: padding counts as variance",
            "centred = tl.where(mask_n[None, :], x - mean[:, None], 0.0)",
            "centred = x - mean[:, None]",
            "kernels/test_layer_norm.py::test_layer_norm",
        ),
        (
            "layer_norm: n − 1",
            "variance = tl.sum(centred * centred, axis=1) / N",
            "variance = tl.sum(centred * centred, axis=1) / (N - 1)",
            "kernels/test_layer_norm.py::test_layer_norm",
        ),
        (
            "long layer_norm: blocks merged without their sizes",
            "between = delta * (delta * start_n) * share",
            "between = delta * delta * share",
            "kernels/test_layer_norm.py::test_layer_norm",
        ),
        (
            "long layer_norm: the last block counted as a full one",
            "count = tl.minimum(N - start_n, BLOCK_N)",
            "count = BLOCK_N",
            "kernels/test_layer_norm.py::test_layer_norm",
        ),
        (
            "long layer_norm: the mask forgets where the block starts",
            "inside = start_n + offs_n[None, :] < N",
            "inside = offs_n[None, :] < N",
            "kernels/test_layer_norm.py::test_layer_norm",
        ),
        (
            "long layer_norm: a product of counts in 32 bits",
            "between = delta * (delta * start_n) * share",
            "between = delta * delta * (start_n * count) / (start_n + count)",
            "kernels/test_layer_norm.py::test_drifting_row",
        ),
        (
            "layer_norm: a GPU's quotient, wrong in its last digit",
            "mean = quotient(tl.sum(x, axis=1), N)",
            "mean = tl.sum(x, axis=1) / N",
            "kernels/test_layer_norm.py::test_division_of_a_gpu",
        ),
        (
            "long layer_norm: the same in a block's share",
            "share = quotient(count, start_n + count)",
            "share = count / (start_n + count)",
            "kernels/test_layer_norm.py::test_division_of_a_gpu",
        ),
        (
            "layer_norm: what a quotient leaves over is subtracted",
            "return q + tl.fma(-q, b, a) / b",
            "return q - tl.fma(-q, b, a) / b",
            "kernels/test_layer_norm.py::test_division_of_a_gpu",
        ),
        (
            "layer_norm: a strided bias read as if it were contiguous",
            "weight, bias = weight.contiguous(), bias.contiguous()",
            "weight = weight.contiguous()",
            "kernels/test_rows.py::test_inputs_of_different_layouts",
        ),
    ],
    "kernels/fused_ffn.py": [
        (
            "silu_mul: gate and up swapped",
            "y = gate * tl.sigmoid(gate) * up",
            "y = up * tl.sigmoid(up) * gate",
            "kernels/test_fused_ffn.py::test_silu_mul",
        ),
        (
            "silu_mul: every program of a row makes its first block",
            "offs_n = (tl.program_id(0) % num_pid_n)",
            "offs_n = (tl.program_id(1) % num_pid_n)",
            "kernels/test_fused_ffn.py::test_silu_mul",
        ),
        (
            "silu_mul: gate's stride for up",
            "up_ptrs = up_ptr + offs_m[:, None] * up_row_stride + offs_n",
            "up_ptrs = up_ptr + offs_m[:, None] * gate_row_stride + offs_n",
            "kernels/test_rows.py::test_layouts",
        ),
        (
            "silu_mul: rows × stride in 32 bits",
            "offs_m = (tl.program_id(0) // num_pid_n).to(tl.int64) * BLOCK_M",
            "offs_m = (tl.program_id(0) // num_pid_n) * BLOCK_M",
            "torture/test_offsets.py::test_strides",
        ),
    ],
    "kernels/arguments.py": [
        (
            "rows: the first input's strides for all",
            "launch(ins[0].shape[0], N, tuple(stride for t in ins for stride in t.stride()), outs, ins)",
            "launch(ins[0].shape[0], N, ins[0].stride() * len(ins), outs, ins)",
            "kernels/test_rows.py::test_layouts",
        ),
        (
            "check: refuses weights that require grad under no_grad",
            "if t.requires_grad and torch.is_grad_enabled():",
            "if t.requires_grad:",
            "kernels/test_softmax.py::test_bad_arguments_are_named",
        ),
    ],
}
