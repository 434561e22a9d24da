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
    ],
}
