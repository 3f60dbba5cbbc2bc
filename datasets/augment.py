"""Variants of one drawing: (picture, caption) pairs, all drawn from an rng seeded by the source and the variant."""
import random

from PIL import Image, ImageOps

import captions as cap
import colours as col
from render import composite

WHITE = (255, 255, 255)
PLACES = (("on the left", (0.25, 0.5)), ("on the right", (0.75, 0.5)), ("at the top", (0.5, 0.25)),
          ("at the bottom", (0.5, 0.75)), ("in the top left corner", (0.2, 0.2)),
          ("in the top right corner", (0.8, 0.2)), ("in the bottom left corner", (0.2, 0.8)),
          ("in the bottom right corner", (0.8, 0.8)))

PEOPLE_WORDS = frozenset("man men woman women girl boy child princess carpenter hand fist".split())


class Item:
    """One original: its master picture, phrase, class words and measurements."""

    def __init__(self, source, picture, phrase, classes, mirror, emoji):
        self.source, self.picture, self.phrase = source, picture, phrase
        self.classes, self.mirror, self.emoji = classes, mirror, emoji
        self.picture = picture = col.thicken(picture)
        self.share = col.shares(picture)
        self.style = "emoji" if emoji else col.style_of(picture, self.share)
        self.names = col.describe(self.share)
        self.coverage = col.coverage(picture)
        self.full = self.coverage > 0.97
        self.outline = self.coverage < 0.7 and not {"sign", "clock", "button"} & set(classes)   # says what it is
        self.flag = classes[:1] == ["flag"]
        people = {"person", "people", "hand", "body part"} & set(classes) and "symbol" not in phrase
        self.skin = bool(people or PEOPLE_WORDS & set(phrase.replace("stick man", "").split()))
        self.card = classes[:1] == ["playing card"]
        if (self.flag or self.card or classes[:1] == ["pattern"]) and not emoji:
            self.style = "colour"
        self.on_white = self.full or col.visible_on(picture, WHITE) > 0.12

    def colour_names(self, rng, keep=0.5):
        """Colour words for a caption: style words already say black, white and grey."""
        plain = self.flag or self.card or self.full or self.skin or self.style in ("grey", "line", "silhouette")
        if plain or rng.random() > keep:
            return []
        if self.names in (["black"], ["white"], ["grey"]) or "beige" in self.names:
            return self.names if self.names != ["beige"] and "beige" not in self.names else []
        return self.names


def background(rng, picture, white):
    """(name, RGB) of a plain ground on which the picture shows; white with probability `white`."""
    if rng.random() < white and col.visible_on(picture, WHITE) > 0.12:
        return "white", WHITE
    order = list(col.BACKGROUNDS)
    rng.shuffle(order)
    for name, rgb in order:
        rgb = tuple(min(255, max(0, v + rng.randint(-10, 10))) for v in rgb)
        if col.visible_on(picture, rgb) > 0.62:
            return name, rgb
    return "white", WHITE


def named(rng, name, white_chance):
    return name if name != "white" or rng.random() < white_chance else ""


def flipped(rng, item, picture):
    return ImageOps.mirror(picture) if item.mirror and rng.random() < 0.5 else picture


def plain(item, rng, short):
    """The original on white (rarely named when short)."""
    picture = flipped(rng, item, item.picture) if short else item.picture
    name, rgb = ("white", WHITE) if item.on_white else background(rng, picture, 0)
    text = cap.caption(rng, item.phrase, item.style, item.colour_names(rng, 0.35 if short else 0.55), item.classes,
                       "" if item.full else named(rng, name, 0.0 if short else 0.6), short=short)
    return composite(picture, rgb), text


def coloured(item, rng, white=0.0):
    picture = flipped(rng, item, item.picture)
    name, rgb = background(rng, picture, white)
    text = cap.caption(rng, item.phrase, item.style, item.colour_names(rng), item.classes, named(rng, name, 0.35),
                       short=rng.random() < 0.4)
    return composite(picture, rgb, scale=rng.choice((0.92, 0.92, 0.86, 0.8))), text


