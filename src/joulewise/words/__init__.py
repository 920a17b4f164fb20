"""Words: a real tensor as two's complement memory words, and back.

fixed_point   the format, encode and decode
bit_planes    words taken apart into bits, and put together again
"""

from joulewise.words.bit_planes import from_bit_planes as from_bit_planes
from joulewise.words.bit_planes import to_bit_planes as to_bit_planes
from joulewise.words.fixed_point import FixedPoint as FixedPoint
from joulewise.words.fixed_point import Words as Words
from joulewise.words.fixed_point import check_storable as check_storable
from joulewise.words.fixed_point import decode as decode
from joulewise.words.fixed_point import encode as encode
from joulewise.words.fixed_point import largest_magnitude as largest_magnitude

__all__ = [
    "FixedPoint",
    "Words",
    "check_storable",
    "decode",
    "encode",
    "from_bit_planes",
    "largest_magnitude",
    "to_bit_planes",
]
