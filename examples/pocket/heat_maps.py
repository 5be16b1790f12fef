"""Whether the heat maps of `look` point at what a question is about: colour questions about pictures that training never saw.

    python heat_maps.py LOOK              # LOOK: path of the program
    python heat_maps.py LOOK --save DIR   # and keeps the first pictures, with their heat maps

Each question asks for the colour of one shape ("What colour is the star?"). Counted is how often the attention of the answer's first
token has more of its mass inside the shape's box than the box has of the picture's area. A patch on the edge of the box counts by the
part of it that is inside.
"""

import argparse
import itertools
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import pictures

HERE = Path(__file__).parent
PATCH = 14


def colour_questions(count):
    """Held-out pictures whose question asks for the colour of a shape: (index, scene, image, question, shape asked for)."""
    found = ((index, *example) for index, example in enumerate(pictures.held_out(10**9)) if example[2].kind == "colour")
    for index, scene, image, question in itertools.islice(found, count):
        yield index, scene, image, question, scene.shapes[question.answer_words[0].about]


def box(scene, shape):
    """(left, top, right, bottom) of a shape in patches of the canvas, cut at the picture's edges."""
    scale = scene.fitted[0] / scene.width, scene.fitted[1] / scene.height
    if shape.kind in ("circle", "ring"):
        corners = [(shape.x + a * shape.radius, shape.y + a * shape.radius) for a in (-1, 1)]
    else:
        corners = pictures.outline(shape, 1, shape.x, shape.y)
    xs, ys = zip(*corners)
    inside = lambda value, most: min(max(value, 0), most)
    left, right = (inside(f(xs) * scale[0], scene.fitted[0]) / PATCH for f in (min, max))
    top, bottom = (inside(f(ys) * scale[1], scene.fitted[1]) / PATCH for f in (min, max))
    return left, top, right, bottom


def share_inside(maps, area):
    """The share of the mass of maps (…, rows, columns) in a box."""
    left, top, right, bottom = area
    cover = lambda first, last, count: np.clip(np.minimum(np.arange(count) + 1, last) - np.maximum(np.arange(count), first), 0, 1)
    rows, columns = cover(top, bottom, maps.shape[-2]), cover(left, right, maps.shape[-1])
    return np.einsum("...yx,y,x->...", maps, rows, columns) / maps.sum((-2, -1))


def main(program, model, count, save):
    if save:
        save.mkdir(parents=True, exist_ok=True)
    above, shares, areas, right_answers = [], [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        png, npy = f"{folder}/picture.png", f"{folder}/map.npy"
        for index, scene, image, question, shape in colour_questions(count):
            image.save(png)
            look = [program, "--quiet", "--model", str(model), "--image", png, question.text, "--heat-map"]
            answer = subprocess.run([*look, npy], check=True, capture_output=True, text=True).stdout.strip()
            right_answers += answer == question.answer
            maps = np.load(npy)[0].astype(float)  # of the first token: (cross layers, heads, rows, columns)
            maps = np.concatenate([maps.mean(1, keepdims=True), maps], 1)  # the mean of the heads, then each
            left, top, right, bottom = area = box(scene, shape)
            areas.append((right - left) * (bottom - top) * PATCH**2 / math.prod(scene.fitted))
            shares.append(share_inside(maps, area))
            above.append(shares[-1] > areas[-1])
            if save and len(above) <= 8:
                image.save(save / f"{index:04}.png")
                subprocess.run([*look, str(save / f"{index:04}-map.png")], check=True, capture_output=True)
                print(f"{index:04}: {question.text} {answer}")
    above, shares = np.array(above), np.array(shares)
    print(f"{count} colour questions, {right_answers} answered right; the box is {np.mean(areas):.3f} of the picture on average")
    print(f"{'':14}{'mean of heads':>24}" + "".join(f"{f'head {head}':>24}" for head in range(above.shape[2] - 1)))
    for layer in range(above.shape[1]):
        cells = (f"{100 * above[:, layer, h].mean():.1f} % ({shares[:, layer, h].mean():.3f} inside)" for h in range(above.shape[2]))
        print(f"cross layer {layer} " + "".join(f"{cell:>24}" for cell in cells))
    best = above[:, :, 0].mean(0)
    print(f"best of the cross layers, mean of heads: more inside than the area's share in {100 * best.max():.1f} % (layer {best.argmax()})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("look", help="path of the program")
    parser.add_argument("--model", type=Path, default=HERE / "model-nf4")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--save", type=Path, help="folder for some pictures and their heat maps")
    arguments = parser.parse_args()
    main(arguments.look, arguments.model, arguments.questions, arguments.save)
