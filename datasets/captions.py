"""Captions from a short noun phrase, a class and measured colours. Every choice is drawn from the given rng."""
import re

COLOUR_WORDS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "beige", "black",
                "white", "grey", "gray", "golden", "gold", "silver", "colorful", "colourful", "violet", "lime")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "many", "some", "several")
MASS = frozenset("""bread milk cheese butter rice pasta spaghetti soup salad bacon lasagna water ice fire smoke snow
rain fog wind lightning money music food toast coffee tea wine beer sake lemonade honey garlic broccoli sushi popcorn
chocolate grass ivy corn furniture paper luggage clothing jewelry yarn thread soap salt japan love peace hail sand
cricket judo karate badminton volleyball basketball football baseball tennis soccer golf rugby softball hockey lacrosse
bamboo mistletoe holly wood air cheese-cake knitting sauce mail text hair macaroni oil
stationery makeup dna radiation pizza-dough""".split())
PLURAL = frozenset("people men women children feet teeth mice geese sheep-flock dice scissors".split())
SINGULAR_S = frozenset("""bus cactus dress cross glass compass grass octopus hibiscus lotus iris chess virus wheelchair-bus
octopus walrus platypus hippopotamus tennis canvas circus kiss princess boss abacus atlas moss press brass trellis
lens gas christmas stegosaurus tyrannosaurus brontosaurus brachiosaurus dinosaurus rhinoceros venus mars jesus albatross
mattress fortress stewardess waitress hostess goddess sunglass hourglass wineglass trolleybus minibus omnibus pus bass ness
trapezius aquarius sagittarius cancerus status asparagus citrus papyrus uranus taurus campus lacrosse harness
eros crucifix-s pancreas necklace-s ibis citrus locus eucalyptus minus plus bonus crocus narcissus""".split())
PREPOSITIONS = frozenset("""of with in on at and from for under over by near inside to holding wearing eating riding
playing sitting standing behind beside between around without saying running looking carrying making doing who that
reading pointing showing pushing driving being as up down lying jumping walking drinking through above below
going sleeping waving flying crossing hitting swimming dancing surfing rowing climbing lifting into against""".split())


def head_noun(phrase):
    words = phrase.split()
    for i, w in enumerate(words):
        if i and w in PREPOSITIONS:
            return words[i - 1]
    return words[-1]


def is_plural(phrase):
    h = head_noun(phrase)
    if h in PLURAL or phrase.split()[0] in NUMBERS:
        return True
    return h.endswith("s") and not h.endswith("ss") and h not in SINGULAR_S


def takes_article(phrase):
    return not (phrase.startswith("=") or is_plural(phrase) or head_noun(phrase) in MASS
                or re.match(r"(the|my|a|an|one) ", phrase))


def article(word):
    if re.match(r"(uni|use|usb|euro|ewe|ufo|one\b|ur|uk\b|us\b|u-)", word) and not word.startswith(("unin", "urn")):
        return "a"
    if re.match(r"([aefhilmnorsx]\b)", word):
        return "an"
    return "an" if word[0] in "aeiou8" else "a"


def has_colour(phrase):
    return any(w in COLOUR_WORDS for w in re.split(r"[ -]", phrase))


def noun(phrase, adjectives=()):
    """Bare phrase with adjectives put where they belong: "two cats", ["black"] -> "two black cats"."""
    words = phrase.lstrip("=").split()
    at = 1 if words[0] in NUMBERS or words[0] in ("the", "a", "an") else 0
    return " ".join(words[:at] + list(adjectives) + words[at:])


def with_article(phrase, adjectives=()):
    text = noun(phrase, adjectives)
    if phrase.startswith("flag of"):
        return "the " + text
    return article(text) + " " + text if takes_article(phrase) else text


def colour_adjective(names):
    return [] if not names else [" and ".join(names)]


