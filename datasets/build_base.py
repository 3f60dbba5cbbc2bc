#!/usr/bin/python3
"""Build the base training set: build/base/art.h5 and build/base/heldout.h5 (see README.md in this folder).

Needs the Debian packages openclipart-svg, fonts-noto-color-emoji, unicode-data, librsvg2-bin, python3-pil,
python3-numpy, python3-h5py and python3-fonttools. Same packages -> same bytes.
"""
import argparse
import hashlib
import os
import re
import sys
import time

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import augment as aug       # noqa: E402
import captions as cap      # noqa: E402
import render               # noqa: E402

SIZE = 64
LICENCE_OCAL = "Open Clip Art Library drawings: public domain (Creative Commons Public Domain Dedication)"
LICENCE_EMOJI = "Noto Color Emoji: SIL Open Font License 1.1, Copyright 2013-2017 Google Inc."
LICENCE = LICENCE_OCAL + "; " + LICENCE_EMOJI


class Progress:
    """One line at a time on stderr, about every two seconds, with the time left."""

    def __init__(self, what, total):
        self.what, self.total, self.start, self.last = what, total, time.monotonic(), 0.0

    def step(self, done):
        now = time.monotonic()
        if now - self.last < 2 and done < self.total:
            return
        self.last = now
        left = (now - self.start) / max(done, 1) * (self.total - done)
        print(f"{self.what}: {done}/{self.total}, {left:.0f} s left", file=sys.stderr, flush=True)


def read_table(name):
    """Rows of a tab-separated data file, without comments."""
    with open(os.path.join(HERE, "data", name), encoding="utf-8") as f:
        return [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]


class Classes:
    def __init__(self):
        self.rows = {r[0]: ([c for c in r[1].split(",") if c], r[2] == "1") for r in read_table("classes.tsv")}

    def of(self, key):
        """(class words, mirror allowed) of the longest prefix."""
        for n in range(len(key), 0, -1):
            if key[:n] in self.rows:
                return self.rows[key[:n]]
        return [], False


def load_ocal(classes, every):
    items, dropped = [], []
    rows = read_table("ocal.tsv")[::every]
    progress = Progress("rendering drawings", len(rows))
    for i, (path, phrase, *own) in enumerate(rows):
        progress.step(i + 1)
        full = os.path.join(render.OCAL_ROOT, path)
        if not os.path.isfile(full) or not render.is_public_domain(full):
            dropped.append(path)
            continue
        picture = render.render_svg(full)
        if picture is None:
            dropped.append(path)
            continue
        words, mirror = classes.of(path)
        if own:
            words = [w for w in own[0].split(",") if w]
        items.append(aug.Item(path, picture, phrase, words, mirror, False))
    return items, dropped


def emoji_phrase(name):
    """CLDR short name -> noun phrase."""
    name = name.replace("’", "'").replace("“", "").replace("”", "").replace("⊛", "")
    special = {"keycap: #": "number sign keycap", "keycap: *": "asterisk keycap"}
    if name in special:
        return special[name]
    m = re.match(r"flag: (.*)", name)
    if m:
        return "flag of " + re.sub(r" \(.*\)", "", m[1]).replace("&", "and").replace(" - ", " ")
    m = re.match(r"keycap: (.*)", name)
    if m:
        return "keycap number " + m[1]
    m = re.match(r"(family|couple with heart|kiss): (.*)", name)
    if m:
        who = m[2].split(", ")
        return {"family": "family of a ", "couple with heart": "couple with a heart, a ",
                "kiss": "kiss of a "}[m[1]] + ", a ".join(who[:-1]) + " and a " + who[-1]
    m = re.match(r"(person|man|woman|deaf person)?:? ?(.*): (.*)", name)
    if m:
        what = m[3].replace("curly hair", "with curly hair").replace("red hair", "with red hair")
        what = what.replace("white hair", "with white hair").replace("blond hair", "with blond hair")
        what = "without hair" if what == "bald" else "with a beard" if what == "beard" else what
        return (name.split(":")[0] + " " + what).lower()
    return re.sub(r"[()!]", "", name).replace("&", "and").lower()


def load_emoji(classes, every):
    font, items, seen = render.EmojiFont(), [], set()
    rows = render.parse_emoji_test()[::every]
    overrides = dict(r[:2] for r in read_table("emoji.tsv"))
    progress = Progress("reading emoji", len(rows))
    for i, (cps, name, subgroup) in enumerate(rows):
        progress.step(i + 1)
        png = font.png(cps)
        if png is None or png in seen:
            continue
        seen.add(png)
        phrase = overrides.get(name, emoji_phrase(name))
        if phrase == "-":
            continue
        words, mirror = classes.of("emoji/" + subgroup)
        source = "emoji " + "-".join(f"{c:04X}" for c in cps)
        items.append(aug.Item(source, render.render_emoji(png), phrase, words, mirror, True))
    return items


