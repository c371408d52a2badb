"""The art of PixelWorld: palette, sprites, environments and connectors, as plain data.

A sprite is 10x10 pixels: ``#`` the dark outline, ``o`` the fill in the object's colour, ``.`` transparent. An
environment is a 16x16 grid of cells (a cell is 2x2 pixels, one latent position).
"""

from __future__ import annotations

from functools import cache

import numpy as np

SIZE = 32  # pixels of the art
CELLS = 16  # latent positions; one cell is 2x2 pixels
SPRITE = 10  # pixels; 5 cells
GROUND = 14  # first cell row of the ground strip

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 24, 32),
    "orange": (255, 136, 0),
    "yellow": (255, 228, 40),
    "green": (40, 190, 60),
    "blue": (40, 70, 235),
    "purple": (140, 40, 190),
    "pink": (255, 140, 200),
    "white": (252, 252, 252),
}
OUTLINE: RGB = (14, 12, 22)
STRIPE: RGB = (255, 0, 220)
INK: RGB = (0, 236, 236)  # connectors: ropes, speed lines, sparks, looks

_ART = {
    "robot": """
....##....
.########.
.#oooooo#.
.#o#oo#o#.
.#oooooo#.
.########.
##oooooo##
#.#oooo#.#
..#o##o#..
..##..##..""",
    "cat": """
.#......#.
#o#....#o#
#oo####oo#
#oooooooo#
#o#oooo#o#
#oooooooo#
#ooo##ooo#
.#oooooo#.
.#o#oo#o#.
..######..""",
    "bird": """
..........
....####..
...#oooo#.
...#oo#o##
##.#oooo##
#o##oooo#.
#oooooooo#
.#oo###oo#
..#oooo#..
...#..#...""",
    "fish": """
..........
..####...#
.#oooo#.#o
#oooooo#oo
#o#oooooo#
#oooooooo#
#oooooo#oo
.#oooo#.#o
..####...#
..........""",
    "ghost": """
...####...
..#oooo#..
.#oooooo#.
#oo#oo#oo#
#oo#oo#oo#
#oooooooo#
#oooooooo#
#oooooooo#
#o#oo#o#o#
.#.##.#.#.""",
    "rabbit": """
..##..##..
.#oo##oo#.
.#oo##oo#.
.#oo##oo#.
..#oooo#..
.#oooooo#.
#o#oooo#o#
#ooo##ooo#
.#oooooo#.
..######..""",
    "car": """
..........
..######..
.#oo##oo#.
.#o#ooo#o#
#oooooooo#
#oooooooo#
##########
##oooooo##
.###..###.
..#....#..""",
    "box": """
##########
#oooooooo#
##########
#ooo##ooo#
#ooo##ooo#
#oooooooo#
#oooooooo#
#oooooooo#
#oooooooo#
##########""",
    "ball": """
..######..
.#oooooo#.
#oooooooo#
#oooooooo#
##oooooo##
#o######o#
#oooooooo#
#oooooooo#
.#oooooo#.
..######..""",
    "star": """
....##....
....##....
...#oo#...
####oo####
#oooooooo#
.#oooooo#.
..#oooo#..
.#oooooo#.
.#oo##oo#.
.##....##.""",
    "cup": """
..........
########..
#oooooo###
#oooooo#.#
#oooooo#.#
#oooooo#.#
#oooooo###
#oooooo#..
.#oooo#...
..####....""",
    "crown": """
..........
#...##...#
##.#oo#.##
#o##oo##o#
#oo#oo#oo#
#oooooooo#
#oooooooo#
#o##oo##o#
#oooooooo#
##########""",
}


def _grid(art: str) -> np.ndarray:
    """The letters of an ASCII drawing as a 2-D array."""
    return np.array([list(line) for line in art.strip().splitlines()])


SPRITES: dict[str, np.ndarray] = {name: _grid(art) for name, art in _ART.items()}  # (10, 10) of '#', 'o', '.'
SIDES: dict[str | None, int] = {None: SPRITE, "big": 14, "small": 8}  # pixels
_KEPT = {"small": (0, 1, 2, 3, 6, 7, 8, 9), "big": (0, 1, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8, 9), None: range(SPRITE)}


@cache
def sprite(name: str, size: str | None = None, pattern: str | None = None) -> np.ndarray:
    """The sprite of an object in a size (rows and columns left out or doubled) and pattern: (side, side) of '#', 'o',
    '.', and 's' where the fill is striped: columns of one cell, every other cell.
    """
    kept = np.array(_KEPT[size])
    art = SPRITES[name][kept][:, kept].copy()
    if pattern == "striped":
        columns = (np.arange(len(art)) // 2) % 2 == 1
        art[:, columns] = np.where(art[:, columns] == "o", "s", art[:, columns])
    return art


# Environment: sky, ground, motif colours, and the motif's cells (16 columns a row, rows 0..15; '+' marks the motif).
_ENVIRONMENTS: dict[str, tuple[RGB, RGB, RGB, dict[int, str]]] = {
    "forest": (
        (28, 84, 58),
        (52, 54, 30),
        (18, 62, 44),
        {10: ".+....+.....+...", 11: "+++..+++...+++..", 12: "+++..+++...+++..", 13: ".+....+.....+..."},
    ),
    "desert": ((238, 206, 150), (206, 164, 104), (222, 186, 126), {12: "...+++......++..", 13: ".+++++++..++++++"}),
    "city": (
        (132, 134, 146),
        (84, 86, 94),
        (108, 110, 122),
        {
            9: ".++.....++......",
            10: ".++..++.++...++.",
            11: ".++..++.++...++.",
            12: ".++..++.++.+.++.",
            13: ".++..++.++.+.++.",
        },
    ),
    "snow": (
        (184, 204, 226),
        (226, 232, 242),
        (206, 220, 236),
        {1: "..+......+......", 4: "......+......+..", 7: ".+.........+....", 10: "....+...+......."},
    ),
    "sea": ((70, 150, 186), (24, 96, 140), (46, 122, 164), {11: "..++....++....++", 13: "++..++++..++++.."}),
    "cave": (
        (74, 56, 52),
        (104, 82, 72),
        (50, 38, 38),
        {0: "++++++++++++++++", 1: "+++.+++++.++++.+", 2: ".+...++....+...+", 3: ".+....+........."},
    ),
}
ENVIRONMENTS = tuple(_ENVIRONMENTS)


def backdrop(environment: str) -> np.ndarray:
    """The empty scene of an environment: (32, 32, 3) uint8."""
    sky, ground, motif, rows = _ENVIRONMENTS[environment]
    cells = np.empty((CELLS, CELLS, 3), np.uint8)
    cells[:GROUND] = sky
    cells[GROUND:] = ground
    for row, marks in rows.items():
        cells[row][np.array(list(marks)) == "+"] = motif
    return cells.repeat(2, 0).repeat(2, 1)


def environment_palette(environment: str) -> tuple[RGB, RGB, RGB]:
    """Sky, ground and motif colours of an environment."""
    return _ENVIRONMENTS[environment][:3]
