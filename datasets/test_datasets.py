#!/usr/bin/python3
"""Check the shipped sets and the caption rules. Needs only the standard library (h5py where it is installed)."""
import hashlib
import os
import random
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import captions as cap      # noqa: E402

COUNTS = {"aiga": 61, "aiga_test": 61, "stickman": 6, "stickman_test": 17}
PACKS = {"art.h5": 1000, "emoji.h5": 150}
CAPTIONS_SHA256 = "fcc0497bc48dc2d05682d0ee9bd9d158768b876c021f9b360f5b430d067c8e17"
failures = []


def check(ok, message):
    if not ok:
        failures.append(message)


def rows(name):
    with open(os.path.join(HERE, "data", name), encoding="utf-8") as f:
        return [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]


def test_manifest():
    with open(os.path.join(HERE, "MANIFEST.sha256"), encoding="utf-8") as f:
        listed = [line.split("  ", 1) for line in f.read().splitlines()]
    for want, name in listed:
        try:
            with open(os.path.join(HERE, name), "rb") as f:
                check(hashlib.sha256(f.read()).hexdigest() == want, f"{name}: differs from MANIFEST.sha256")
        except OSError as e:
            check(False, f"{name}: {e.strerror}")
    names = {name for _, name in listed}
    for part in list(COUNTS) + ["core"]:
        for name in os.listdir(os.path.join(HERE, part)):
            check(f"{part}/{name}" in names, f"{part}/{name}: not listed in MANIFEST.sha256")


def test_folders():
    for part, count in COUNTS.items():
        folder = os.path.join(HERE, part)
        pictures = sorted(n for n in os.listdir(folder) if n.endswith(".png"))
        check(len(pictures) == count, f"{part}: {len(pictures)} pictures, expected {count}")
        for name in pictures:
            with open(os.path.join(folder, name), "rb") as f:
                head = f.read(26)
            check(head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:24]) == (64, 64)
                  and head[24:26] == b"\x08\x02", f"{part}/{name}: not a 64x64 8-bit RGB PNG")
            with open(os.path.join(folder, name[:-4] + ".txt"), encoding="utf-8") as f:
                text = f.read()
            start = "aiga pictogram of " if part.startswith("aiga") else "sks stick man"
            check(text.startswith(start) and text.count("\n") == 1, f"{part}/{name[:-4]}.txt: unexpected caption")


def test_packs():
    try:
        import h5py
    except ImportError:
        print("core packs: h5py is not installed, contents not read")
        return
    for name, count in PACKS.items():
        with h5py.File(os.path.join(HERE, "core", name), "r") as f:
            check(f["images"].shape == (count, 64, 64, 3) and f["images"].dtype == "uint8", f"{name}: images")
            for key in ("captions", "source", "group"):
                check(f[key].shape == (count,), f"{name}: {key}")
            texts = [t.decode("utf-8") for t in f["captions"][:]]
            check(all(t and t == " ".join(t.split()) for t in texts), f"{name}: an empty or untidy caption")
            check(f["images"][:].std() > 40, f"{name}: pictures look blank")


def test_tables():
    drawings = rows("ocal.tsv")
    paths = [r[0] for r in drawings]
    check(paths == sorted(set(paths)), "data/ocal.tsv: rows not sorted or not unique")
    check(all(2 <= len(r) <= 3 and r[1].strip() == r[1] != "" for r in drawings), "data/ocal.tsv: bad row")
    held = ("map_symbols/aiga", "stickmen/sm_", "smilies/smiley1", "smilies/smiley0", "cards/ornamental/",
            "computer/", "shapes/stars/", "pantyhose")
    for path in paths:
        check(not any(h in path for h in held), f"data/ocal.tsv: {path} must stay out of the base set")


def test_captions():
    """Same seed, same words, on any machine."""
    digest = hashlib.sha256()
    for path, phrase, *_ in rows("ocal.tsv"):
        rng = random.Random(path)
        for style in ("colour", "line", "emoji"):
            text = cap.caption(rng, phrase, style, ["red"], ["thing"], "light blue", short=style == "line")
            digest.update(text.encode("utf-8") + b"\n")
    check(digest.hexdigest() == CAPTIONS_SHA256, f"caption rules changed: sha256 is now {digest.hexdigest()}")
    for phrase, want in (("apple", "a red apple"), ("orange slice", "an orange slice"), ("two cats", "two red cats"),
                         ("grapes", "red grapes"), ("flag of Peru", "the flag of Peru"), ("bread", "red bread"),
                         ("u-turn arrow", "a red u-turn arrow")):
        adjectives = [] if cap.has_colour(phrase) or phrase.startswith("flag") else ["red"]
        got = cap.with_article(phrase, adjectives)
        check(got == want, f"{phrase!r} gives {got!r}, expected {want!r}")
    check(cap.article("apple") == "an" and cap.article("unicorn") == "a", "article")
    check(cap.plural("butterfly") == "butterflies" and cap.plural("cup of tea") is None, "plural")


def main():
    for test in (test_manifest, test_folders, test_packs, test_tables, test_captions):
        test()
    for message in failures[:20]:
        print("FAIL", message)
    print(f"datasets: {len(failures)} failures" if failures else "datasets: ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
