"""Masters: every drawing as a premultiplied RGBA picture cropped to its alpha, longest side 118 px.

OCAL drawings are rendered from SVG by rsvg-convert; Noto emoji are the bitmaps of the font's CBDT table.
"""
import io
import re
import subprocess

import numpy as np
from PIL import Image

OCAL_ROOT = "/usr/share/openclipart/svg"
EMOJI_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_TEST = "/usr/share/unicode/emoji/emoji-test.txt"
MASTER = 118            # 92 % of 128
PUBLIC_DOMAIN = re.compile(rb'<cc:license rdf:resource="[^"]*(PublicDomain|publicdomain)')


def crop_to_alpha(im, longest=MASTER):
    """RGBA picture -> premultiplied RGBa picture, cropped to alpha > 8/255, longest side `longest`; None if blank."""
    box = im.getchannel("A").point(lambda v: 255 if v > 8 else 0).getbbox()
    if box is None or (box[2] - box[0]) * (box[3] - box[1]) < 16:
        return None
    im = im.crop(box).convert("RGBa")
    return fit(im, longest)


def fit(im, longest):
    q = longest / max(im.size)
    size = (max(1, round(im.width * q)), max(1, round(im.height * q)))
    return im if size == im.size else im.resize(size, Image.LANCZOS if q < 1 else Image.BICUBIC)


def is_public_domain(path):
    with open(path, "rb") as f:
        return PUBLIC_DOMAIN.search(f.read()) is not None


def rsvg(path, side):
    """The SVG drawn with its longest side `side` pixels, as RGBA; None where rsvg-convert cannot read it."""
    try:
        out = subprocess.run(["rsvg-convert", "-a", "-w", str(side), "-h", str(side), path],
                             capture_output=True, timeout=60).stdout
        return Image.open(io.BytesIO(out)).convert("RGBA")
    except (OSError, subprocess.TimeoutExpired):
        return None


def render_svg(path, longest=MASTER):
    """Master of one SVG file, or None (unreadable, blank, or longer than 3:1)."""
    im = rsvg(path, 256)
    if im is None:
        return None
    box = im.getchannel("A").point(lambda v: 255 if v > 8 else 0).getbbox()
    if box is None:
        return None
    w, h = box[2] - box[0], box[3] - box[1]
    if max(w, h) < longest:     # a small drawing on a large page: draw it again, larger
        side = min(4096, int(256 * 2 * longest / max(w, h)))
        im = rsvg(path, side) or im
    if max(w, h) > 3.2 * min(w, h):
        return None
    return crop_to_alpha(im, longest)


def parse_emoji_test(path=EMOJI_TEST):
    """[(code points, name, subgroup)] of the fully-qualified emoji without a skin tone, in the file's order."""
    rows, subgroup = [], ""
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.startswith("# subgroup:"):
                subgroup = line.split(":", 1)[1].strip()
            m = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
            if m:
                cps = [int(x, 16) for x in m[1].split()]
                if not any(0x1F3FB <= c <= 0x1F3FF for c in cps):
                    rows.append((cps, m[2].strip(), subgroup))
    return rows


class EmojiFont:
    """Bitmaps of a CBDT colour font by code point sequence (cmap, then the GSUB ligatures)."""

    def __init__(self, path=EMOJI_FONT):
        from fontTools.ttLib import TTFont
        font = TTFont(path)
        self.cmap = font.getBestCmap()
        self.bitmaps = font["CBDT"].strikeData[0]
        self.ligatures = {}
        for lookup in font["GSUB"].table.LookupList.Lookup:
            for sub in lookup.SubTable:
                if lookup.LookupType == 4:
                    for first, ligs in sub.ligatures.items():
                        for lig in ligs:
                            self.ligatures[tuple([first] + lig.Component)] = lig.LigGlyph

    def png(self, cps):
        """PNG bytes of the sequence, or None."""
        glyphs = tuple(self.cmap.get(c) for c in cps if c != 0xFE0F)
        glyph = glyphs[0] if len(glyphs) == 1 else self.ligatures.get(glyphs)
        return self.bitmaps[glyph].imageData if glyph in self.bitmaps else None


def render_emoji(png, longest=MASTER):
    return crop_to_alpha(Image.open(io.BytesIO(png)).convert("RGBA"), longest)


def composite(im, colour, size=64, scale=0.92, centre=(0.5, 0.5), canvas=None):
    """Premultiplied `im` on a plain `colour` (or onto `canvas`), longest side scale*size, centred at `centre`.

    Returns an RGB picture; the drawing is kept inside the canvas."""
    if canvas is None:
        canvas = Image.new("RGB", (size, size), colour)
    im = fit(im, max(4, round(scale * size)))
    x = min(max(round(centre[0] * size - im.width / 2), 0), size - im.width)
    y = min(max(round(centre[1] * size - im.height / 2), 0), size - im.height)
    over = np.asarray(im, dtype=np.float32)
    base = np.asarray(canvas, dtype=np.float32).copy()
    part = base[y:y + im.height, x:x + im.width]
    part *= 1 - over[..., 3:] / 255
    part += over[..., :3]
    return Image.fromarray(np.clip(base + 0.5, 0, 255).astype(np.uint8))
