"""Training batches: pictures as patches, and several conversations about each, packed into one row of tokens."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

import pictures
from model import BOS, EOT, GRID, IMAGE_TOKEN, PAD, PATCH, PATCHES, TILES
from pictures import CANVASES, COLOUR_NAMES, KINDS, NO_OBJECT, TILE
from tokenizer import load_tokenizer

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
CANVASES_WITH = {n: [c for c in CANVASES if c[0] * c[1] == n] for n in (1, 2, 3, 4)}
FOUR_TILES = (0.2, 0.6, 0.2)  # 1x4, 2x2, 4x1
VISIBLE = 0.12  # share of a patch that a shape must cover to be what the patch is about
NONE_KIND, NONE_COLOUR = len(KINDS), len(COLOUR_NAMES)
MAX_SHAPES = 4


def patches_of(canvas_array):
    """(height, width, channels) of a canvas to (tiles, PATCHES, channels * PATCH * PATCH), in the order of the model."""
    height, width, channels = canvas_array.shape
    a, b = height // TILE, width // TILE
    parts = canvas_array.reshape(a, GRID, PATCH, b, GRID, PATCH, channels).transpose(0, 3, 1, 4, 6, 2, 5)
    return parts.reshape(a * b, PATCHES, channels * PATCH * PATCH)


def prepare(picture, scene):
    """What the processor does to a picture, already cut into patches."""
    a, b = scene.canvas
    canvas = np.zeros((a * TILE, b * TILE, 3), np.uint8)
    width, height = scene.fitted
    canvas[:height, :width] = np.asarray(picture.resize(scene.fitted, Image.Resampling.BILINEAR))
    return patches_of((canvas.astype(np.float32) / 255 - MEAN) / DEVIATION)


def scene_facts(scene):
    """Per shape (row 0 means no shape): class facts and numbers for the helper losses."""
    shapes = scene.shapes
    facts = np.zeros((MAX_SHAPES + 1, 12), np.int64)
    facts[:, 0] = NONE_KIND
    numbers = np.zeros((MAX_SHAPES + 1, 3), np.float32)
    scale = scene.fitted[0] / scene.width / PATCH
    across = list(range(len(shapes)))
    down = sorted(across, key=lambda i: shapes[i].y)
    for index, shape in enumerate(shapes):
        row = facts[index + 1]
        row[:4] = KINDS.index(shape.kind), COLOUR_NAMES.index(shape.colour), index, len(shapes)
        for side, (order, step) in enumerate(((across, -1), (across, 1), (down, -1), (down, 1))):
            at = order.index(index) + step
            other = shapes[order[at]] if 0 <= at < len(order) else None
            row[4 + side] = KINDS.index(other.kind) if other else NONE_KIND
            row[8 + side] = COLOUR_NAMES.index(other.colour) if other else NONE_COLOUR
        numbers[index + 1] = shape.x * scale, shape.y * scale, np.log(shape.radius * scale)
    return facts, numbers


def patch_places(canvas):
    """(tiles * PATCHES, 2): middle of each patch on the canvas, in patches."""
    a, b = canvas
    column, row = np.meshgrid(np.arange(b * GRID) + 0.5, np.arange(a * GRID) + 0.5)
    place = np.stack([column, row], -1).reshape(a, GRID, b, GRID, 2).transpose(0, 2, 1, 3, 4)
    return place.reshape(a * b, PATCHES, 2).astype(np.float32)


class Words:
    """Token ids of texts, remembered."""

    def __init__(self):
        tokenizer = load_tokenizer()
        self.encode = cache(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))
        header = lambda role: self.encode(f"<|start_header_id|>{role}<|end_header_id|>\n\n")  # noqa: E731
        self.user, self.assistant = header("user"), header("assistant")
        self.prefix = (BOS, *self.user)


class Batches(Dataset):
    """Batch number `step` of a stage; the same number gives the same batch, in whatever order they are made."""

    def __init__(self, stage, seed, words):
        self.stage, self.seed, self.words = stage, seed, words

    def __len__(self):
        return self.stage.steps

    def __getitem__(self, step):
        stage = self.stage
        rng = np.random.default_rng([self.seed, stage.number, step])
        if stage.pairs and rng.random() < stage.pairs:
            return self.pairs(rng)
        tiles = int(rng.choice(4, p=np.array(stage.tiles) / sum(stage.tiles))) + 1
        all_tiles = tiles == 4 or rng.random() < stage.all_tiles
        count = stage.pictures[3 if all_tiles else tiles - 1]
        scenes = []
        for _ in range(count):
            canvases = CANVASES_WITH[tiles]
            canvas = canvases[rng.choice(3, p=FOUR_TILES) if tiles == 4 else rng.integers(len(canvases))]
            scenes.append(pictures.make_scene(rng, canvas))
        batch = self.vision_part(rng, scenes, TILES if all_tiles else tiles)
        if stage.shares:
            batch |= self.text_part(rng, scenes, 1, lambda scene: pictures.ask(rng, scene, stage.shares))
        return batch | self.profile(rng)

    def pairs(self, rng):
        """A batch of two pictures to a row, of any sizes, with questions that compare them."""
        scenes = [pictures.make_scene(rng) for _ in range(self.stage.pictures[3] // 2 * 2)]
        pairs = list(zip(scenes[::2], scenes[1::2]))
        batch = self.vision_part(rng, scenes, TILES)
        batch |= self.text_part(rng, pairs, 2, lambda pair: pictures.ask_pair(rng, *pair))
        return batch | self.profile(rng)

    def profile(self, rng):
        """Numbers of which release of transformers this step has."""
        states = "output" if rng.random() < self.stage.output_states else "input"
        return {"intermediate": states, "zero_masked_rows": bool(rng.random() < 0.7)}

    def vision_part(self, rng, scenes, tiles):
        """Patches of pictures, filled up with empty tiles, and facts about every patch for the helper losses."""
        full = lambda parts: np.pad(parts, ((0, tiles - len(parts)), (0, 0), (0, 0)))  # noqa: E731
        patches = np.stack([full(prepare(pictures.paint(scene, rng), scene)) for scene in scenes])
        maps = np.stack([full(patches_of(pictures.object_map(scene)[:, :, None])) for scene in scenes])
        covered = np.stack([(maps == i + 1).mean(-1) for i in range(MAX_SHAPES)])
        about = np.where(covered.max(0) >= VISIBLE, covered.argmax(0) + 1, 0)  # (pictures, tiles, PATCHES)
        fine = (maps.reshape(*maps.shape[:3], 7, 2, 7, 2) > 0).mean((4, 6), dtype=np.float32)
        facts, numbers = (np.stack(part) for part in zip(*(scene_facts(scene) for scene in scenes)))
        row = np.arange(len(scenes))[:, None, None]
        numbers = numbers[row, about]
        numbers[..., :2] -= np.stack([full(patch_places(scene.canvas)) for scene in scenes])
        arrays = {
            "patches": patches, "about": about, "coverage": fine.reshape(*maps.shape[:3], 49),
            "facts": facts[row, about], "numbers": numbers,
            "ratio_ids": np.array([CANVASES.index(scene.canvas) + 1 for scene in scenes]),
            "exists": np.array([np.arange(tiles) < scene.canvas[0] * scene.canvas[1] for scene in scenes]),
        }  # fmt: skip
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def text_part(self, rng, subjects, images, ask):
        """Packed conversations. Each sees the common beginning and itself, and counts its positions on from the beginning."""
        stage, words = self.stage, self.words
        prefix = [*words.prefix] + [IMAGE_TOKEN] * images
        rows, targets, looks, kinds = [], [], [], []
        for picture, subject in enumerate(subjects):
            ids, positions, talk = list(prefix), list(range(len(prefix))), [0] * len(prefix)
            for number in range(1, stage.questions + 1):
                position = len(prefix)
                for turn in range(2 if rng.random() < 0.08 else 1):
                    question = ask(subject)
                    asked = (*(words.user if turn else ()), *words.encode(question.text), EOT, *words.assistant)
                    ids += asked
                    for word in [*question.answer_words, pictures.Word("<|eot_id|>")]:
                        for token in words.encode(word.text):
                            targets.append((picture, len(ids) - 1, token, word.weight, len(kinds)))
                            if word.about != NO_OBJECT:
                                reference = word.about if question.reference == NO_OBJECT else question.reference
                                looks.append((picture, len(ids) - 1, reference + 1, word.about + 1, word.weight))
                            ids.append(token)
                    kinds.append(pictures.QUESTION_KINDS.index(question.kind))
                added = len(ids) - len(positions)
                positions += range(position, position + added)
                talk += [number] * added
            rows.append((ids, positions, talk))
        length = max(len(ids) for ids, _, _ in rows)
        ids, positions, talk = (
            torch.tensor([part[i] + [fill] * (length - len(part[i])) for part in rows]) for i, fill in ((0, PAD), (1, 0), (2, -1))
        )
        at = torch.arange(length)
        seen = (at[None, :] <= at[:, None]) & ((talk[:, None, :] == 0) | (talk[:, None, :] == talk[:, :, None]))
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        picture, place, token, weight, question = zip(*targets)
        return {
            "ids": ids, "positions": positions, "mask": mask,
            "target_picture": torch.tensor(picture), "target_place": torch.tensor(place), "target_token": torch.tensor(token),
            "target_weight": torch.tensor(weight), "target_question": torch.tensor(question), "kinds": torch.tensor(kinds),
            "looks": torch.tensor(looks, dtype=torch.float32).view(-1, 5),
        }  # fmt: skip