def recoloured(item, rng):
    """Hue rotated (colour drawings) or tinted (black and grey ones); the caption names the measured colour."""
    picture, phrase = flipped(rng, item, item.picture), item.phrase
    before = [n for n in item.names if n in col.CHROMATIC]
    if item.style in ("colour", "emoji") and sum(item.share[3:]) > 0.12:
        for _ in range(6):
            turned = col.rotate_hue(picture, rng.randint(40, 320))
            names = col.describe(col.shares(turned))
            if names and names != item.names and "beige" not in names and names[0] not in ("black", "white", "grey"):
                break
        else:
            return coloured(item, rng, 0.6)
        if cap.has_colour(phrase):
            words = [w for w in phrase.split() if w in cap.COLOUR_WORDS]
            fixed = "fruit" in item.classes or "juice" in phrase or cap.head_noun(phrase) in words
            if fixed or len(words) != 1 or words != before or len(names) != 1:
                return coloured(item, rng, 0.6)
            phrase = " ".join(names[0] if w == words[0] else w for w in phrase.split())
        style, picture, colour = item.style, turned, ""
    else:
        if cap.has_colour(phrase):
            return coloured(item, rng, 0.6)
        colour, hue = rng.choice(col.TINTS)
        picture = col.tint(picture, hue)
        measured = col.describe(col.shares(picture))
        if measured != [colour]:
            return coloured(item, rng, 0.6)
        style = {"silhouette": "tinted", "line": "tintline"}.get(item.style, item.style)
        names = [] if style in ("tinted", "tintline") else [colour]
        style = "colour" if style == "grey" else style
    name, rgb = background(rng, picture, 0.72)
    if style in ("tinted", "tintline"):
        text = cap.on_ground(rng, cap.fill(cap.pick(rng, cap.STYLE[style]), phrase, (), colour),
                             named(rng, name, 0.3))
    else:
        text = cap.caption(rng, phrase, style, names, item.classes, named(rng, name, 0.25), short=rng.random() < 0.5)
    return composite(picture, rgb, scale=rng.choice((0.92, 0.86))), text


def restyled(item, rng):
    """Grey, silhouette or line conversion with its style word."""
    picture, options = flipped(rng, item, item.picture), []
    if item.style in ("colour", "emoji"):
        options += ["grey"]
        if not item.full and not item.flag and not item.card:
            options += ["line", "line"]
            if item.outline:
                options += ["silhouette", "tinted"]
    elif item.style == "grey" and item.outline:
        options += ["silhouette", "line", "tinted"]
    elif item.style == "silhouette":
        options += ["line"]
    if not options or cap.has_colour(item.phrase):
        return coloured(item, rng, 0.5)
    style, colour = rng.choice(options), ""
    if style == "grey":
        picture = col.to_grey(picture)
    elif style == "line":
        picture = col.to_lines(picture)
    elif style == "silhouette":
        picture = col.to_silhouette(picture)
    else:
        colour = rng.choice([b for b in col.BACKGROUNDS if b[0] in dict(col.TINTS)])
        picture, colour = col.to_silhouette(picture, colour[1]), colour[0]
    if style == "grey" and item.emoji:
        style = "emojigrey"
    name, rgb = background(rng, picture, 0.78)
    text = cap.caption(rng, item.phrase, style, (), item.classes, named(rng, name, 0.3), colour=colour)
    return composite(picture, rgb), text


def placed(item, rng):
    """Small, or off the centre."""
    picture = flipped(rng, item, item.picture)
    name, rgb = background(rng, picture, 0.6)
    size, place, centre = "", "", (0.5, 0.5)
    if rng.random() < 0.35:
        scale, size = rng.uniform(0.35, 0.46), "small"
    else:
        scale = rng.uniform(0.4, 0.55)
        place, centre = rng.choice(PLACES)
        size = "small" if rng.random() < 0.4 else ""
    text = cap.caption(rng, item.phrase, item.style, item.colour_names(rng, 0.35), (), named(rng, name, 0.2), place,
                       size, short=rng.random() < 0.6)
    return composite(picture, rgb, scale=scale, centre=centre), text


