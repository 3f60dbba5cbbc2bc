#!/usr/bin/env python3
"""Writes tests/vectors/captions/kohya.txt: every caption that kohya's sd-scripts may make of some texts and settings (process_caption, many
random draws). KOHYA: a checkout of it; the function is taken out of its file, which cannot be imported without much else. Also writes
tests/vectors/metadata/kohya-keys.txt, the ss_ keys that its train_network.py writes.
Lines: "conf SHUFFLE KEEP WILDCARDS DROP KEEP_SEPARATOR SECONDARY PREFIX SUFFIX", "text TEXT" (both with words as JSON), "is CAPTION" sorted."""
import json
import math
import os
import random
import re
import textwrap
import types

KOHYA = os.environ["KOHYA"]
HERE = os.path.join(os.path.dirname(__file__), "..", "vectors")

CASES = [
    (dict(), ["a cat,  sitting", "first\nsecond", "{a|b} {{x}}", "", "a;b", " padded , words "]),
    (dict(prefix="photo of", suffix=", best"), ["a cat", "", "one\ntwo"]),
    (dict(secondary=";;;"), ["a;;;b, c;;;d", "none"]),
    (dict(shuffle=1), ["a, b, c", " a ,b,, c", "one", "x, y ||| a, b ||| q, r", "x ||| a, b", "||| a ||| b", "a\nb, c"]),
    (dict(shuffle=1, keep=2), ["a, b, c, d", "a", "a, b", ""]),
    (dict(shuffle=1, keep=1, secondary=";"), ["a;b, c;d, e"]),
    (dict(shuffle=1, prefix="p,", suffix=",s"), ["a, b"]),
    (dict(drop=0.5), ["a, b, c", "x, y ||| a, b ||| q", "", "a"]),
    (dict(drop=0.5, keep=1, shuffle=1), ["a, b, c"]),
    (dict(drop=1.0), ["a, b", "x ||| a ||| q"]),
    (dict(wildcards=1), ["one\ntwo\n\nfour", "{red|green||blue} car", "{{a|b}} {x}", "{} {a", "{a|b}}", "{a|{b|c}} d", "a{b|c}d{e|f}", "}{a|b}{",
                         "{{{a|b}}}", "{a\nb|c}", "caf\u00e9 {\u732b|\u72ac}"]),
    (dict(wildcards=1, shuffle=1, keep=1), ["{a|b}, {c, d|e}, f"]),
    (dict(wildcards=1, prefix="{x|y}"), ["z"]),
]


def piece(text, start):
    return textwrap.dedent(re.search(rf"^( *){start}.*?(?=^\1\S)", text, flags=re.S | re.M).group(0))


def main():
    text = open(os.path.join(KOHYA, "library/train_util.py"), encoding="utf-8").read()
    scope = {"random": random, "re": re, "math": math}
    exec(piece(text, "def process_caption").replace("subset: BaseSubset", "subset"), scope)
    me = types.SimpleNamespace(replacements={}, current_epoch=0, current_step=0, max_train_steps=1)
    random.seed(5)
    with open(os.path.join(HERE, "captions", "kohya.txt"), "w", encoding="utf-8") as f:
        for case, texts in CASES:
            c = {**dict(shuffle=0, keep=0, wildcards=0, drop=0, separator="|||", secondary="", prefix="", suffix=""), **case}
            f.write(f"conf {c['shuffle']} {c['keep']} {c['wildcards']} {c['drop']} " +
                    " ".join(json.dumps(c[k]) for k in ("separator", "secondary", "prefix", "suffix")) + "\n")
            for t in texts:
                s = types.SimpleNamespace(caption_prefix=c["prefix"], caption_suffix=c["suffix"], caption_dropout_rate=0,
                                          caption_dropout_every_n_epochs=0, enable_wildcard=bool(c["wildcards"]), shuffle_caption=bool(c["shuffle"]),
                                          token_warmup_step=0, caption_tag_dropout_rate=c["drop"], keep_tokens_separator=c["separator"],
                                          caption_separator=",", keep_tokens=c["keep"], secondary_separator=c["secondary"])
                f.write("text " + json.dumps(t) + "\n")
                for out in sorted({scope["process_caption"](me, s, t) for _ in range(4000)}):
                    f.write("is " + json.dumps(out) + "\n")
    script = open(os.path.join(KOHYA, "train_network.py"), encoding="utf-8").read()
    with open(os.path.join(HERE, "metadata", "kohya-keys.txt"), "w") as f:
        f.write("\n".join(sorted(set(re.findall(r'"(ss_\w+)"', script)))) + "\n")


main()
