"""The size that a page or a link list states for an image, before anyone has seen the image.

Pages are written by people and programs: the size may be absent, `NaN`, `"100%"` or 1e30. An odd
size is an unknown one; only the file itself can tell, so no image or page is lost for it.
"""

from typing import Any

_MOST = 2**31 - 1  # px of a side: the most that the header of any picture format can hold


def stated_size(value: Any) -> int:
    """Whole pixels of a side as stated, 1 to 2**31 - 1; 0, unknown, for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 1 <= value <= _MOST else 0  # NaN is neither
