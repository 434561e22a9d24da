"""Faults in the interpreter, its trace, and the checks of course and bench."""

FAULTS = {
    "interpreter/tracing.py": [
        (
            "trace: a load before another program's store is no race",
            "for extent, block, me, where in self.loads:",
            "for extent, block, me, where in self.loads[:0]:",
            "interpreter/test_trace.py::test_load_of_what_a_later_program_stores",
        ),
        (
            "trace: one store gives an address two values",
            "if block.scattered is not None or not one_to_one(pointer, block.item):",
            "if block.scattered is not None:",
            "interpreter/test_trace.py::test_one_store_with_two_values",
        ),
        (
            "trace: one byte past the end is inside",
            "return self.start <= low and high <= self.end",
            "return self.start <= low and high <= self.end + 1",
            "interpreter/test_trace.py::test_load_out_of_bounds",
        ),
        (
            "trace: negative strides start at their end",
            "low += step * (n - 1)",
            "pass",
            "interpreter/test_trace.py::test_load_before_the_beginning",
        ),
        (
            "trace: an element of which a byte was written",
            "unwritten = ~self._bytes(poison, extent, block)[0].all(-1)",
            "unwritten = ~self._bytes(poison, extent, block)[0].any(-1)",
            "interpreter/test_trace.py::test_load_of_elements_of_which_a_part_was_written",
        ),
        (
            "trace: whoever executes an atomic, program 0 is believed",
            "self.synchronised.add(self._me())",
            "self.synchronised.add(1)",
            "interpreter/test_trace.py::test_no_race",
        ),
        (
            "trace: two atomics are a race",
            "            if mark == _ATOMIC:\n                clash &= last != _ATOMIC\n",
            "",
            "interpreter/test_trace.py::test_no_race",
        ),
        (
            "trace: a view ends one element early",
            "(last + 1) * tensor.element_size())",
            "last * tensor.element_size())",
            "interpreter/test_trace.py::test_load_before_the_beginning",
        ),
    ],
    "interpreter/memory.py": [
        (
            "interpreter: a large block's low side is not filled",
            "for side in (slice(0, low), slice(high, box.shape[d])):",
            "for side in (slice(high, box.shape[d]),):",
            "interpreter/test_same_as_stock.py::test_large_blocks_are_framed",
        ),
        (
            "interpreter: a load that changes with a later store",
            "out = view(pointer.base, pointer.shape, pointer.steps, dtype).copy()",
            "out = view(pointer.base, pointer.shape, pointer.steps, dtype)",
            "interpreter/test_same_as_stock.py::test_attention",
        ),
        (
            "interpreter: a box's corner counted in elements",
            "address += low * step",
            "address += low",
            "interpreter/test_same_as_stock.py::test_two_dimensional_masks",
        ),
        (
            "interpreter: a descriptor's negative start is not masked",
            "(max(0, -start), min(n,",
            "(0, min(n,",
            "interpreter/test_same_as_stock.py::test_host_descriptor_edges",
        ),
    ],
    "interpreter/reductions.py": [
        (
            "interpreter: a maximum with NaN is NaN",
            "tl.standard._elementwise_max: np.fmax,",
            "tl.standard._elementwise_max: np.maximum,",
            "interpreter/test_same_as_stock.py::test_nan_in_reductions",
        ),
        (
            "interpreter: a reversed scan is not turned back",
            "stock.to_tensor(np.flip(data, axis) if reverse else data, kind.dtype)",
            "stock.to_tensor(data, kind.dtype)",
            "interpreter/test_same_as_stock.py::test_scans",
        ),
    ],
    "interpreter/types.py": [
        (
            "interpreter: bfloat16 ties away from even",
            "bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)",
            "bits += np.uint32(0x8000)",
            "interpreter/test_bfloat16.py::test_rounding_is_torchs",
        ),
        (
            "interpreter: NaN in bfloat16 becomes infinite",
            "    out[nan] = 0x7FC0",
            "    out[nan] = 0x7F80",
            "interpreter/test_bfloat16.py::test_rounding_is_torchs",
        ),
    ],
    "interpreter/affine.py": [
        (
            "interpreter: an empty mask broadcast to a full one",
            "[(0, n if b == (0, 1) else 0) if old == 1 else b",
            "[(0, n) if old == 1 else b",
            "interpreter/test_same_as_stock.py::test_masks_of_one_row",
        ),
        (
            "interpreter: steps of a difference are added",
            "[s - t for s, t in zip(a.steps",
            "[s + t for s, t in zip(a.steps",
            "interpreter/test_same_as_stock.py::test_in_place",
        ),
    ],
    "interpreter/rules.py": [
        (
            "interpreter: an unknown launch keyword is ignored",
            "if name not in parameters and name not in launch_options():",
            "if False:",
            "interpreter/test_rules.py::test_unknown_launch_keyword",
        ),
    ],
    "course/check.py": [
        (
            "check: elements that nobody writes are not seen",
            "with poisoned(), warnings",
            "with warnings",
            "course/test_check.py::test_wrong_results",
        ),
        (
            "check: a NaN that should be there is not missed",
            '        "no NaN where the oracle has one": wanted.isnan() & ~got.isnan(),\n',
            "",
            "course/test_check.py::test_nan_and_infinity_have_their_places",
        ),
        (
            "check: −inf under another name",
            '"infinite where the oracle is not": got.isinf() & finite,',
            '"infinite where the oracle is not": got.isposinf() & finite,',
            "course/test_check.py::test_nan_and_infinity_have_their_places",
        ),
        (
            "check: one good input makes all good",
            "return all(v.ok for v in self.verdicts)",
            "return any(v.ok for v in self.verdicts)",
            "course/test_check.py::test_one_wrong_input_is_enough",
        ),
        (
            "check: a result of another shape",
            "if actual.shape != expected.shape:",
            "if actual.numel() != expected.numel():",
            "course/test_check.py::test_wrong_results",
        ),
        (
            "check: twice the table's tolerance",
            "bound = TOLERANCE[actual.dtype] * (",
            "bound = 2 * TOLERANCE[actual.dtype] * (",
            "course/test_check.py::test_tolerance_is_the_tables",
        ),
    ],
    "course/traffic.py": [
        (
            "watch: a view may use its neighbour's memory",
            'with trace(extent="view"):',
            "with trace():",
            "course/test_traffic.py::test_a_view_ends_where_it_ends",
        ),
    ],
    "bench/check.py": [
        (
            "bench: NaN passes",
            "off = ~((actual.double() - oracle).abs() <= bound)",
            "off = (actual.double() - oracle).abs() > bound",
            "bench/test_cases.py::test_check_catches",
        ),
        (
            "bench: a result that broadcasts passes",
            "if actual.shape != oracle.shape:",
            "if actual.dim() != oracle.dim():",
            "bench/test_cases.py::test_check_catches",
        ),
        (
            "bench: elements that nobody writes are not seen",
            "torch.use_deterministic_algorithms(True, warn_only=True)",
            "pass",
            "bench/test_harness.py::test_ours_meets_poisoned_memory",
        ),
    ],
    "bench/harness.py": [
        (
            "bench: a contender in place spoils the inputs",
            "run(*(t.clone() for t in sets[0]))",
            "run(*sets[0])",
            "bench/test_harness.py::test_in_place_contender_does_not_spoil_the_inputs",
        ),
        (
            "bench: the same contender always goes first",
            "list(samplers)[:: 1 if r % 2 == 0 else -1]",
            "list(samplers)",
            "bench/test_harness.py::test_contenders_alternate",
        ),
    ],
}
