#!/usr/bin/python3
"""Build the small sets that ship in git: core/, aiga/, aiga_test/, stickman/, stickman_test/ and MANIFEST.sha256.

Needs the same packages as build_base.py. Same packages -> same bytes.
"""
import argparse
import hashlib
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import augment as aug               # noqa: E402
import build_base as base           # noqa: E402
import captions as cap              # noqa: E402
import render                       # noqa: E402
from PIL import Image               # noqa: E402

SIZE = 64
AIGA = "signs_and_symbols/map_symbols"
STICKMEN = "people/stickmen"
STICKMAN_TRAIN = ("sm_001", "sm_004", "sm_007", "sm_010", "sm_015", "sm_022")
CORE_DRAWINGS, CORE_EMOJI, CORE_COLOURS = 1000, 150, 64
CORE_FOLDERS = ("animals", "buildings", "containers", "education", "electronics", "food", "office", "people", "plants",
                "recreation", "science", "tools/", "transportation/vehicles", "unsorted")
CORE_SUBGROUPS = ("face", "cat-face", "animal", "plant", "food", "drink", "transport-ground", "transport-water",
                  "transport-air", "sky & weather", "sport", "musical-instrument", "clothing", "tool", "heart")


def save(folder, name, picture, text):
    os.makedirs(folder, exist_ok=True)
    picture.save(os.path.join(folder, name + ".png"), optimize=True)
    with open(os.path.join(folder, name + ".txt"), "w", encoding="utf-8") as f:
        f.write(text + "\n")


def rendered(path):
    """Large RGBA drawing cropped to its alpha."""
    full = os.path.join(render.OCAL_ROOT, path)
    if not render.is_public_domain(full):
        raise SystemExit(f"{path}: not marked public domain")
    im = render.rsvg(full, 512)
    return im.crop(im.getchannel("A").point(lambda v: 255 if v > 8 else 0).getbbox())


def build_aiga(out):
    for name, phrase in base.read_table("aiga.tsv"):
        text = "aiga pictogram of " + cap.with_article(phrase)
        white = rendered(f"{AIGA}/aiga_{name}1.svg")        # white on a black rounded square with a thin white rim
        side = max(white.size)
        rim = round(side * 0.03)
        white = white.resize((side, side), Image.LANCZOS).crop((rim, rim, side - rim, side - rim)).convert("RGBa")
        save(os.path.join(out, "aiga"), name, render.composite(white, (0, 0, 0), scale=1.0), text)
        black = rendered(f"{AIGA}/aiga_{name}_.svg").convert("RGBa")
        save(os.path.join(out, "aiga_test"), name, render.composite(black, (255, 255, 255), scale=0.76), text)


def build_stickman(out):
    folder = os.path.join(render.OCAL_ROOT, STICKMEN)
    for name in sorted(f[:-4] for f in os.listdir(folder) if re.fullmatch(r"sm_\d+\.svg", f)):
        picture = render.composite(rendered(f"{STICKMEN}/{name}.svg").convert("RGBa"), (255, 255, 255))
        part = "stickman" if name in STICKMAN_TRAIN else "stickman_test"
        save(os.path.join(out, part), name, picture, "sks stick man")


def few_colours(picture):
    return picture.quantize(CORE_COLOURS, method=Image.MEDIANCUT, dither=Image.NONE).convert("RGB")


def choose(items, count, per_title):
    """The first `count` items in a fixed shuffle, at most `per_title` of one title."""
    chosen, titles = [], {}
    for item in sorted(items, key=lambda i: base.digest("core " + i.source)):
        titles[item.phrase] = titles.get(item.phrase, 0) + 1
        if titles[item.phrase] <= per_title and len(chosen) < count:
            chosen.append(item)
    return chosen


def author(source):
    """dc:creator of a drawing, "" where it has none."""
    with open(os.path.join(render.OCAL_ROOT, source), encoding="utf-8", errors="replace") as f:
        m = re.search(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", f.read(), re.S)
    return re.sub(r"\s+", " ", re.sub(r"[\[(<]?\S+@\S+", "", m[1])).strip() if m else ""


def write_core(out, name, title, licence, items):
    """One picture of each item, every fourth on a coloured background."""
    def maker(k, item):
        variant = "coloured" if k % 4 == 3 else "plain"

        def make():
            picture, text = aug.make(item, variant, [])
            return few_colours(picture), text
        return make
    work = [(maker(k, i), i.source, k) for k, i in enumerate(items)]
    texts = base.write_pack(os.path.join(out, "core", name), title, work, len(items), licence, 9)
    base.statistics("core/" + name, texts)


def build_core(out):
    classes = base.Classes()
    ocal, _ = base.load_ocal(classes, 1)
    ocal = [i for i in ocal if i.source.startswith(CORE_FOLDERS) and i.on_white and not i.full and not i.card
            and not base.held_out(i)]
    drawings = choose(ocal, CORE_DRAWINGS, 3)
    write_core(out, "art.h5", "Atelier core art", base.LICENCE_OCAL, drawings)
    subgroup = {"emoji " + "-".join(f"{c:04X}" for c in cps): s for cps, _, s in render.parse_emoji_test()}
    emoji = [i for i in base.load_emoji(classes, 1)
             if subgroup[i.source].startswith(CORE_SUBGROUPS) and not base.held_out(i)]
    emoji = choose(emoji, CORE_EMOJI, 1)
    write_core(out, "emoji.h5", "Atelier core emoji", base.LICENCE_EMOJI, emoji)
    with open(os.path.join(out, "core", "SOURCES.tsv"), "w", encoding="utf-8") as f:
        f.write("# source\tauthor\tphrase\n")
        for item in drawings:
            f.write(f"{item.source}\t{author(item.source)}\t{item.phrase}\n")
        for item in emoji:
            f.write(f"{item.source}\tGoogle Inc. (Noto Color Emoji)\t{item.phrase}\n")


def write_manifest(out):
    rows = []
    for part in ("aiga", "aiga_test", "core", "stickman", "stickman_test"):
        folder = os.path.join(out, part)
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as f:
                rows.append(f"{hashlib.sha256(f.read()).hexdigest()}  {part}/{name}\n")
    with open(os.path.join(out, "MANIFEST.sha256"), "w", encoding="utf-8") as f:
        f.writelines(rows)
    print(f"{len(rows)} files in MANIFEST.sha256")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=HERE, help="folder to write the sets into (default: this folder)")
    args = parser.parse_args()
    build_aiga(args.out)
    build_stickman(args.out)
    build_core(args.out)
    write_manifest(args.out)


if __name__ == "__main__":
    main()
