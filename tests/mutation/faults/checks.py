"""Faults in the checks of course and bench."""

FAULTS = {
    "course/check.py": [
        (
            "check: the oracle rounds as ours does",
            "expected = oracle(*(_wide(t) for t in given))",
            "expected = oracle(*given)",
            "course/test_check.py::test_the_oracle_is_exact",
        ),
        (
            "check: the oracle in float32",
            "return value.double() if",
            "return value.float() if",
            "course/test_check.py::test_the_oracle_is_exact",
        ),
        (
            "check: token ids become floating-point numbers",
            " if isinstance(value, torch.Tensor) and value.is_floating_point() else value",
            " if isinstance(value, torch.Tensor) else value",
            "course/test_check.py::test_the_oracle_is_exact",
        ),
        (
            "check: bfloat16 where it cannot be computed",
            "if any(t.dtype == torch.bfloat16 and not runs_bfloat16(t.device) for t in tensors):",
            "if False:",
            "course/test_check.py::test_bfloat16_is_not_run_where_it_cannot_be",
        ),
        (
            "check: integers by a tolerance",
            "if torch.equal(actual.cpu(), expected.cpu().to(actual.dtype))",
            "if torch.allclose(actual.double(), expected.double())",
            "course/test_check.py::test_integers_are_equal_or_not",
        ),
        (
            "check: an infinity excuses its row",
            "size = torch.where(finite, wanted, 0.0).abs()",
            "size = wanted.abs()",
            "course/test_check.py::test_nan_and_infinity_have_their_places",
        ),
        (
            "check: weights that require grad are refused",
            "@torch.no_grad()\n",
            "",
            "course/test_check.py::test_inputs_that_require_grad",
        ),
    ],
}
