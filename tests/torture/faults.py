"""What is known to be wrong: cases of ``test_values`` that fail, and why."""

INFINITE = ("one inf", "one -inf")

LSE = "the log-sum-exp of a row with a score of +inf is NaN, not inf: its sum has inf − inf"
EXCESS = "one row of a packed weight: inf · (q + excess) − inf · excess is NaN, not inf · q"
MINIMA = "several rows of a packed weight with minima: inf · q · scale + inf · minimum is NaN, not inf · weight"
NORM = "weight · norm_weight is formed in float16: where it passes 65504, sums of it are NaN"

# (operation, operand) of each.
_ATTENTION = ("flash_attention", "flash_attention, window", "flash_attention, many queries")
OF_INFINITE = {(op, name): LSE for op in _ATTENTION for name in ("q", "k")} | {
    ("quantized_linear, one row", "x"): EXCESS,
    ("quantized_linear, one row, minima", "norm_weight"): EXCESS,
    ("quantized_qkv, one row", "norm_weight"): EXCESS,
    ("quantized_linear, minima", "norm_weight"): MINIMA,
}
OF_65504_IN_FLOAT16 = {
    ("decode_linear", "weight"): NORM,
    ("decode_linear, gated", "weight"): NORM,
    ("decode_linear, gated", "up_weight"): NORM,
    ("decode_qkv", "weight"): NORM,
}


def known(op: str, name: str, values: str, dtype: str) -> str | None:
    """Why a case fails; None if it does not."""
    if values in INFINITE:
        return OF_INFINITE.get((op, name))
    return OF_65504_IN_FLOAT16.get((op, name)) if (values, dtype) == ("+-65504", "fp16") else None
