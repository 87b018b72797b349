"""ICC profiles made for the tests: three curves and a matrix, and CMYK by a table."""

import itertools
import struct

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03135, 0.00009, 0.8251))
SWAPPED = (
    SRGB[1],
    SRGB[2],
    SRGB[0],
)  # the first channel holds green, as a profile to test viewers has it


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb(primaries: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    """A matrix profile: XYZ (D50) of red, green and blue, one gamma for all."""
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249)}
    for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {name + b"XYZ": b"XYZ " + bytes(4) + _fixed(*xyz), name + b"TRC": _curve(gamma)}
    return _profile(b"RGB ", b"XYZ ", tags)


def grey(gamma: float) -> bytes:
    """A profile of one channel."""
    white = {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249)}
    return _profile(b"GRAY", b"XYZ ", white | {b"kTRC": _curve(gamma)})


def cmyk() -> bytes:
    """Inks of which cyan alone looks mid-grey: nothing like what a formula makes of it."""
    corners = itertools.product((0, 1), repeat=4)  # C, M, Y, K: the last one changes fastest
    lab = [(0 if k else 255 - 120 * c - 40 * m - 20 * y, 128, 128) for c, m, y, k in corners]
    table = bytes(max(0, value) for colour in lab for value in colour)
    straight = bytes(range(256))
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + straight * 4 + table + straight * 3
    white = {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249)}
    return _profile(b"CMYK", b"Lab ", white | {b"A2B0": lut})
