#!/usr/bin/python3
"""Take the pictures of one common subject each from art.h5 into common.h5: `common_set.py [build/base]`.

A caption belongs to a noun of data/common.txt when it is that noun with nothing but an article, words of style, size or colour
before it and, at most, a background after it. Same art.h5 -> same bytes.
"""
import os
import re
import sys

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
BEFORE = ("a an the clip art of emoji picture line drawing black silhouette grey gray sketch cartoon outline small large big red blue green "
          "yellow orange purple pink brown turquoise beige white light dark").split()


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "build/base"
    with open(os.path.join(HERE, "data", "common.txt"), encoding="utf-8") as f:
        nouns = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    subject = re.compile(r"^(?:(?:" + "|".join(BEFORE) + r")\s+)*(?:" + "|".join(nouns) + r")(?: on an? [a-z ]*background| on [a-z]+|,[a-z ]*background)?$")
    with h5py.File(os.path.join(folder, "art.h5")) as art:
        captions = [c.decode() for c in art["captions"][:]]
        rows = [i for i, c in enumerate(captions) if subject.match(c)]
        path = os.path.join(folder, "common.h5")
        with h5py.File(path + ".tmp", "w") as out:
            out.create_dataset("images", data=art["images"][:][rows], chunks=(64, 64, 64, 3), compression="gzip", compression_opts=4)
            text = h5py.string_dtype("utf-8")
            out.create_dataset("captions", data=np.array([captions[i] for i in rows], dtype=object), dtype=text)
            out.create_dataset("source", data=np.array([art["source"][i].decode() for i in rows], dtype=object), dtype=text)
            out.create_dataset("group", data=art["group"][:][rows])
            for key, value in art.attrs.items():
                out.attrs[key] = value
            out.attrs["title"] = "Atelier base art, common subjects"
            out.attrs["count"] = len(rows)
            out.attrs["originals"] = len(set(art["source"][:][rows]))
        os.replace(path + ".tmp", path)
    found = {n for n in nouns for i in rows if n in captions[i].split(",")[0].split()}
    print(f"common.h5: {len(rows)} pictures of {len(nouns)} subjects, {len(set(captions[i] for i in rows))} captions; none of: "
          f"{', '.join(sorted(set(nouns) - found)) or '-'}")


if __name__ == "__main__":
    main()
