"""Colour names of pixels, and what a drawing's pixels say about its colours and its style."""
import numpy as np
from PIL import Image, ImageFilter

CHROMATIC = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "beige")
NAMES = ("black", "white", "grey") + CHROMATIC

# Plain backgrounds: name -> (RGB, weight). Jitter of at most 12 per channel keeps each inside its name.
BACKGROUNDS = (
    ("black", (12, 12, 12)), ("grey", (150, 150, 150)), ("red", (215, 35, 35)), ("orange", (250, 145, 30)),
    ("yellow", (250, 222, 50)), ("green", (50, 165, 65)), ("blue", (40, 85, 210)), ("purple", (130, 60, 180)),
    ("pink", (250, 150, 195)), ("brown", (125, 75, 35)), ("light blue", (160, 208, 245)),
    ("dark blue", (20, 35, 100)), ("light green", (165, 225, 150)), ("dark green", (15, 80, 40)),
    ("turquoise", (50, 195, 190)), ("beige", (240, 222, 190)), ("light grey", (215, 215, 215)),
    ("dark red", (120, 15, 25)),
)

# Hues (degrees) to which a drawing may be rotated or tinted; the caption still names what is measured.
TINTS = (("red", 0), ("orange", 28), ("yellow", 52), ("green", 120), ("turquoise", 178), ("blue", 222),
         ("purple", 278), ("pink", 325))


def hsv(rgb):
    """float array [...,3] in 0..255 -> hue in degrees, chroma and value in 0..255."""
    mx, mn = rgb.max(-1), rgb.min(-1)
    c = mx - mn
    d = np.where(c == 0, 1, c)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    h = np.where(mx == r, (g - b) / d % 6, np.where(mx == g, (b - r) / d + 2, (r - g) / d + 4))
    return h * 60, c, mx


def name_pixels(rgb):
    """Index into NAMES for every pixel of a float RGB array."""
    h, c, v = hsv(rgb)
    s = c / np.maximum(v, 1)
    out = np.full(h.shape, NAMES.index("grey"))

    def put(name, where):
        out[where] = NAMES.index(name)
    for name, lo, hi in (("red", 0, 14), ("orange", 14, 41), ("yellow", 41, 66), ("green", 66, 163),
                         ("turquoise", 163, 193), ("blue", 193, 256), ("purple", 256, 298), ("pink", 298, 343),
                         ("red", 343, 361)):
        put(name, (h >= lo) & (h < hi))
    warm = (h >= 14) & (h < 48)
    put("brown", warm & (v < 178))
    put("brown", ((h < 14) | (h >= 343)) & (v < 150) & (s < 0.72) & (v > 45))
    put("green", (h >= 48) & (h < 66) & (v < 150))
    put("pink", ((h < 16) | (h >= 335)) & (s < 0.55) & (v >= 190))
    put("beige", (h >= 16) & (h < 55) & (s < 0.48) & (v >= 170))
    put("grey", (c < 26) | ((s < 0.14) & (v < 235)))
    put("white", (v > 228) & (c < 24))
    put("black", (v < 52) | ((v < 75) & (c < 30)))
    return out


def shares(im):
    """Premultiplied RGBa picture -> share of the opaque pixels of each name in NAMES (sums to 1)."""
    a = np.asarray(im, dtype=np.float32)
    alpha = a[..., 3]
    keep = alpha > 100
    if keep.sum() < 8:
        keep = alpha > 20
    if not keep.any():
        return np.zeros(len(NAMES))
    rgb = a[keep][:, :3] * (255 / a[keep][:, 3:])
    return np.bincount(name_pixels(np.minimum(rgb, 255)), minlength=len(NAMES)) / keep.sum()


def describe(share):
    """Colour words worth saying: a list of 0-2 names, or ["colorful"]."""
    s = dict(zip(NAMES, share))
    chroma = sum(s[n] for n in CHROMATIC)
    if chroma < 0.12:
        ranked = sorted(("black", "white", "grey"), key=lambda n: -s[n])
        return [ranked[0]] if s[ranked[0]] > 0.62 else []
    ranked = sorted(CHROMATIC, key=lambda n: -s[n])
    first, second = ranked[0], ranked[1]
    if chroma < 0.3:            # mostly black, white or grey with some colour
        neutral = max(("black", "white", "grey"), key=lambda n: s[n])
        return [neutral, first] if s[first] > 0.7 * chroma and s[first] > 0.1 else []
    if s[first] > 0.62 * chroma:
        return [first]
    if s[first] + s[second] > 0.8 * chroma and s[second] > 0.2 * chroma:
        return [first, second]
    if sum(s[n] > 0.13 * chroma for n in CHROMATIC if n != "beige") >= 4:
        return ["colorful"]
    return []


