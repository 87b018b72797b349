"""Good pixels out of files whose metadata or last bytes are bad, as browsers show them.

Pillow refuses a PNG for a wrong checksum or a long text beside its pixels, and a JPEG for want of
its last two bytes. What comes from here is decoded within the same bounds as any other file.
"""

import io
import zlib
from collections.abc import Collection, Iterator

from PIL import Image

_PNG, _JPEG, _END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd9"
_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_LOOK = {b"tRNS", b"eXIf", b"iCCP"}  # change what is seen; kept if they can be
_FILLING = b"\x55\xaa" * 64


def mended(data: bytes) -> Iterator[bytes]:
    """Files that may show the picture of `data`, the best first; none where nothing can be
    mended.
    """
    if data.startswith(_PNG):
        yield _with_chunks(data, _LOOK)
        yield _with_chunks(data, {b"tRNS"})
    elif data.startswith(_JPEG) and _lacks_its_end_alone(data):
        yield data.removesuffix(b"\xff") + _END


def _with_chunks(data: bytes, kept: Collection[bytes]) -> bytes:
    """A PNG of its critical chunks, and of the others those named whose checksum is right."""
    # Length, kind, data, checksum: a file that is cut off ends with its last whole chunk.
    chunks, at = [_PNG], len(_PNG)
    while (end := at + 12 + int.from_bytes(data[at : at + 4])) <= len(data):
        kind, checksum = data[at + 4 : at + 8], int.from_bytes(data[end - 4 : end])
        if kind in _PIXELS or (kind in kept and zlib.crc32(data[at + 4 : end - 4]) == checksum):
            chunks.append(data[at:end])
        at = end
    return b"".join(chunks)


def _lacks_its_end_alone(data: bytes) -> bool:
    """Whether a JPEG holds all its pixels: then what stands behind them changes none."""
    # If pixels were missing, the decoder would read the filling as pixels.
    body = data.removesuffix(b"\xff")
    try:
        seen = []
        for file in (body + _END, body + _FILLING + _END):
            with Image.open(io.BytesIO(file), formats=["JPEG"]) as image:
                seen.append(image.tobytes())
    except Exception:  # decoders meet hostile bytes with any exception there is
        return False
    return seen[0] == seen[1]