def several(item, rng):
    """Two or three of the same thing, or None."""
    many = cap.plural(item.phrase)
    if many is None:
        return None
    n = rng.choice((2, 2, 3))
    name, rgb = background(rng, item.picture, 0.6)
    canvas = Image.new("RGB", (64, 64), rgb)
    spots = {2: ((0.26, 0.5), (0.74, 0.5)), 3: ((0.26, 0.28), (0.74, 0.28), (0.5, 0.74))}[n]
    for spot in spots:
        canvas = composite(item.picture, rgb, scale=0.46, centre=spot, canvas=canvas)
    phrase = {2: "two ", 3: "three "}[n] + many
    style = item.style
    text = cap.caption(rng, phrase, style, item.colour_names(rng, 0.4), (), named(rng, name, 0.25),
                       short=rng.random() < 0.7)
    return canvas, text


def pair(item, rng, partners):
    """Two different things side by side or one above the other."""
    if rng.random() < 0.22:
        out = several(item, rng)
        if out:
            return out
    for _ in range(20):
        other = partners[rng.randrange(len(partners))]
        if other.phrase != item.phrase and len(other.phrase.split()) < 5:
            break
    a, b = (item, other) if rng.random() < 0.5 else (other, item)
    name, rgb = "white", WHITE
    if rng.random() > 0.62 or not (a.on_white and b.on_white):
        for _ in range(6):
            name, rgb = background(rng, a.picture, 0)
            if col.visible_on(b.picture, rgb) > 0.62:
                break
        else:
            name, rgb = "white", WHITE
    canvas = Image.new("RGB", (64, 64), rgb)
    upright = rng.random() < 0.25
    spots = ((0.5, 0.26), (0.5, 0.74)) if upright else ((0.26, 0.5), (0.74, 0.5))
    for one, spot in zip((a, b), spots):
        canvas = composite(flipped(rng, one, one.picture), rgb, scale=0.47, centre=spot, canvas=canvas)
    first = cap.with_article(a.phrase, [] if cap.has_colour(a.phrase) else
                             cap.colour_adjective(a.colour_names(rng, 0.5)))
    second = cap.with_article(b.phrase, [] if cap.has_colour(b.phrase) else
                              cap.colour_adjective(b.colour_names(rng, 0.5)))
    if upright:
        text = rng.choice((f"{first} above {second}", f"{second} below {first}"))
    else:
        text = rng.choice((f"{first} and {second}", f"{first} and {second}", f"{first} next to {second}",
                           f"{first} on the left and {second} on the right", f"{first} and {second} side by side"))
    if rng.random() < 0.25:
        text = ("emoji of " if item.emoji else "clip art of ") + text
    return canvas, cap.on_ground(rng, text, named(rng, name, 0.25))


VARIANTS = ("plain", "short", "coloured", "coloured2", "recoloured", "restyled", "placed", "pair")
FEW = ("plain", "short", "coloured", "placed")          # flags and playing cards: keeps their share low


PEOPLE = ("plain", "short", "coloured", "recoloured", "pair")       # many near twins among the people emoji
MANY = VARIANTS + ("coloured3", "pair2")                            # animals, plants, food, things


def variants_of(item):
    if item.flag or item.card:
        return FEW if item.on_white else FEW[1:]
    if item.emoji and item.skin:
        return PEOPLE
    if item.full and item.classes[:1] == ["pattern"]:
        return ("plain", "short", "recoloured", "restyled")
    return MANY if item.mirror else VARIANTS


def make(item, variant, partners):
    """(RGB picture 64x64, caption) of one variant."""
    rng = random.Random(f"{item.source}#{variant}")
    if variant in ("plain", "short"):
        return plain(item, rng, variant == "short")
    if variant.startswith("coloured"):
        return coloured(item, rng, {"coloured": 0.0, "coloured2": 0.45, "coloured3": 0.8}[variant])
    if variant.startswith("pair"):
        return pair(item, rng, partners)
    return {"recoloured": recoloured, "restyled": restyled, "placed": placed}[variant](item, rng)
