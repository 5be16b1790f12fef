"""Draws the sample pictures in `pictures/`, some by hand and some by chance.

    python samples.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from pictures import COLOURS, Shape, draw_shapes, grained

FOLDER = Path(__file__).parent / "pictures"
SAMPLES = {  # file: (width, height), colours of the ground in rows, (kind, colour, x, y, radius, angle) from left to right
    "shapes.png": ((400, 300), [[(238, 242, 250), (214, 226, 244)], [(222, 232, 246), (190, 208, 236)]], [
        ("circle", "red", 92, 176, 56, 0), ("star", "purple", 214, 96, 60, 8), ("square", "green", 318, 196, 58, -7)]),
    "night.png": ((480, 360), [[(24, 30, 74), (40, 32, 96)], [(52, 60, 128), (84, 66, 140)]], [
        ("ring", "yellow", 150, 170, 78, 0), ("triangle", "orange", 356, 196, 70, 6)]),
    "wide.png": ((720, 180), [[(250, 236, 214)]], [
        ("cross", "blue", 90, 92, 52, 5), ("circle", "green", 270, 84, 46, 0), ("triangle", "red", 446, 96, 54, -6),
        ("square", "black", 620, 90, 50, 9)]),
    "tall.png": ((200, 560), [[(120, 190, 205)], [(150, 205, 200)]], [
        ("star", "yellow", 96, 120, 58, 14), ("ring", "black", 108, 400, 66, 0)]),
    "two-circles.png": ((300, 300), [[(196, 208, 160), (214, 216, 190)], [(180, 196, 150), (206, 212, 172)]], [
        ("circle", "blue", 82, 138, 48, 0), ("circle", "red", 212, 166, 60, 0)]),
    "small.png": ((80, 64), [[(70, 110, 70)]], [("cross", "white", 42, 32, 17, -8)]),
    "grainy.jpg": ((500, 400), [[(150, 178, 190), (184, 170, 150)], [(170, 186, 160), (140, 160, 186)]], [
        ("square", "purple", 110, 120, 66, 10), ("circle", "orange", 262, 278, 62, 0), ("star", "black", 404, 140, 70, -12)]),
    "empty.png": ((320, 240), [[(176, 206, 226), (226, 214, 200)]], []),
}  # fmt: skip


def draw(size, ground, shapes):
    picture = Image.fromarray(np.array(ground, np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw_shapes(picture, [Shape(kind, colour, COLOURS[colour], *place) for kind, colour, *place in shapes])
    return picture


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, sample in SAMPLES.items():
        picture = draw(*sample)
        if name.endswith(".jpg"):
            picture = grained(np.random.default_rng(1), picture)
            picture.save(FOLDER / name, quality=80)
        else:
            picture.save(FOLDER / name, optimize=True)
