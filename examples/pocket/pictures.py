"""Pictures of coloured shapes, and questions about them with their only right answer.

Everything is drawn from a `numpy.random.Generator`, so a seed gives the same pictures and questions everywhere. A scene is
unambiguous by construction: shapes do not touch, a background is far from every colour on it, and a question is asked only
if its answer does not hang on a few pixels. The sizes cover all eight tilings of the model's processor.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

TILE = 84
CANVASES = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))  # (tiles high, tiles wide), the processor's order
CANVAS_SHARE = (0.10, 0.07, 0.06, 0.05, 0.07, 0.54, 0.06, 0.05)
KINDS = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (240, 222, 50), "green": (45, 160, 60),
    "blue": (45, 80, 215), "purple": (140, 55, 175), "black": (25, 25, 25), "white": (244, 244, 244),
}  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)
NUMBERS = ("None", "One", "Two", "Three", "Four")
SIDES = ("left", "right", "above", "below")
SMALLEST_RADIUS = 8.5  # pixels after fitting: below, a ring and a circle are the same few patches
NO_OBJECT = -1


# ---------------------------------------------------------------------------------------------------------------- scenes


@dataclass
class Shape:
    """One shape; lengths in pixels of the picture as drawn."""

    kind: str
    colour: str
    rgb: tuple
    x: float
    y: float
    radius: float
    angle: float

    @property
    def name(self):
        return f"{self.colour} {self.kind}"


@dataclass
class Scene:
    """A picture before it is painted. `shapes` are ordered from left to right."""

    width: int
    height: int
    canvas: tuple  # (tiles high, tiles wide) that the processor will choose
    fitted: tuple  # (width, height) after the processor's resize
    shapes: list

    def beside(self, subject, side):
        """Shapes that lie to a side of another, nearest first, or None where that is a matter of opinion."""
        axis, sign = ("x", -1 if side == "left" else 1) if side in ("left", "right") else ("y", -1 if side == "above" else 1)
        extent = self.width if axis == "x" else self.height
        scale = self.fitted[0] / self.width
        margin = max((8 if axis == "x" else 11) / scale, (0.05 if axis == "x" else 0.09) * extent)
        found = []
        for index, other in enumerate(self.shapes):
            if index == subject:
                continue
            distance = sign * (getattr(other, axis) - getattr(self.shapes[subject], axis))
            if abs(distance) < margin:
                return None
            if distance > 0:
                found.append((distance, index))
        return [index for _, index in sorted(found)]


def fit(width, height):
    """The canvas and the size that the processor gives a picture: `((tiles high, tiles wide), (width, height))`."""
    scales = [min(a * TILE / height, b * TILE / width) for a, b in CANVASES]
    enlarging = [s for s in scales if s >= 1]
    scale = min(enlarging) if enlarging else max(scales)
    canvas = min((c for c, s in zip(CANVASES, scales) if s == scale), key=lambda c: c[0] * c[1])
    target_width = min(max(width, TILE), canvas[1] * TILE)
    target_height = min(max(height, TILE), canvas[0] * TILE)
    by_width, by_height = target_width / width, target_height / height
    if by_width < by_height:
        return canvas, (target_width, min(max(1, math.floor(height * by_width)), target_height))
    return canvas, (min(max(1, math.floor(width * by_height)), target_width), target_height)


def picture_size(rng, canvas, largest):
    """A random size, 0.7 to `largest` times the canvas, that the processor puts on this canvas."""
    a, b = canvas
    while True:
        scale = rng.uniform(0.7, largest)
        width, height = round(b * TILE * scale * rng.uniform(0.6, 1)), round(a * TILE * scale * rng.uniform(0.6, 1))
        chosen, fitted = fit(width, height)
        if chosen == canvas and min(fitted) >= 40:
            return width, height, fitted


def jitter(rng, rgb, amount=16):
    return tuple(int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in rgb)


def make_scene(rng, canvas=None, count=None, largest=2.2, repeats=0.2):
    """A random scene; `count` shapes or, without it, one to four and rarely none. `repeats`: how many kinds come again on purpose."""
    canvas = canvas or CANVASES[rng.choice(len(CANVASES), p=CANVAS_SHARE)]
    if count is None:
        count = int(rng.choice(5, p=(0.03, 0.21, 0.33, 0.23, 0.20)))
    while True:
        width, height, fitted = picture_size(rng, canvas, largest)
        shapes = place(rng, width, height, fitted[0] / width, count, repeats)
        if shapes is not None:
            return Scene(width, height, canvas, fitted, sorted(shapes, key=lambda s: s.x))


def place(rng, width, height, scale, count, repeats):
    """Puts shapes where they neither touch nor leave their order in doubt; None if there is no room for them."""
    shapes, short = [], min(width, height)
    least = SMALLEST_RADIUS / scale
    gap_x = max(8 / scale, 0.05 * width) if count > 2 else 0
    for _ in range(60):
        if len(shapes) == count:
            break
        radius = max(least, short * rng.uniform(0.10, 0.34 if count < 3 else 0.26))
        if 2 * radius + 2 >= short:
            radius = least
        x, y = rng.uniform(radius + 1, width - radius - 1), rng.uniform(radius + 1, height - radius - 1)
        if any(math.hypot(x - s.x, y - s.y) < radius + s.radius + 2 / scale or abs(x - s.x) < gap_x for s in shapes):
            continue
        kind, colour = KINDS[rng.integers(len(KINDS))], COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
        if shapes and rng.random() < repeats:
            kind = pick(rng, shapes).kind
        if any(s.kind == kind and s.colour == colour for s in shapes):
            continue
        angle = rng.uniform(0, 360) if kind == "star" else rng.uniform(-14, 14)
        shapes.append(Shape(kind, colour, jitter(rng, COLOURS[colour]), x, y, radius, angle))
    if len(shapes) < count:
        return None
    if count == 2:  # "to the left of" or "above" must be plain
        dx, dy = abs(shapes[0].x - shapes[1].x), abs(shapes[0].y - shapes[1].y)
        if max(dx, dy) < 1.5 * min(dx, dy):
            return None
    return shapes


# -------------------------------------------------------------------------------------------------------------- painting


def outline(shape, scale, x, y):
    """Corners of a polygonal shape around (x, y)."""
    r, turn = shape.radius * scale, math.radians(shape.angle)
    if shape.kind == "square":
        polar = [(0.98 * r, math.pi / 4 + k * math.pi / 2) for k in range(4)]
    elif shape.kind == "triangle":
        polar = [(r, -math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)]
    elif shape.kind == "star":
        polar = [(r if k % 2 == 0 else 0.42 * r, -math.pi / 2 + k * math.pi / 5) for k in range(10)]
    else:
        arm = 0.3
        corners = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
                   (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]  # fmt: skip
        polar = [(0.96 * r * math.hypot(u, v), math.atan2(v, u)) for u, v in corners]
    return [(x + p * math.cos(t + turn), y + p * math.sin(t + turn)) for p, t in polar]


def stamp(draw, shape, scale, x, y, fill):
    """Fills one shape on an `ImageDraw` of a mask or of a map."""
    if shape.kind in ("circle", "ring"):
        for radius, value in ((shape.radius, fill), (0.55 * shape.radius, 0)):
            r = radius * scale
            draw.ellipse((x - r, y - r, x + r, y + r), fill=value)
            if shape.kind == "circle":
                break
    else:
        draw.polygon(outline(shape, scale, x, y), fill=fill)


def background_colours(rng, shapes, count):
    """Colours far from every shape, and not so far from each other that their mixtures are not."""
    while True:
        first = rng.integers(0, 256, 3)
        rest = np.clip(first + rng.integers(-55, 56, (count, 3)), 0, 255)
        if all(np.linalg.norm(rest - np.array(s.rgb), axis=1).min() >= 95 for s in shapes):
            return rest.astype(np.uint8)


def paint(scene, rng):
    """Paints a scene: plain, graded or blotchy ground, smooth shapes, at times grain or the traces of JPEG."""
    picture = ground(rng, scene)
    draw_shapes(picture, scene.shapes)
    if rng.random() < 0.5:
        picture = grained(rng, picture)
    if rng.random() < 0.2:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(35, 91)))
        picture = Image.open(file).convert("RGB")
    return picture


def ground(rng, scene):
    """One colour, a gradient between four, or blotches: few colours, enlarged."""
    cells = (1, 2, 5)[rng.choice(3, p=(0.4, 0.35, 0.25))]
    colours = background_colours(rng, scene.shapes, cells * cells)
    return Image.fromarray(colours.reshape(cells, cells, 3)).resize((scene.width, scene.height), Image.Resampling.BICUBIC)


def draw_shapes(picture, shapes):
    for shape in shapes:
        fine = 4 if shape.radius < 40 else 2  # drawn larger and reduced, for smooth edges
        half = math.ceil(shape.radius) + 2
        left, top = round(shape.x) - half, round(shape.y) - half
        mask = Image.new("L", (2 * half * fine, 2 * half * fine))
        stamp(ImageDraw.Draw(mask), shape, fine, (shape.x - left) * fine, (shape.y - top) * fine, 255)
        picture.paste(shape.rgb, (left, top), mask.reduce(fine))


_grain = np.random.default_rng(0).normal(size=(1024, 1024, 3)).astype(np.float32)


def grained(rng, picture):
    """A picture with film grain, cut from a fixed sheet of it."""
    width, height = picture.size
    y, x = rng.integers(0, max(1, 1024 - height)), rng.integers(0, max(1, 1024 - width))
    grain = np.resize(_grain[y : y + height, x : x + width], (height, width, 3))
    noisy = np.asarray(picture) + grain * np.float32(rng.uniform(2, 10))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def object_map(scene):
    """Which shape covers which pixel of the padded canvas as the model sees it: 0 for none, else 1 + index."""
    a, b = scene.canvas
    canvas = Image.new("L", (b * TILE, a * TILE))
    draw = ImageDraw.Draw(canvas)
    sx, sy = scene.fitted[0] / scene.width, scene.fitted[1] / scene.height
    for index, shape in enumerate(scene.shapes):
        stamp(draw, shape, sx, shape.x * sx, shape.y * sy, index + 1)
    return np.asarray(canvas)


# ------------------------------------------------------------------------------------------------------------- questions


@dataclass
class Word:
    """One token of an answer, how much it weighs in training, and the shape that it is about."""

    text: str
    weight: float = 0.1
    about: int = NO_OBJECT


@dataclass
class Question:
    kind: str
    text: str
    answer_words: list
    reference: int = NO_OBJECT  # the shape that the question itself names

    @property
    def answer(self):
        return "".join(word.text for word in self.answer_words)


def pick(rng, options):
    return options[rng.integers(len(options))]


def noun_phrase(shapes, index, article="a", weight=1.0, article_weight=0.2):
    """Words of "a red circle" or "an orange ring", with the space that they begin with."""
    shape = shapes[index]
    article = {"a": " an" if shape.colour == "orange" else " a", "A": "An" if shape.colour == "orange" else "A"}[article]
    return [Word(article, article_weight), Word(" " + shape.colour, weight, index), Word(" " + shape.kind, weight, index)]


def short(word, about=NO_OBJECT, weight=3.0):
    return [Word(word, weight, about), Word(".")]


DESCRIBE = ("Describe the picture.", "Describe this picture.", "Describe the image.", "What is in the picture?", "What do you see?",
            "What is this?", "What's this?", "What can you see here?", "What does the picture show?", "Tell me what you see.")  # fmt: skip


def ask_describe(rng, scene):
    shapes = scene.shapes
    if not shapes:
        words = short("Nothing")
    elif len(shapes) == 1:
        words = noun_phrase(shapes, 0, "A", 1.5, 2.0) + [Word(".", 1)]
    elif len(shapes) == 2:
        left, right = shapes
        if abs(left.x - right.x) > abs(left.y - right.y):
            first, second = 0, 1
            between = [Word(" to", 1), Word(" the"), Word(" left"), Word(" of")]
        else:
            first, second = (0, 1) if left.y < right.y else (1, 0)
            between = [Word(" above", 1)]
        words = noun_phrase(shapes, first, "A", 1.0, 2.0) + between + noun_phrase(shapes, second) + [Word(".")]
    else:
        words = [Word("From", 2), Word(" left"), Word(" to"), Word(" right"), Word(",")]
        for index in range(len(shapes)):
            if index == len(shapes) - 1:
                words.append(Word(" and", 1))
            elif index:
                words.append(Word(",", 1))
            words += noun_phrase(shapes, index)
        words.append(Word("."))
    return Question("describe", pick(rng, DESCRIBE), words)


def ask_count(rng, scene):
    text = pick(rng, ("How many shapes are there?", "How many shapes are in the picture?", "Count the shapes.", "How many shapes do you see?",
                      "How many things are there?", "How many shapes can you see?"))  # fmt: skip
    return Question("count", text, short(NUMBERS[len(scene.shapes)]))


def pick_by_count(rng, present, options):
    """An option such that none, one and several come equally often: else "One." is a good answer to everything."""
    count = pick(rng, sorted({present.count(option) for option in options}))
    return pick(rng, [option for option in options if present.count(option) == count])


def ask_count_kind(rng, scene):
    present = [s.kind for s in scene.shapes]
    kind = pick_by_count(rng, present, KINDS)
    plural = kind + ("es" if kind == "cross" else "s")
    text = pick(rng, ("How many {} are there?", "How many {} do you see?", "Count the {}.", "How many {} are in the picture?"))
    return Question("count_shape", text.format(plural), short(NUMBERS[present.count(kind)]))


def ask_count_colour(rng, scene):
    present = [s.colour for s in scene.shapes]
    colour = pick_by_count(rng, present, COLOUR_NAMES)
    text = pick(rng, ("How many {} shapes are there?", "How many shapes are {}?", "How many {} shapes do you see?", "Count the {} shapes."))
    return Question("count_colour", text.format(colour), short(NUMBERS[present.count(colour)]))


def unique(values):
    return [index for index, value in enumerate(values) if values.count(value) == 1]


def ask_colour(rng, scene):
    lone = unique([s.kind for s in scene.shapes])
    if not lone:
        return None
    index = pick(rng, lone)
    text = pick(rng, ("What colour is the {}?", "Which colour is the {}?", "What is the colour of the {}?", "What color is the {}?"))
    shape = scene.shapes[index]
    return Question("colour", text.format(shape.kind), short(shape.colour.capitalize(), index), index)


def ask_shape(rng, scene):
    lone = unique([s.colour for s in scene.shapes])
    if not lone:
        return None
    index = pick(rng, lone)
    shape = scene.shapes[index]
    text = pick(rng, ("What shape is {}?", "Which shape is {}?", "What is the {} shape?", "What is {}?"))
    return Question("shape", text.format(shape.colour), [Word("A"), Word(" " + shape.kind, 3, index), Word(".")], index)


SIDE_PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def ask_relation(rng, scene):
    if not scene.shapes:
        return None
    index, side = int(rng.integers(len(scene.shapes))), pick(rng, SIDES)
    found = scene.beside(index, side)
    if found is None or len(found) > 1 or (not found and rng.random() < 0.4):
        return None
    phrase = SIDE_PHRASES[side] if side in ("above", "below") or rng.random() < 0.5 else f"{side} of"
    text = pick(rng, ("What is {} the {}?", "Which shape is {} the {}?", "What do you see {} the {}?"))
    if found:
        words = noun_phrase(scene.shapes, found[0], "A", 2.0, 2.0) + [Word(".")]
    else:
        words = short("Nothing", weight=2.0)
    return Question("relation", text.format(phrase, scene.shapes[index].name), words, index)


def yes_no(value, about=NO_OBJECT):
    return short("Yes" if value else "No", about, 2.5)


def ask_exists(rng, scene):
    colour, kind = pick(rng, COLOUR_NAMES), pick(rng, KINDS)
    if scene.shapes:  # wrong by one property, mostly: only then do both count
        shape = pick(rng, scene.shapes)
        chance = rng.random()
        if chance < 0.5:
            colour, kind = shape.colour, shape.kind
        elif chance < 0.7:
            colour = shape.colour
        elif chance < 0.9:
            kind = shape.kind
    found = next((i for i, s in enumerate(scene.shapes) if (s.colour, s.kind) == (colour, kind)), NO_OBJECT)
    article = "an" if colour == "orange" else "a"
    text = pick(rng, ("Is there {} {} {}?", "Do you see {} {} {}?", "Can you see {} {} {}?"))
    return Question("exists", text.format(article, colour, kind), yes_no(found >= 0, found), found)


def ask_is_colour(rng, scene):
    lone = unique([s.kind for s in scene.shapes])
    if not lone:
        return None
    index = pick(rng, lone)
    shape = scene.shapes[index]
    colour = shape.colour if rng.random() < 0.5 else pick(rng, [s.colour for s in scene.shapes] + list(COLOUR_NAMES))
    return Question("is_colour", f"Is the {shape.kind} {colour}?", yes_no(colour == shape.colour, index), index)


def ask_is_beside(rng, scene):
    if len(scene.shapes) < 2:
        return None
    first, second = (int(i) for i in rng.permutation(len(scene.shapes))[:2])
    side = pick(rng, SIDES)
    a, b = scene.shapes[first], scene.shapes[second]
    pair = Scene(scene.width, scene.height, scene.canvas, scene.fitted, [b, a])
    found = pair.beside(0, side)
    if found is None:
        return None
    phrase = SIDE_PHRASES[side] if side in ("above", "below") or rng.random() < 0.5 else f"{side} of"
    return Question("is_beside", f"Is the {a.name} {phrase} the {b.name}?", yes_no(bool(found), first), second)


def ask_pair(rng, first, second):
    """A question that compares two pictures."""
    subject = rng.random()
    if subject < 0.35:
        noun, counts = "shapes", [len(s.shapes) for s in (first, second)]
    elif subject < 0.8:
        kind = pick(rng, [s.kind for s in first.shapes + second.shapes] or KINDS)
        noun, counts = kind + ("es" if kind == "cross" else "s"), [[x.kind for x in s.shapes].count(kind) for s in (first, second)]
    else:
        colour = pick(rng, [s.colour for s in first.shapes + second.shapes] or COLOUR_NAMES)
        noun, counts = f"{colour} shapes", [[x.colour for x in s.shapes].count(colour) for s in (first, second)]
    if counts[0] == counts[1]:
        words = short("Neither", weight=2.0)
    else:
        words = [Word("The", 1), Word(" first" if counts[0] > counts[1] else " second", 3), Word(" picture"), Word(".")]
    text = pick(rng, ("Which picture has more {}?", "Which image has more {}?", "Which one has more {}?"))
    return Question("pair", text.format(noun), words)


ASK = {
    "describe": ask_describe, "count": ask_count, "count_shape": ask_count_kind, "count_colour": ask_count_colour, "colour": ask_colour,
    "shape": ask_shape, "relation": ask_relation, "exists": ask_exists, "is_colour": ask_is_colour, "is_beside": ask_is_beside,
}  # fmt: skip
QUESTION_KINDS = (*ASK, "pair")
EVERYTHING = dict.fromkeys(ASK, 1.0)


def ask(rng, scene, shares=EVERYTHING):
    """One question about a scene. `shares` says how often each kind is asked."""
    kinds = [kind for kind, share in shares.items() if share > 0]
    chances = np.array([shares[kind] for kind in kinds], dtype=float)
    while True:
        kind = kinds[rng.choice(len(kinds), p=chances / chances.sum())]
        question = next((q for q in (ASK[kind](rng, scene) for _ in range(4)) if q), None)
        if question:
            break
    if rng.random() < 0.06:
        question.text = question.text.lower()
    if rng.random() < 0.06:
        question.text = question.text[:-1]
    return question


HELD_OUT = 20261125  # training seeds begin with another number


def held_out(count):
    """Pictures with one question each; up to four times the canvas in size, larger than training's."""
    for index in range(count):
        rng = np.random.default_rng([HELD_OUT, index])
        scene = make_scene(rng, largest=4.0)
        yield scene, paint(scene, rng), ask(rng, scene)