def style_of(im, share):
    """"colour", "grey", "silhouette" or "line" for a drawing as it is."""
    s = dict(zip(NAMES, share))
    chroma = sum(s[n] for n in CHROMATIC)
    if chroma >= 0.06:
        return "colour"
    if s["grey"] > 0.38:
        return "grey"
    if coverage(im) > 0.95 and s["black"] + s["white"] > 0.8:       # a black and white picture on its own ground
        return "colour"
    if s["black"] > 0.8:
        solid = im.getchannel("a").point(lambda v: 255 if v > 128 else 0)
        inner = np.asarray(solid.filter(ImageFilter.MinFilter(5)))
        return "silhouette" if (inner > 0).sum() > 0.35 * (np.asarray(solid) > 0).sum() else "line"
    if s["white"] + s["black"] > 0.75 and s["white"] > 0.3:
        return "line"
    return "grey" if s["grey"] > 0.2 else "line"


def coverage(im):
    """Share of the bounding box that is opaque."""
    return float((np.asarray(im.getchannel("a")) > 128).mean())


def thicken(im):
    """Hairline drawings with strokes wide enough to be seen when small; others as they are."""
    return im.filter(ImageFilter.MaxFilter(3)) if coverage(im) < 0.06 else im


def visible_on(im, colour):
    """Share of the drawing's opaque pixels that stand out from a plain colour."""
    a = np.asarray(im, dtype=np.float32)[::2, ::2]
    keep = a[..., 3] > 100
    if not keep.any():
        return 0.0
    rgb = a[keep][:, :3] * (255 / a[keep][:, 3:])
    d = rgb - np.array(colour, dtype=np.float32)
    return float((d * d @ np.array([0.9, 1.77, 0.33], dtype=np.float32) > 110 ** 2).mean())   # weighted as luma


def to_grey(im):
    a = np.asarray(im).astype(np.float32)
    a[..., :3] = (a[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    return Image.fromarray(np.clip(a + 0.5, 0, 255).astype(np.uint8), "RGBa")


def to_silhouette(im, colour=(0, 0, 0)):
    alpha = np.asarray(im.getchannel("a")).astype(np.float32)[..., None]
    rgb = alpha / 255 * np.array(colour, dtype=np.float32)
    return Image.fromarray(np.concatenate([rgb, alpha], -1).round().astype(np.uint8), "RGBa")


def to_lines(im):
    """Black edges of the drawing (of its colours and of its outline) on transparent ground."""
    white = Image.new("RGB", (im.width + 8, im.height + 8), "white")
    a = np.asarray(im, dtype=np.float32)
    base = np.asarray(white, dtype=np.float32).copy()
    part = base[4:-4, 4:-4]
    part *= 1 - a[..., 3:] / 255
    part += a[..., :3]
    alpha = np.zeros(base.shape[:2], np.float32)
    alpha[4:-4, 4:-4] = a[..., 3]
    stack = np.dstack([base, alpha])
    grad = np.zeros(base.shape[:2], np.float32)
    for axis in (0, 1):
        d = np.abs(np.roll(stack, 1, axis) - np.roll(stack, -1, axis)).max(-1)
        grad = np.maximum(grad, d)
    ink = np.clip((grad - 40) * 3.2, 0, 255).astype(np.uint8)
    ink = Image.fromarray(ink).filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.BoxBlur(0.6))
    z = Image.new("L", ink.size, 0)
    return Image.merge("RGBa", (z, z, z, ink))


def rotate_hue(im, degrees):
    a = np.asarray(im, dtype=np.float32)
    alpha = np.maximum(a[..., 3:], 1)
    rgb = Image.fromarray(np.clip(a[..., :3] * (255 / alpha), 0, 255).astype(np.uint8))
    h, s, v = rgb.convert("HSV").split()
    shift = round(degrees * 256 / 360)
    h = h.point([(i + shift) % 256 for i in range(256)])
    out = np.asarray(Image.merge("HSV", (h, s, v)).convert("RGB"), dtype=np.float32) * (a[..., 3:] / 255)
    return Image.fromarray(np.concatenate([out, a[..., 3:]], -1).round().astype(np.uint8), "RGBa")


def tint(im, degrees):
    """Dark parts stay dark and white stays white; everything between takes one hue (for black or grey drawings
    the black itself takes the hue)."""
    a = np.asarray(im, dtype=np.float32)
    alpha = np.maximum(a[..., 3:], 1)
    lum = np.clip(a[..., :3] * (255 / alpha), 0, 255) @ np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255
    one = np.zeros((1, 1, 3), np.uint8)
    one[0, 0] = (round(degrees * 256 / 360) % 256, 225, 225)
    full = np.asarray(Image.fromarray(one, "HSV").convert("RGB"), dtype=np.float32)[0, 0]
    t = np.clip(0.75 * lum, 0, 1)[..., None]
    rgb = full * (1 - t) + 255 * t
    out = rgb * (a[..., 3:] / 255)
    return Image.fromarray(np.concatenate([out, a[..., 3:]], -1).round().astype(np.uint8), "RGBa")
