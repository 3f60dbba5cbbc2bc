#!/usr/bin/env python3
"""Writes tests/vectors/pictures: small images of the kinds that image sets hold, and expect.txt with what Pillow makes of each: name, width,
height, then the RGB (over white) of 16 points on a 4 x 4 grid."""
import os

import numpy as np
from PIL import Image, ImageOps

OUT = os.path.join(os.path.dirname(__file__), "..", "vectors", "pictures")


def picture(w, h, seed):
    y, x = np.mgrid[0:h, 0:w]
    r = np.stack([x * 255 / w, y * 255 / h, 128 + 100 * np.sin(x / 5 + seed)], -1)
    return Image.fromarray(r.astype("uint8"))


def alpha(img):
    w, h = img.size
    y, x = np.mgrid[0:h, 0:w]
    img = img.convert("RGBA")
    img.putalpha(Image.fromarray((np.hypot(x - w / 2, y - h / 2) < h / 2).astype("uint8") * 155 + 100))
    return img


def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e


def reference(path):
    img = ImageOps.exif_transpose(Image.open(path))
    if img.mode.startswith("I"):
        img = Image.fromarray((np.asarray(img).astype("float64") / 257 + 0.5).astype("uint8"))
    if img.mode in ("P", "LA", "PA", "RGBA") or "transparency" in img.info:
        img = img.convert("RGBA")
        white = Image.new("RGBA", img.size, "white")
        white.alpha_composite(img)
        img = white
    return img.convert("RGB")


def main():
    os.makedirs(OUT, exist_ok=True)
    at = lambda name: os.path.join(OUT, name)
    picture(48, 24, 0).save(at("rgb.png"))
    alpha(picture(24, 40, 1)).save(at("alpha.png"))
    picture(40, 24, 2).convert("L").save(at("grey.png"))
    alpha(picture(32, 32, 3)).convert("LA").save(at("grey_alpha.png"))
    p = picture(56, 24, 4).quantize(16)
    p.save(at("palette.png"), transparency=3)
    picture(24, 24, 5).convert("1").save(at("bits.png"))
    grey16 = np.linspace(0, 65535, 30 * 20).reshape(20, 30).astype("uint16")
    Image.fromarray(grey16).save(at("grey16.png"))
    picture(32, 20, 6).save(at("turned.png"), exif=exif(6))
    picture(40, 32, 7).save(at("rgb.jpg"), quality=95)
    picture(40, 24, 8).save(at("turned.jpg"), quality=95, exif=exif(8))
    picture(24, 32, 9).convert("CMYK").save(at("cmyk.jpg"), quality=95)
    picture(24, 32, 10).convert("L").save(at("grey.jpg"), quality=95)
    picture(40, 24, 11).save(at("progressive.jpg"), quality=95, progressive=True)
    alpha(picture(28, 36, 12)).save(at("alpha.webp"), lossless=True)
    picture(36, 20, 13).save(at("turned.webp"), lossless=True, exif=exif(5))
    with open(at("expect.txt"), "w") as f:
        for name in sorted(os.listdir(OUT)):
            if name == "expect.txt":
                continue
            img = reference(at(name))
            w, h = img.size
            points = [img.getpixel(((2 * i + 1) * w // 8, (2 * j + 1) * h // 8)) for j in range(4) for i in range(4)]
            f.write(f"{name} {w} {h} " + " ".join(",".join(map(str, p)) for p in points) + "\n")


main()
