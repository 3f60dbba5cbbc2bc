#!/usr/bin/env python3
"""Writes tests/vectors/metadata/: tiny pictures with the EXIF texts that other programs write. Needs Pillow and piexif.
a1111.*: piexif's UserComment as A1111 writes it. little.jpg: little-endian TIFF, UTF-16LE. comfy.webp: tag 0x0110 "prompt:{...}" by Pillow."""
import json
import struct
import sys

import piexif
import piexif.helper
from PIL import Image

out = sys.argv[1] if len(sys.argv) > 1 else "tests/vectors/metadata"
img = Image.new("RGB", (8, 8), (200, 40, 40))
text = "a caf\u00e9, \u732b\nNegative prompt: mud\nSteps: 20, Sampler: DPM++ 2M, Seed: 5"
block = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: piexif.helper.UserComment.dump(text, encoding="unicode")}})
img.save(f"{out}/a1111.jpg", exif=block)
img.save(f"{out}/a1111.webp", exif=block)

comment = b"UNICODE\0" + "plain words\nSteps: 3, Sampler: Euler, Seed: 9".encode("utf-16-le")
tiff = b"II*\0" + struct.pack("<IHHHIIIHHHIII", 8, 1, 0x8769, 4, 1, 26, 0, 1, 0x9286, 7, len(comment), 44, 0) + comment
img.save(f"{out}/little.jpg", exif=b"Exif\0\0" + tiff)

exif = img.getexif()
exif[0x0110] = "prompt:" + json.dumps({"1": {"class_type": "KSampler"}})
exif[0x010F] = "workflow:" + json.dumps({"nodes": []})
img.save(f"{out}/comfy.webp", exif=exif)
