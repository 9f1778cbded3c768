"""Pictures of memory: bytes as grey pixels, blocks coloured by equality, matrices of bits.

A picture is an indexed PNG without compression, so its bytes are the same everywhere. It has a text alternative with
the numbers that it shows, and the SHA-256 of the plotted data: validators of notebooks do not look into pictures.
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence

from sevref.show import palette
from sevref.show.html import Showable, as_text, element, escape, frame, heading

BLOCK = 16


def png(pixels: bytes, width: int, colours: Sequence[str] | None = None) -> bytes:
    """A PNG of one byte per pixel: index into ``colours`` ("#RRGGBB"), or grey without them."""
    height = len(pixels) // width
    lines = b"".join(b"\0" + pixels[y * width : (y + 1) * width] for y in range(height))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0 if colours is None else 3, 0, 0, 0])
    chunks = [(b"IHDR", header)]
    if colours is not None:
        chunks.append((b"PLTE", b"".join(bytes(palette.rgb(colour)) for colour in colours)))
    chunks += [(b"IDAT", _stored(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


def _stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks: the same bytes whichever library made it."""
    out = bytearray(b"\x78\x01")
    for start in range(0, len(data), 0xFFFF):
        part = data[start : start + 0xFFFF]
        size = len(part)
        out += bytes([start + size >= len(data)]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        out += part
    return bytes(out + zlib.adler32(data).to_bytes(4, "big"))


class Picture(Showable):
    """One picture. ``alt`` says in words what it shows; ``digest`` is the SHA-256 of the plotted bytes."""

    def __init__(
        self, pixels: bytes, width: int, title: str, alt: str, *, scale: int = 2, colours: Sequence[str] | None = None
    ) -> None:
        self.title, self.alt = title, alt
        self.digest = hashlib.sha256(pixels).hexdigest()
        self._pixels, self._width, self._scale, self._colours = pixels, width, scale, colours

    def text(self) -> str:
        return f"{self.title}\n  {self.alt}\n  plotted data: SHA-256 {self.digest}"

    def html(self) -> str:
        return frame(self.drawn(), as_text(self.text()))

    def drawn(self) -> str:
        """The picture with its words, without the text form."""
        height = len(self._pixels) // self._width
        source = "data:image/png;base64," + b64encode(png(self._pixels, self._width, self._colours)).decode()
        shown = element(
            "div",
            f'<img src="{source}" alt="{escape(self.title)}: {escape(self.alt)}" width="{self._width * self._scale}" '
            f'height="{height * self._scale}" style="image-rendering:pixelated;max-width:100%">',
        )
        words = element("div", escape(self.alt), "font-size:12px;max-width:34em")
        digest = element("div", f"plotted data: SHA-256 {self.digest[:16]}…", "font-size:11px")
        return heading(self.title) + shown + words + digest


class Gallery(Showable):
    """Pictures beside each other, or below each other on a narrow page."""

    def __init__(self, *pictures: Picture, title: str = "") -> None:
        self.pictures, self.title = pictures, title

    def text(self) -> str:
        return "\n".join([*([self.title] if self.title else []), *(picture.text() for picture in self.pictures)])

    def html(self) -> str:
        cells = "".join(element("div", picture.drawn(), "flex:0 1 auto") for picture in self.pictures)
        row = element("div", cells, "display:flex;flex-wrap:wrap;gap:4px 22px;align-items:flex-start")
        return frame(heading(self.title), row, as_text(self.text()))


def blocks(data: bytes) -> list[bytes]:
    """The 16-byte blocks of ``data``."""
    return [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]


def grey(data: bytes, width: int, title: str, note: str = "") -> Picture:
    """One cell for each 16-byte block, ``width`` a line, as grey as the block's first byte."""
    found = blocks(data)
    alt = f"{width} × {len(found) // width} blocks, each as grey as its first byte; {len(set(found))} different blocks"
    return Picture(data[::BLOCK], width, title, alt + (f"; {note}" if note else ""), scale=4)


def equality(data: bytes, title: str, per_line: int = 16) -> Picture:
    """One cell for each 16-byte block, in reading order: equal blocks have one colour, what occurs once is grey."""
    found = blocks(data)
    counts = Counter(found)
    repeated = [block for block, count in counts.items() if count > 1]
    index = {block: 1 + i % len(palette.FIELDS) for i, block in enumerate(repeated)}
    pixels = bytes(index.get(block, 0) for block in found)
    pixels += bytes(-len(pixels) % per_line)
    most = max(counts.values())
    alt = f"{len(found)} blocks, {len(counts)} different; the most frequent occurs {most} time{'s' if most > 1 else ''}"
    return Picture(pixels, per_line, title, alt, scale=10, colours=[palette.SINGLE, *palette.FIELDS])


def bits(rows: Sequence[bytes], title: str, note: str, scale: int = 7) -> Picture:
    """One line for each of ``rows``, one cell for each bit; the lowest bit of the first byte is on the left."""
    pixels = bytes(byte >> bit & 1 for row in rows for byte in row for bit in range(8))
    ones = sum(pixels)
    width = 8 * len(rows[0])
    alt = f"{len(rows)} × {width} bits, {ones} of {len(pixels)} set ({100 * ones / len(pixels):.0f} %); {note}"
    return Picture(pixels, width, title, alt, scale=scale, colours=[palette.CLEAR, palette.SET])
