"""How far a result may be from its oracle: the one table, for tests, bench and course.

Against an oracle in float64 over the same inputs, as a share of an element and of its row's largest.
"""

import torch

# 16-bit results are rounded once or twice (half an ulp is 2⁻¹¹ and 2⁻⁸ of a value); float32 results carry the rounding
# of sums of up to a few thousand products.
TOLERANCE: dict[torch.dtype, float] = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
