"""Faults in what wrappers of kernels ask of their arguments."""

FAULTS = {
    "kernels/arguments.py": [
        (
            "arguments: keys a tile's step in 32 bits apart",
            "t.stride(2) < 2**31 // 256",
            "t.stride(2) < 2**31",
            "torture/test_offsets.py::test_strides",
        ),
    ],
    "kernels/decode_linear.py": [
        (
            "decode_linear: rows of up that lie apart",
            '"residual": residual, "up_weight": up_weight}',
            '"residual": residual}',
            "kernels/test_decode_linear.py::test_tensors_that_lie_apart_are_refused",
        ),
        (
            "decode_linear: a residual that lies apart",
            '"weight": weight, "residual": residual, "up',
            '"weight": weight, "up',
            "kernels/test_decode_linear.py::test_tensors_that_lie_apart_are_refused",
        ),
        (
            "decode_linear: a norm's weight that lies apart",
            "_need_contiguous(op, bias=bias, norm_weight=norm_weight, **tensors)",
            "_need_contiguous(op, bias=bias, **tensors)",
            "kernels/test_decode_linear.py::test_tensors_that_lie_apart_are_refused",
        ),
        (
            "decode_linear: a bias that lies apart",
            "_need_contiguous(op, bias=bias, norm_weight=norm_weight, **tensors)",
            "_need_contiguous(op, norm_weight=norm_weight, **tensors)",
            "kernels/test_decode_linear.py::test_tensors_that_lie_apart_are_refused",
        ),
        (
            "decode_qkv: rows of the weight that lie apart",
            '    need(weight.is_contiguous(), f"{op}: weight must be contiguous")\n',
            "",
            "kernels/test_decode_linear.py::test_tensors_that_lie_apart_are_refused",
        ),
        (
            "decode_qkv: strided tables and lengths",
            "norm_weight=norm_weight, cos=cos, sin=sin, lengths=lengths)",
            "norm_weight=norm_weight)",
            "kernels/test_decode_linear.py::test_tensors_that_lie_apart_are_refused",
        ),
        (
            "decode_linear: fewer rows of up",
            "need(up_weight is None or up_weight.shape == weight.shape,",
            "need(True,",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_linear: a shorter bias",
            "need(bias is None or bias.shape == (N,),",
            "need(True,",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: fewer angles than positions",
            "t.dim() == 2 and t.shape[0] >= max_length and",
            "t.dim() == 2 and",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: shorter rows of angles",
            "and t.shape[1] == head_dim and t.device",
            "and t.device",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: fewer lengths than sequences",
            "need(lengths.shape == (batch,),",
            "need(True,",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: a cache of v of another shape",
            "k_cache.shape == v_cache.shape == (batch, kv_heads, max_length, head_dim),",
            "k_cache.shape == (batch, kv_heads, max_length, head_dim),",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: caches of fewer sequences",
            "k_cache.shape == v_cache.shape == (batch, kv_heads, max_length, head_dim),",
            "k_cache.shape == v_cache.shape,",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: rows that are no whole heads",
            "heads > 0 and N % head_dim == 0,",
            "heads > 0,",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "decode_qkv: a weight without rows of q",
            "heads > 0 and N % head_dim == 0,",
            "N % head_dim == 0,",
            "kernels/test_decode_linear.py::test_shapes_that_do_not_fit_are_refused",
        ),
    ],
    "kernels/flash_decoding.py": [
        (
            "flash_decoding: fewer lengths than sequences",
            "need(lengths.shape == (batch,),",
            "need(True,",
            "kernels/test_flash_decoding.py::test_bad_arguments_are_named",
        ),
        (
            "flash_decoding: q's elements apart",
            "q.stride(2) == k_cache.stride(3) == v_cache.stride(3) == 1,",
            "k_cache.stride(3) == v_cache.stride(3) == 1,",
            "kernels/test_flash_decoding.py::test_bad_arguments_are_named",
        ),
        (
            "flash_decoding: v's elements apart",
            "q.stride(2) == k_cache.stride(3) == v_cache.stride(3) == 1,",
            "q.stride(2) == k_cache.stride(3) == 1,",
            "kernels/test_flash_decoding.py::test_bad_arguments_are_named",
        ),
        (
            "flash_decoding: heads that no group takes",
            "need(kv_heads > 0 and heads % kv_heads == 0,",
            "need(True,",
            "kernels/test_flash_decoding.py::test_bad_arguments_are_named",
        ),
        (
            "flash_decoding: heads too short",
            "need(16 <= head_dim <= 256,",
            "need(True,",
            "kernels/test_flash_decoding.py::test_bad_arguments_are_named",
        ),
        (
            "flash_decoding: a scale of 0 taken for none",
            "head_dim**-0.5 if scale is None else scale",
            "scale or head_dim**-0.5",
            "kernels/test_flash_decoding.py::test_a_scale_of_zero",
        ),
    ],
    "kernels/flash_attention.py": [
        (
            "flash_attention: a scale of 0 taken for none",
            "head_dim**-0.5 if scale is None else scale",
            "scale or head_dim**-0.5",
            "kernels/test_flash_attention.py::test_a_scale_of_zero",
        ),
        (
            "flash_attention: q's elements apart",
            "need(q.stride(3) == k.stride(3) == v.stride(3) == 1,",
            "need(k.stride(3) == v.stride(3) == 1,",
            "kernels/test_flash_attention.py::test_bad_arguments_are_named",
        ),
        (
            "flash_attention: v's elements apart",
            "need(q.stride(3) == k.stride(3) == v.stride(3) == 1,",
            "need(q.stride(3) == k.stride(3) == 1,",
            "kernels/test_flash_attention.py::test_bad_arguments_are_named",
        ),
        (
            "flash_attention: keys of other sequences",
            "need(k.shape == v.shape == (batch, kv_heads",
            "need(k.shape == v.shape == (k.shape[0], kv_heads",
            "kernels/test_flash_attention.py::test_bad_arguments_are_named",
        ),
        (
            "varlen: strided lengths read as if contiguous",
            "cu_seqlens = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()",
            "cu_seqlens = cu_seqlens_q, cu_seqlens_k",
            "kernels/test_flash_attention.py::test_varlen_strided_lengths",
        ),
    ],
    "kernels/next_token.py": [
        (
            "next_token: strided logits",
            "need(logits.is_contiguous() and x.is_contiguous(),",
            "need(x.is_contiguous(),",
            "kernels/test_next_token.py::test_bad_arguments_are_named",
        ),
        (
            "next_token: a strided x",
            "need(logits.is_contiguous() and x.is_contiguous(),",
            "need(logits.is_contiguous(),",
            "kernels/test_next_token.py::test_bad_arguments_are_named",
        ),
        (
            "next_token: strided flags",
            '        need(t.is_contiguous(), f"{op}: {name} must be contiguous")\n',
            "",
            "kernels/test_next_token.py::test_bad_arguments_are_named",
        ),
        (
            "next_token: an embedding whose rows lie apart",
            '        need(embedding.is_contiguous(), f"{op}: embedding must be contiguous")\n',
            "",
            "kernels/test_next_token.py::test_bad_arguments_are_named",
        ),
        (
            "next_token: an embedding of another type",
            "        check(op, x=x, embedding=embedding)\n",
            "",
            "kernels/test_next_token.py::test_bad_arguments_are_named",
        ),
        (
            "next_token: flags of fewer sequences",
            "need(name not in of_sequences or t.shape == (batch,),",
            "need(True,",
            "kernels/test_next_token.py::test_bad_arguments_are_named",
        ),
    ],
    "kernels/rotary_embedding.py": [
        (
            "rotary_embedding: k's elements apart",
            "if head_dim and not q.stride(3) == k.stride(3) == 1:",
            "if head_dim and q.stride(3) != 1:",
            "kernels/test_rotary_embedding.py::test_empty_and_bad_arguments",
        ),
        (
            "rotary_embedding: strided tables read as if contiguous",
            "cos, sin = cos.contiguous(), sin.contiguous()",
            "pass",
            "kernels/test_rotary_embedding.py::test_tables_of_any_strides",
        ),
        (
            "rotary_embedding: a sin of another shape",
            "        and cos.shape == sin.shape\n",
            "",
            "kernels/test_rotary_embedding.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "rotary_embedding: a shorter k",
            "k.shape == (batch, k.shape[1], length, head_dim)",
            "True",
            "kernels/test_rotary_embedding.py::test_shapes_that_do_not_fit_are_refused",
        ),
        (
            "rotary_embedding: one sequence's angles for several",
            "(batch, length, head_dim))\n    )",
            "(batch, length, head_dim), (1, length, head_dim))\n    )",
            "kernels/test_rotary_embedding.py::test_shapes_that_do_not_fit_are_refused",
        ),
    ],
}
