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
    "bench/harness.py": [
        (
            "bench: the oracle rounds as everybody does",
            "case.oracle(*(t.double() if t.is_floating_point() else t for t in sets[0]))",
            "case.oracle(*sets[0])",
            "bench/test_harness.py::test_the_oracle_is_exact",
        ),
        (
            "bench: a peer's own form of the inputs is left out",
            "sets = [form(*inputs) for inputs in sets]",
            "pass",
            "bench/test_harness.py::test_inputs_as_a_peer_wants_them",
        ),
        (
            "bench: the rate of a quartile",
            "case.rate(point, quartiles[1])",
            "case.rate(point, quartiles[0])",
            "bench/test_harness.py::test_the_rate_is_the_medians",
        ),
    ],
    "bench/check.py": [
        (
            "bench: integers are not compared",
            'return None if torch.equal(actual, oracle) else "other bytes"',
            "return None",
            "bench/test_cases.py::test_check_catches",
        ),
    ],
}