def plural(phrase):
    """Plural of a short countable phrase, or None where the simple rule would be wrong."""
    words = phrase.split()
    if phrase.startswith("=") or len(words) > 2 or is_plural(phrase) or not takes_article(phrase):
        return None
    w = words[-1]
    if not w.isalpha() or any(x in PREPOSITIONS for x in words):
        return None
    special = {"mouse": "mice", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "goose": "geese",
               "person": "people", "child": "children", "leaf": "leaves", "knife": "knives", "wolf": "wolves",
               "loaf": "loaves", "fish": "fish", "sheep": "sheep", "deer": "deer", "tomato": "tomatoes",
               "potato": "potatoes", "elf": "elves", "die": "dice", "bison": "bison", "shrimp": "shrimps"}
    if w in special:
        p = special[w]
    elif w.endswith(("man", "woman")):
        p = w[:-2] + "en"
    elif re.search(r"(s|x|z|ch|sh)$", w):
        p = w + "es"
    elif re.search(r"[^aeiou]y$", w):
        p = w[:-1] + "ies"
    else:
        p = w + "s"
    return " ".join(words[:-1] + [p])


STYLE = {       # style -> (weight, template) with {A} phrase with article, {N} bare phrase
    "colour": ((4, "clip art of {A}"), (2, "a drawing of {A}"), (5, "{A}"), (2, "{N}"), (1, "{A}, clip art"),
               (1, "a cartoon of {A}"), (1, "a picture of {A}"), (1, "{N} clip art")),
    "grey": ((4, "grey drawing of {A}"), (2, "a black and white drawing of {A}"), (2, "{A}, grey drawing"),
             (1, "{A}"), (1, "a grey picture of {A}")),
    "line": ((4, "line drawing of {A}"), (2, "a black line drawing of {A}"), (2, "{A}, line drawing"), (1, "{A}"),
             (1, "a sketch of {A}"), (1, "outline drawing of {A}")),
    "silhouette": ((4, "black silhouette of {A}"), (2, "silhouette of {A}"), (2, "{A}, black silhouette"), (1, "{A}"),
                   (1, "a black icon of {A}")),
    "tinted": ((4, "{C} silhouette of {A}"), (2, "a {C} icon of {A}"), (2, "{A}, {C} silhouette")),
    "tintline": ((4, "{C} line drawing of {A}"), (2, "a {C} outline of {A}"), (2, "{A}, {C} line drawing")),
    "emoji": ((4, "emoji of {A}"), (2, "an emoji of {A}"), (4, "{A}"), (2, "{N}"), (2, "{N} emoji"),
              (1, "{A}, emoji")),
    "emojigrey": ((3, "grey emoji of {A}"), (1, "a black and white emoji of {A}"), (1, "{A}, grey emoji")),
}
SHORT = {"colour": ("{A}", "{A}", "{N}"), "emoji": ("{A}", "{N}", "{N} emoji", "emoji of {A}"),
         "grey": ("{A}", "{A}, grey", "grey drawing of {A}"),
         "line": ("{A}", "line drawing of {A}", "line drawing of {A}"),
         "silhouette": ("{A}", "silhouette of {A}", "black silhouette of {A}")}
GROUND = ((5, "{T} on a {B} background"), (2, "{T}, {B} background"), (1, "{T} on {B}"))


def pick(rng, weighted):
    total = sum(w for w, _ in weighted)
    x = rng.random() * total
    for w, value in weighted:
        x -= w
        if x < 0:
            return value
    return weighted[-1][1]


def fill(template, phrase, adjectives=(), colour=""):
    text = template.replace("{A}", with_article(phrase, adjectives)).replace("{N}", noun(phrase, adjectives))
    text = text.replace("{C}", colour)
    return re.sub(r"\b(a|an) ([a-z'-]+)", lambda m: article(m[2]) + " " + m[2], text)


def on_ground(rng, text, background):
    """Name the background ("" leaves it out)."""
    if not background:
        return text
    return pick(rng, GROUND).replace("{T}", text).replace("{B}", background).replace(" a orange", " an orange")


def caption(rng, phrase, style, names=(), classes=(), background="", place="", size="", short=False, colour=""):
    """One caption. `names`: measured colour words (may be dropped), `place`: "on the left", `size`: "small"."""
    adjectives = ([size] if size else []) + ([] if has_colour(phrase) else colour_adjective(list(names)))
    template = rng.choice(SHORT.get(style, SHORT["colour"])) if short else pick(rng, STYLE[style])
    text = fill(template, phrase, adjectives, colour)
    if place:
        text += " " + place
    words = set(phrase.split())
    if classes and not short and rng.random() < 0.3:
        extra = rng.choice(classes)
        if not words & set(extra.split()):
            text += ", " + extra
    text = on_ground(rng, text, background)
    return text.replace("grey", "gray") if rng.random() < 0.25 else text
