#!/usr/bin/env python3
"""Writes tests/vectors/templates/expansions.json: what dynamicprompts' CombinatorialPromptGenerator makes of each template, with the
wildcard files beside it. Needs `pip install dynamicprompts pyyaml`."""
import json
import logging
import os

from dynamicprompts.generators import CombinatorialPromptGenerator
from dynamicprompts.wildcards import WildcardManager

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors", "templates")
TEMPLATES = [
    # docs/SYNTAX.md
    "{summer|autumn|winter|spring} is coming", "{0.5::summer|0.1::autumn|0.3::winter|0.1::spring}",
    "My favourite ice-cream flavours are {2$$chocolate|vanilla|strawberry}",
    "My favourite ice-cream flavours are {2$$ and $$chocolate|vanilla|strawberry}",
    "My favourite ice-cream flavours are {1-2$$ and $$chocolate|vanilla|strawberry}",
    "{-2$$chocolate|vanilla|strawberry}", "{1-$$chocolate|vanilla|strawberry}", "{4$$chocolate|vanilla|strawberry}",
    "__season__ is coming", "My favourite ice-cream flavours are {2$$__flavours__}",
    "__seasons2__ is coming", "__animals/all__", "The colour of my shirt is __colours*__", "__animals/**__", "__artists/artists/**__",
    "__artists/artists/finnish__ and __artists/clothing__", "__artists/weighted__", "__flat__", "__things__", "__deep/er__",
    "${season={summer|autumn|winter|spring}} __season_clothes__", "__season_clothes(season=winter)__", "__season_default__",
    "${season=winter}__season_default__", "${season=__season__} and In ${season}, I wear ${season} shirts",
    "${p={blond|brown}, {tall|short}}\nA ${p} man and a ${p} woman",
    "${subject=boy} ${weather=sun} __artists/examples/prompt__", "${subject=boy} __artists/examples/winter__",
    "# Set the season variable\n    ${season={\n        summer\n    |autumn\n    # | fall    # commented this value out\n    |winter\n    }}\n"
    "   In ${season:summer}, I wear ${season:summer} shirts",
    "%{something wrapping ..., very cool, neat$$this internal prompt}", "%{{a|b} … c$${d|e}}", "%{no dots$$x}",
    "A {red|green|blue} {square|circle}", "{@red|green|blue} {@square|circle|star}",
    # the parser's corners
    "{ a | b }", "{|a}", "x {0-1$$a|b} y", "{{a|b}|{a|c}}", "{red|red|blue}", "{2$$a|{b|c}}", "a # c\n b", "{a|b} {@c|d|e}",
    "${x={a|b}} ${x} ${x}", "{3$$a|b}", "{1-2$$, $$a|b|c}", "{@a|b} {c|d|e}", "a }", "{2$$|a|b}", "${x=  {a|b}}${x:z}q",
    "${y:z {1|2}}", "{a\n|b\n# | c\n|d}", "a {b {c|d} e|f}", "{a}", "{2-1$$a|b}", "{!a|b}", "x{1-2$$ | $$a|b}", "${ x = a } ${ x }",
    "a // b\nc", "{a |b } c", "{a|b}{c|d}{e|f}", "{5::a|b::c}", "{2$$and$$a|b}", "${x?=a}${x}", "a{  }b",
    "{1$$a|b} , {c}", "( {a|b}:1.2 ) [x:{y|z}:0.5]", "__colours-${t:cold}__", "${t=warm}__colours-${t}__", "colours __ colours-cold __"[:7],
    "{2$${a|b}|{c|d}|e}", "{1-3$$ $${a|b}|c|{d|e|f}}", "{{{a|b}|c}|{d|{e|f}}} {g|h}", "{2$$a|b|c} {2$$x|y}", "__~season__"[:0] + "plain",
    "{3$$, $$1|2|3|4}", "Test änderō {ä|ö}", "Test [low emphasis:0.4] (high:1.4)",
]


def main():
    logging.disable(logging.CRITICAL)
    generator = CombinatorialPromptGenerator(WildcardManager(os.path.join(HERE, "wildcards")))
    out = [{"template": t, "expansions": generator.generate(t, 400)} for t in TEMPLATES]
    with open(os.path.join(HERE, "expansions.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(x, ensure_ascii=False) for x in out) + "\n]\n")


if __name__ == "__main__":
    main()