def digest(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def held_out(item):
    """5 % by title, so that all drawings of one title fall on the same side."""
    return int(digest("title " + item.phrase.lower())[:8], 16) % 20 == 0


def write_pack(path, title, work, count_originals, licence=LICENCE, level=4):
    """work: [(make() -> (picture, caption), source, group)], written in this order, 64 images a chunk."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    tmp = path + ".tmp"
    n = len(work)
    progress = Progress("writing " + os.path.basename(path), n)
    text, all_captions = h5py.string_dtype("utf-8"), []
    with h5py.File(tmp, "w") as f:
        images = f.create_dataset("images", (n, SIZE, SIZE, 3), "uint8", chunks=(min(64, n), SIZE, SIZE, 3),
                                  compression="gzip", compression_opts=level)
        for start in range(0, n, 64):
            block = []
            for make, _, _ in work[start:start + 64]:
                picture, words = make()
                block.append(np.asarray(picture))
                all_captions.append(words)
            images[start:start + len(block)] = np.stack(block)
            progress.step(start + len(block))
        f.create_dataset("captions", data=np.array(all_captions, dtype=object), dtype=text)
        f.create_dataset("source", data=np.array([s for _, s, _ in work], dtype=object), dtype=text)
        f.create_dataset("group", data=np.array([g for _, _, g in work], dtype=np.int32))
        f.attrs["format"] = "atelier image pack 1"
        f.attrs["title"] = title
        f.attrs["licence"] = licence
        f.attrs["count"] = n
        f.attrs["originals"] = count_originals
    os.replace(tmp, path)
    return all_captions


def statistics(name, texts):
    words = [re.findall(r"[a-z0-9']+", t.lower()) for t in texts]
    vocabulary = {w for ws in words for w in ws}
    print(f"{name}: {len(texts)} items, vocabulary {len(vocabulary)} words, "
          f"mean caption {sum(map(len, words)) / len(words):.2f} words, longest {max(map(len, words))}, "
          f"{sum('background' in t or ' on white' in t for t in texts) / len(texts):.0%} name the background")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="build/base", help="folder to write art.h5 and heldout.h5 into")
    parser.add_argument("--every", type=int, default=1, help="take every n-th original only (for trying things)")
    args = parser.parse_args()
    start = time.monotonic()
    classes = Classes()
    ocal, dropped = load_ocal(classes, args.every)
    emoji = load_emoji(classes, args.every)
    items = ocal + emoji
    for path in dropped:
        print("left out:", path, file=sys.stderr)
    train = [i for i in items if not held_out(i)]
    test = [i for i in items if held_out(i)]

    def alike(emoji_side, style):
        return [i for i in train if i.emoji == emoji_side and not (i.full or i.flag or i.card)
                and (i.emoji or (i.style == "colour") == (style == "colour"))]
    partners = {(e, s): alike(e, s) for e in (False, True) for s in ("colour", "other")}

    def maker(item, variant):
        side = partners[item.emoji, "colour" if item.style == "colour" or item.emoji else "other"]
        return lambda: aug.make(item, variant, side)
    number = {item.source: k for k, item in enumerate(items)}
    work = [(maker(i, v), i.source, number[i.source], digest(i.source + "#" + v))
            for i in train for v in aug.variants_of(i)]
    work.sort(key=lambda w: w[3])       # a fixed shuffle: any prefix of the pack is a fair sample
    texts = write_pack(os.path.join(args.out, "art.h5"), "Atelier base art, training", [w[:3] for w in work],
                       len(train))
    held = [(maker(i, v), i.source, number[i.source]) for i in test for v in ("plain", "coloured")]
    held_texts = write_pack(os.path.join(args.out, "heldout.h5"), "Atelier base art, held out", held, len(test))
    print(f"originals: {len(ocal)} drawings + {len(emoji)} emoji; train {len(train)}, held out {len(test)}")
    sources = [w[1] for w in work]
    flags = sum(("/flags/" in s) or bool(re.match(r"emoji 1F1|emoji 1F3F4-", s)) for s in sources)
    cards = sum("/cards/" in s for s in sources)
    print(f"flags {flags / len(sources):.1%}, playing cards {cards / len(sources):.1%} of the training items")
    statistics("art.h5", texts)
    statistics("heldout.h5", held_texts)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
