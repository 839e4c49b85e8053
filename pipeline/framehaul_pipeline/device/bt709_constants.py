"""The constants of RGB to Y'CbCr by ITU-R BT.709, as both conversions use them: in torch's operations and in Triton."""

from __future__ import annotations

from typing import Final

# ITU-R BT.709-6, items 3.2 (luma), 3.3 (colour difference) and 4.6 (quantisation, limited range): in `n` bits
# Y = (219 E_Y + 16) * 2^(n-8) and C = (224 E_C + 128) * 2^(n-8). With x = 2E - 1 in [-1, 1] for E in [0, 1] that is
# (109.5 x_Y + 125.5) * 2^(n-8), and 112 in place of 224.
KR: Final = 0.2126
KB: Final = 0.0722
KG: Final = 1.0 - KR - KB
LUMA_SCALE: Final = 109.5
LUMA_OFFSET: Final = 125.5
CHROMA_OFFSET: Final = 128.0
CB_SCALE: Final = 112.0 / (2 * (1 - KB))
CR_SCALE: Final = 112.0 / (2 * (1 - KR))
