"""A WordNet of a few words, in the files of the real one."""

from __future__ import annotations

LICENCE = "  1 This software and database is being provided to you  \n"

DATA = {
    "noun": [
        "00000100 17 n 02 bank 0 Riverbank 0 001 @ 00000200 n 0000 | sloping land beside water; "
        '"he sat on the bank of the river"; "grass grows on riverbanks"  ',
        "00000200 14 n 01 bank 1 000 | an institution that keeps money; "
        '"she asked two banks for a loan of money"  ',
        '00000300 05 n 01 mouse 0 000 | a small rodent; "the mice ate the cheese"  ',
        '00000400 06 n 01 mouse 1 000 | a device moved by hand; "click the mouse"  ',
    ],
    "verb": ['00000100 30 v 01 look_up 0 000 02 + 02 00 + 08 00 | seek; "he looked up the word"  '],
    "adj": ['00000100 00 s 01 able(p) 0 000 | having the means; "able to swim"  '],
    "adv": ['00000100 02 r 01 well 0 000 | "the work goes well"  '],
}
INDEX = {
    "noun": [
        "bank n 2 1 @ 2 1 00000200 00000100  ",
        "mouse n 2 0 2 0 00000300 00000400  ",
        "riverbank n 1 0 1 0 00000100  ",
    ],
    "verb": ["look_up v 1 0 1 0 00000100  "],
    "adj": ["able a 1 0 1 1 00000100  "],
    "adv": ["well r 1 0 1 0 00000100  "],
}
EXCEPTIONS = {"noun": "mice mouse\n", "verb": "", "adj": "", "adv": ""}


def wordnet_files() -> dict[str, bytes]:
    """The files by name."""
    tables = {f"data.{pos}": lines for pos, lines in DATA.items()}
    tables |= {f"index.{pos}": lines for pos, lines in INDEX.items()}
    files = {name: LICENCE + "\n".join(lines) + "\n" for name, lines in tables.items()}
    files |= {f"{pos}.exc": text for pos, text in EXCEPTIONS.items()}
    return {name: text.encode() for name, text in files.items()}
