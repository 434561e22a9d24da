"""Faults in matrix products."""

FAULTS = {
    "kernels/linear.py": [
        (
            "linear: the bias is added after the activation",
            "        if bias_ptr is not None:\n"
            "            acc += tl.load(bias_ptr + offs_n[None, :], mask=mask_n, "
            "other=0.0).to(tl.float32)\n"
            "        acc = activate(acc, ACTIVATION)\n",
            "        acc = activate(acc, ACTIVATION)\n"
            "        if bias_ptr is not None:\n"
            "            acc += tl.load(bias_ptr + offs_n[None, :], mask=mask_n, "
            "other=0.0).to(tl.float32)\n",
            "kernels/test_linear.py::test_epilogue",
        ),
        (
            "linear: the residual goes through the activation",
            "        acc = activate(acc, ACTIVATION)\n        y_offs = offs_m[:, None] * N + offs_n[None, :]\n",
            "        y_offs = offs_m[:, None] * N + offs_n[None, :]\n"
            "        if residual is not None and not TMA:\n"
            "            acc += tl.load(residual + y_offs, mask=mask, other=0.0).to(tl.float32)\n"
            "        acc = activate(acc, ACTIVATION)\n"
            "        if residual is not None and not TMA:\n"
            "            acc -= tl.load(residual + y_offs, mask=mask, other=0.0).to(tl.float32)\n",
            "kernels/test_linear.py::test_epilogue",
        ),
        (
            "linear: GELU without its factor of 2",
            "1.5957691216057308",
            "0.7978845608028654",
            "kernels/test_linear.py::test_epilogue",
        ),
        (
            "linear: no mask along K",
            "mask = mask & (offs_k[None, :] < K)",
            "mask = mask",
            "kernels/test_linear.py::test_epilogue",
        ),
        (
            "linear: the last group of tiles taken for a whole one",
            "rows = tl.minimum(num_pid_m - first_m, GROUP_M)",
            "rows = GROUP_M",
            "kernels/test_linear.py::test_tma",
        ),
        (
            "linear: a transposed weight's indices in the wrong order",
            "return source.load([k, row]).T",
            "return source.load([row, k])",
            "kernels/test_linear.py::test_tma",
        ),
        (
            "linear: a piece of the split along K is left out",
            "for piece in range(splits):",
            "for piece in range(splits - 1):",
            "kernels/test_linear.py::test_tma",
        ),
        (
            "linear: a piece starts at a step's number, not at its K",
            "first_k = pid // rest * steps * BLOCK_K",
            "first_k = pid // rest * steps",
            "kernels/test_linear.py::test_tma",
        ),
        (
            "linear: pieces read in another order than they were written",
            "(piece * rest + tile).to(tl.int64)",
            "(tile * splits + piece).to(tl.int64)",
            "kernels/test_linear.py::test_tma",
        ),
        (
            "linear: dropout does not scale what it keeps",
            "acc / (1.0 - dropout_p), 0.0)",
            "acc, 0.0)",
            "kernels/test_fused_ffn.py::test_dropout_is_the_oracles",
        ),
        (
            "linear: the residual's row stride taken for N",
            "residual_ptrs = residual + offs_m[:, None] * residual_row_stride",
            "residual_ptrs = residual + offs_m[:, None] * N",
            "kernels/test_linear.py::test_strides_and_leading_dimensions",
        ),
        (
            "linear: a transposed residual read as if by rows",
            "row_major(residual.reshape(M, N))",
            "residual.reshape(M, N)",
            "kernels/test_linear.py::test_strides_and_leading_dimensions",
        ),
        (
            "linear: the right half of a tile stored over the left",
            "finish(y, right, m, n + BLOCK_N // 2,",
            "finish(y, right, m, n,",
            "kernels/test_linear.py::test_tma",
        ),
        (
            "linear: rows × stride in 32 bits",
            "offs_rows = row.to(tl.int64) + tl.arange",
            "offs_rows = row + tl.arange",
            "torture/test_offsets.py::test_strides",
        ),
        (
            "linear: K called even where the block does not divide it",
            "EVEN_K=tma or K % BLOCK_K == 0",
            "EVEN_K=tma or K % 16 == 0",
            "kernels/test_linear.py::test_epilogue",
        ),
        (
            "linear: swapped factors not swapped back",
            'input_precision="ieee")\n    return acc.T if SWAP else acc',
            'input_precision="ieee")\n    return acc',
            "kernels/test_linear.py::test_tma",
        ),
    ],
    "kernels/fused_ffn.py": [
        (
            "swiglu: gate and up swapped",
            "acc = gate_acc * tl.sigmoid(gate_acc) * up_acc",
            "acc = up_acc * tl.sigmoid(up_acc) * gate_acc",
            "kernels/test_fused_ffn.py::test_swiglu",
        ),
        (
            "swiglu: the weight that lies first taken for the gate's",
            "return tl.where(up_first != 0, second, first), tl.where(up_first != 0, first, second)",
            "return first, second",
            "kernels/test_fused_ffn.py::test_swiglu_with_tma",
        ),
        (
            "swiglu: the gate's weight for both products",
            "up_tile = load_tile(up, n, k, K, EVEN_K,",
            "up_tile = load_tile(gate, n, k, K, EVEN_K,",
            "kernels/test_fused_ffn.py::test_swiglu",
        ),
        (
            "swiglu: the gate's strides for up",
            "up = (up, N, up_row_stride, up_col_stride)",
            "up = (up, N, gate_row_stride, gate_col_stride)",
            "kernels/test_fused_ffn.py::test_swiglu_strides",
        ),
        (
            "swiglu: one descriptor for weights of different strides",
            "and first.stride() == second.stride()\n",
            "",
            "kernels/test_fused_ffn.py::test_swiglu_with_tma",
        ),
        (
            "fused_ffn: dropout of everything divides by 0",
            "if not 0 <= dropout_p < 1:",
            "if not 0 <= dropout_p <= 1:",
            "kernels/test_fused_ffn.py::test_dropout_is_the_oracles",
        ),
    ],
}
