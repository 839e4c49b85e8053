"""High dynamic range to the range of screens: PQ and HLG to BT.709. numpy alone.

FFmpeg's own scaler, as PyAV has it, takes 7 s to prepare for that and clips all light above reference white.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

PQ: Final = 16
HLG: Final = 18
"""Transfer characteristics of ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67."""
NAMES: Final = {PQ: "PQ", HLG: "HLG"}

FULL_SCALE: Final = 255 * 256
"""White in 16 bits, as swscale makes it of YCbCr."""
_REFERENCE_WHITE: Final = 203.0
"""In cd/m2: what graphics, and a face's surroundings, count as white (ITU-R BT.2408-7, table 1)."""
_PEAK: Final = 1000.0
"""In cd/m2: the brightest light that is kept apart from white."""
_KNEE: Final = 0.8
"""Of reference white: darker light is left as it is."""
_BT2020_PRIMARIES: Final = 9
# ITU-R BT.2087-0, item 2.2: linear BT.2020 to linear BT.709.
_BT709_OF_BT2020: Final = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_BT2020_LUMA: Final = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_bt709(pixels: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Map `[H, W, 3]` R'G'B' of full scale `FULL_SCALE` to R'G'B' for an SDR screen.

    Args:
        pixels: the frame.
        transfer: `PQ` or `HLG`.
        primaries: of ITU-T H.273; all but BT.2020 are left as they are.
    """
    light = _light(transfer)[pixels]
    if transfer == HLG:
        # The system's gamma, at a peak of 1000 cd/m2 (ITU-R BT.2100-2, table 5).
        light *= ((light @ _BT2020_LUMA) ** 0.2)[..., None] * (_PEAK / _REFERENCE_WHITE)
    if primaries == _BT2020_PRIMARIES:
        light = np.maximum(light @ _BT709_OF_BT2020.T, 0)
    brightest = light.max(axis=-1, keepdims=True)
    light *= _tone(brightest) / np.maximum(brightest, 1e-6)
    # Screens show it with a gamma of 2.4 (ITU-R BT.1886).
    return np.asarray(light ** (1 / 2.4) * 255 + 0.5, np.uint8)


def _light(transfer: int) -> NDArray[np.float32]:
    """Light of each of 65536 codes: PQ's in reference whites, HLG's of the scene in 0..1 (ITU-R BT.2100-2)."""
    code = np.minimum(np.arange(1 << 16) / FULL_SCALE, 1)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = code ** (1 / m2)
        light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * 10000 / _REFERENCE_WHITE
    return light.astype(np.float32)


def _tone(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bend light above the knee so that the peak becomes 1: `mobius` of FFmpeg's libavfilter/vf_tonemap.c."""
    peak = _PEAK / _REFERENCE_WHITE
    a = -(_KNEE**2) * (peak - 1) / (_KNEE**2 - 2 * _KNEE + peak)
    b = (_KNEE**2 - 2 * _KNEE * peak + peak) / (peak - 1)
    bent = (b * b + 2 * b * _KNEE + _KNEE**2) / (b - a) * (light + a) / (light + b)
    return np.where(light <= _KNEE, light, np.minimum(bent, 1))
