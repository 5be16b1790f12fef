#!/usr/bin/env python3
"""Writes processor/: pictures and what Hugging Face's image processor makes of them; packings, cross-attention masks
and canvases.

    make_processor.py --releases DIR

DIR/pillow-12.1.1 holds that release of Pillow (see README.md): it resizes horizontally first, as every release before
it. Where Pillow 13 differs, its results are written too.
"""

import argparse
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from transformers import MllamaImageProcessor
from transformers.models.mllama import image_processing_mllama as images_hf
from transformers.models.mllama import processing_mllama as text_hf

OUT = Path(__file__).parent / "processor"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
APPENDIX_A = (3, 5, 7, 2, 40, 8, 10)


# --- pictures -------------------------------------------------------------------------------------------------------


def formula(width, height, a, b, c, d, e, f, g):
    """RGB, pixel (x, y) = (ax + by, cx + dy + e, xy / f + g), each mod 256."""
    y, x = np.mgrid[:height, :width]
    return (np.stack([a * x + b * y, c * x + d * y + e, x * y // f + g], -1) % 256).astype(np.uint8)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chunk(kind, data):
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def scanlines(samples, depth):
    """Rows of packed big-endian samples, filtered: row y by filter y mod 5."""
    high, wide, channels = samples.shape
    if depth == 16:
        rows = np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(high, -1)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(high, -1)
    else:
        bits = np.unpackbits(samples.astype(np.uint8).reshape(high, -1, 1), axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(high, -1), axis=1)
    pixel = max(1, channels * depth // 8)
    rows = rows.astype(np.int32)
    left = np.pad(rows, ((0, 0), (pixel, 0)))[:, : rows.shape[1]]
    up = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(left, ((1, 0), (0, 0)))[:-1]
    toward = [np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)]
    paeth = np.where(
        (toward[0] <= toward[1]) & (toward[0] <= toward[2]), left, np.where(toward[1] <= toward[2], up, corner)
    )
    predicted = [0 * rows, left, up, (left + up) // 2, paeth]
    out = bytearray()
    for y in range(high):
        out += bytes([y % 5]) + ((rows[y] - predicted[y % 5][y]) % 256).astype(np.uint8).tobytes()
    return bytes(out)


def png(samples, kind, depth=8, palette=None, transparent=None, interlaced=False):
    """A PNG file; `kind` as in the header: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    samples = samples if samples.ndim == 3 else samples[:, :, None]
    passes = [(0, 0, 1, 1)]
    if interlaced:  # x, y, dx, dy
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in passes]
    data = b"".join(scanlines(part, depth) for part in parts if part.size)
    high, wide = samples.shape[:2]
    header = wide.to_bytes(4) + high.to_bytes(4) + bytes([depth, kind, 0, 0, interlaced])
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if palette is not None:
        out += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparent is not None:
        out += chunk(b"tRNS", transparent)
    return out + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def grey16(wide, high):
    y, x = np.mgrid[:high, :wide]
    return x * 7 + y * 311


def pictures():
    """Real files: name and bytes."""
    smooth = formula(90, 61, 2, 1, 1, 3, 20, 16, 5)
    alpha = formula(90, 61, 5, 3, 0, 0, 0, 1, 0)[:, :, :1]
    palette = noise(1, 256, 3)
    yield "rgb.png", png(smooth, 2)
    yield "rgb_interlaced.png", png(smooth, 2, interlaced=True)
    yield "rgb_noise.png", png(noise(2, 33, 47, 3), 2)
    yield "rgb_1x1.png", png(noise(3, 1, 1, 3), 2)
    yield "rgb_1x40.png", png(noise(4, 40, 1, 3), 2)
    yield "rgb_40x1.png", png(noise(5, 1, 40, 3), 2)
    yield "rgb_3x3.png", png(noise(6, 3, 3, 3), 2)
    yield "rgb_3x2.png", png(noise(7, 2, 3, 3), 2)
    yield "rgb_1x300.png", png(formula(1, 300, 1, 3, 2, 5, 7, 3, 9), 2)
    yield "rgb_300x1.png", png(formula(300, 1, 1, 3, 2, 5, 7, 3, 9), 2)
    yield "rgb_tall.png", png(formula(20, 500, 4, 1, 9, 2, 3, 5, 6), 2)
    yield "rgb_wide.png", png(formula(500, 20, 1, 4, 2, 9, 3, 5, 6), 2)
    yield "rgb_56x56.png", png(formula(56, 56, 4, 2, 1, 3, 0, 7, 1), 2)
    yield "rgb_112x56.png", png(formula(112, 56, 2, 2, 1, 3, 0, 7, 1), 2)
    yield "rgb16.png", png(np.stack([grey16(50, 40), grey16(50, 40) * 3, 60000 - grey16(50, 40)], -1) % 65536, 2, 16)
    yield "rgb_trns.png", png(smooth // 64 * 64, 2, transparent=b"\0\x40\0\x40\0\0")
    yield "rgba.png", png(np.concatenate([smooth, alpha], -1), 6)
    yield "rgba_interlaced.png", png(np.concatenate([smooth, alpha], -1)[:37, :29], 6, interlaced=True)
    every = np.arange(256 * 256).reshape(256, 256)  # every colour with every alpha
    yield "rgba_all.png", png(np.stack([every % 256, every * 7 % 256, 255 - every % 256, every // 256], -1), 6)
    yield "rgba_opaque.png", png(np.concatenate([smooth, 0 * alpha + 255], -1), 6)
    yield "rgba_clear.png", png(np.concatenate([smooth, 0 * alpha], -1), 6)
    yield "rgba_1x1.png", png(np.array([[[200, 100, 50, 77]]]), 6)
    yield "rgba16.png", png(np.stack([grey16(40, 30) * k % 65536 for k in (1, 2, 3, 5)], -1), 6, 16)
    yield "grey.png", png(smooth[:, :, 0], 0)
    yield "grey_interlaced.png", png(smooth[:, :, 1], 0, interlaced=True)
    yield "grey_alpha.png", png(np.concatenate([smooth[:, :, :1], alpha], -1), 4)
    yield "grey_trns.png", png(smooth[:, :, 0] // 32 * 32, 0, transparent=b"\0\x40")
    yield "grey1.png", png(smooth[:, :, 2] % 2, 0, 1)
    yield "grey2.png", png(smooth[:, :, 1] // 64, 0, 2)
    yield "grey4.png", png(smooth[:, :, 0] // 16, 0, 4)
    yield "grey16.png", png(grey16(60, 45) % 65536, 0, 16)
    yield "grey16_dark.png", png(grey16(60, 45) % 300, 0, 16)
    yield "grey16_alpha.png", png(np.stack([grey16(40, 30) * 3 % 65536, grey16(40, 30) * 5 % 65536], -1), 4, 16)
    yield "palette.png", png(smooth[:, :, 0], 3, palette=palette)
    yield "palette_trns.png", png(smooth[:, :, 1], 3, palette=palette, transparent=bytes(range(0, 256, 2)))
    yield "palette1.png", png(smooth[:, :, 2] % 2, 3, 1, palette=palette[:2])
    yield "palette2.png", png(smooth[:, :, 0] // 64, 3, 2, palette=palette[:4], transparent=b"\x80")
    yield "palette4.png", png(smooth[:, :, 1] // 16, 3, 4, palette=palette[:16])


FORMULAS = [  # width, height, coefficients
    *((w, h, APPENDIX_A) for w, h in [(150, 90), (30, 200), (500, 400), (56, 56), (57, 57), (20, 39), (1, 1)]),
    *((w, h, (11, 3, 5, 13, 90, 7, 31)) for w, h in [(57, 56), (56, 57), (55, 56), (111, 112), (112, 113), (169, 168)]),
    *((w, h, (1, 2, 2, 1, 0, 64, 128)) for w, h in [(2, 3), (3, 2), (224, 56), (56, 224), (225, 56), (56, 225)]),
    *((w, h, (37, 91, 73, 19, 5, 1, 77)) for w, h in [(640, 480), (480, 640), (97, 401), (401, 97), (333, 333)]),
    *((w, h, (129, 65, 33, 17, 200, 3, 250)) for w, h in [(1000, 10), (10, 1000), (7, 29), (29, 7), (300, 301)]),
    *((w, h, (2, 3, 5, 7, 11, 13, 17)) for w, h in [(100, 49), (101, 50), (50, 101), (1024, 768), (640, 1136)]),
]
LARGE = [(w, h, (3, 1, 1, 2, 60, 500, 99)) for w, h in [(640, 480), (560, 560), (561, 561), (700, 2500), (1500, 300)]]


def jobs():
    """Source, width, height, tile size, largest number of tiles."""
    for name, _ in pictures():
        with Image.open(OUT / name) as image:
            yield name, *image.size, 56, 4
    for name in ("rgb.png", "rgb_tall.png", "rgb_wide.png", "rgba.png", "grey4.png"):
        with Image.open(OUT / name) as image:
            size = image.size
        for tile, most in ((28, 4), (84, 4), (56, 1), (56, 2), (56, 3), (28, 6)):
            yield name, *size, tile, most
    for w, h, coefficients in FORMULAS:
        yield ",".join(map(str, coefficients)), w, h, 56, 4
    for w, h, coefficients in FORMULAS[::3]:
        for tile, most in ((28, 6), (84, 3)):
            yield ",".join(map(str, coefficients)), w, h, tile, most
    for w, h, coefficients in LARGE:
        yield ",".join(map(str, coefficients)), w, h, 560, 4


def open_picture(source, width, height):
    if source.endswith(".png"):
        return Image.open(OUT / source)
    return Image.fromarray(formula(width, height, *map(int, source.split(","))))


# --- what Hugging Face computes -------------------------------------------------------------------------------------


def processor(tile, most):
    size = {"height": tile, "width": tile}
    return MllamaImageProcessor(size=size, max_image_tiles=most, image_mean=MEAN, image_std=STD)


def crc(array):
    return f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"


def process(source, width, height, tile, most):
    """Fixed columns (canvas, id, size) and checksums (RGB, resized, canvas, tiles)."""
    hf = processor(tile, most)
    image = open_picture(source, width, height)
    rgb = np.array(images_hf.convert_to_rgb(image))
    first = {"data_format": "channels_first", "input_data_format": "channels_first"}
    resized, (high, wide) = hf.resize(rgb.transpose(2, 0, 1), hf.size, most, hf.resample, **first)
    canvas = hf.pad(resized, hf.size, (high, wide), **first)
    done = hf.preprocess(image)
    count = done["num_tiles"][0][0]
    assert count == high * wide
    fixed = [int(high), int(wide), int(done["aspect_ratio_ids"][0, 0]), *resized.shape[1:]]
    tiles = done["pixel_values"][0, 0, :count].astype("<f4", copy=False)
    return fixed, [crc(rgb), crc(resized.transpose(1, 2, 0)), crc(canvas.transpose(1, 2, 0)), crc(tiles)]


PACKINGS = [  # tile, largest number of tiles, nesting, names: one list per sample
    (56, 4, "single", [["rgb.png"]]),
    (56, 4, "flat", [["rgb.png", "rgba.png", "grey.png"]]),
    (56, 4, "nested", [["rgb.png"], ["rgb_tall.png"], ["rgb_wide.png"]]),
    (56, 4, "nested", [["rgb_1x1.png", "rgb_wide.png"], ["palette.png"]]),
    (56, 4, "nested", [["rgb.png"], ["rgb_tall.png", "rgb_56x56.png", "grey1.png"], ["rgb_112x56.png", "rgba.png"]]),
    (56, 4, "nested", [[], ["rgb.png", "rgb_3x3.png"], []]),
    (28, 6, "nested", [["rgb_tall.png", "rgb.png"], ["rgba.png"]]),
    (28, 1, "nested", [["rgb_tall.png"], ["rgb_wide.png", "rgb.png"]]),
    (84, 2, "flat", [["rgb_tall.png", "rgb_wide.png"]]),
    (56, 3, "nested", [["rgb_wide.png"], [], ["rgb_112x56.png", "rgb_1x300.png"]]),
]


def pack(tile, most, nesting, names):
    images = [[Image.open(OUT / name) for name in sample] for sample in names]
    images = {"single": lambda: images[0][0], "flat": lambda: images[0], "nested": lambda: images}[nesting]()
    out = processor(tile, most).preprocess(images)
    return {
        "pixel_values_shape": list(out["pixel_values"].shape),
        "pixel_values_crc": crc(out["pixel_values"].astype("<f4", copy=False)),
        "aspect_ratio_ids": out["aspect_ratio_ids"].tolist(),
        "aspect_ratio_mask": out["aspect_ratio_mask"].tolist(),
        "num_tiles": [[int(count) for count in sample] for sample in out["num_tiles"]],
    }


def masks():
    """Batches of id sequences, padded left, right or (0) not at all; id 9 is the image."""
    random = np.random.default_rng(5)
    batches = [[[9, 9, 1, 1, 9, 1]], [[1, 2, 3]], [[9]], [[9, 9, 9]], [[1, 9]], [[9, 1, 9]], [[1, 9, 9, 2, 9, 9, 9, 3]]]
    while len(batches) < 48:
        rows = int(random.integers(1, 4))
        share = random.choice([0.1, 0.3, 0.6, 0.9])
        lengths = random.integers(1, 16, rows)
        batches.append([np.where(random.random(n) < share, 9, random.integers(1, 9, n)).tolist() for n in lengths])
    for batch in batches:
        side = random.choice(["left", "right"]) if len({len(row) for row in batch}) > 1 else "none"
        length = max(map(len, batch))
        pads = [[0] * (length - len(row)) for row in batch]
        ids = [p + row if side == "left" else row + p for p, row in zip(pads, batch)]
        most = int(random.integers(1, 7))
        counts = [[int(n) for n in random.integers(1, most + 1, row.count(9))] for row in ids]
        ranges = [text_hf.get_cross_attention_token_mask(row, 9) for row in ids]
        dense = text_hf.convert_sparse_cross_attention_mask_to_dense(ranges, counts, most, length)
        yield {
            "input_ids": ids, "image_token": 9, "padding": side, "num_tiles": counts, "max_tiles": most,
            "ranges": ranges, "mask_shape": list(dense.shape), "mask": "".join(map(str, dense.flatten())),
        }  # fmt: skip


def canvases():
    random = np.random.default_rng(6)
    sizes = [(560, 560, 560, 4), (561, 560, 560, 4), (640, 480, 560, 4), (1024, 768, 560, 4), (1920, 1080, 560, 4)]
    sizes += [(300, 200, 560, 4), (200, 1500, 560, 4), (3000, 400, 560, 4), (4000, 3000, 560, 4), (1121, 1120, 560, 4)]
    sizes += [(9999999, 1, 560, 4), (1, 9999999, 560, 4), (101, 50, 50, 4), (839, 561, 560, 4), (1, 1, 1, 1)]
    while len(sizes) < 700:
        tile = int(random.choice([14, 28, 50, 56, 84, 224, 448, 560]))
        scale = random.choice([0.5, 2.0, 8.0])
        w, h = (max(1, int(tile * scale * x)) for x in random.random(2))
        if random.random() < 0.3:  # multiples of the tile, or one off: ties and near ties
            w, h = (max(1, int(tile * k + d)) for k, d in zip(random.integers(1, 6, 2), random.integers(-1, 2, 2)))
        sizes.append((w, h, tile, int(random.integers(1, 9))))
    for w, h, tile, most in sizes:
        high, wide = images_hf.get_optimal_tiled_canvas(h, w, most, tile)
        new = images_hf.get_image_size_fit_to_canvas(h, w, high, wide, tile)
        yield w, h, tile, most, int(high // tile), int(wide // tile), *map(int, new)


def bos_insertions():
    bos, image = "<|begin_of_text|>", "<|image|>"
    for text in [
        "",
        "Hi",
        image,
        image + "Hi",
        image * 3 + "Hi",
        "Hi" + image,
        image + " " + image + "Hi",
        " " + image,
        bos,
        bos + "Hi",
        "Hi" + bos,
        image + bos + "Hi",
        image + "Hi" + bos,
        bos + bos,
        "<|image|",
        "a<|image|>b<|image|>c",
        "<|begin_of_text|",
        "\n" + image * 2 + "\n",
        "é" + image,
        image + image + "日本",
    ]:
        yield {"text": text, "with_bos": text_hf.build_string_from_input(text, bos, image)}


def check_appendix_a(rows):
    published = """150×90 f6a4cffc 15beb863 8b9e16f4 31470e2b 30×200 036bc1d6 036bc1d6 ae255c38 77a89f82
        500×400 1e46f868 8d9460c6 0ea3a2a5 34cf4808 56×56 132c6911 132c6911 132c6911 1ecfc5a9
        57×57 d158359e d158359e 13b74398 5f4103a1 20×39 26d1fe26 a59bbe0c 651162c2 e58fe46b
        1×1 42c99ea6 fda19935 fda19935 26a73893""".split()
    source = ",".join(map(str, APPENDIX_A))
    found = {f"{w}×{h}": sums for (name, w, h, *size), sums in rows if name == source and size == [56, 4]}
    for i in range(0, len(published), 5):
        assert found[published[i]] == published[i + 1 : i + 5], published[i]


# --- main -----------------------------------------------------------------------------------------------------------


def write(name, lines):
    (OUT / name).write_text("".join(line + "\n" for line in lines))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--releases", type=Path, required=True)
    parser.add_argument("--results", action="store_true", help="print what the imported release of Pillow gives")
    options = parser.parse_args()
    if options.results:
        results = {"pillow": PIL.__version__, "images": [process(*job) for job in jobs()]}
        print(json.dumps(results | {"packings": [pack(*packing) for packing in PACKINGS]}))
        return

    OUT.mkdir(exist_ok=True)
    for name, data in pictures():
        (OUT / name).write_bytes(data)

    def results(path, version):
        command = [sys.executable, __file__, "--results", "--releases", str(options.releases)]
        found = json.loads(subprocess.check_output(command, env=os.environ | {"PYTHONPATH": str(path)}))
        assert found["pillow"] == version
        return found

    old = results(options.releases / "pillow-12.1.1", "12.1.1")
    new = results("", "13.0.0")
    table = [
        "\t".join(
            "source width height tile max_tiles high wide id new_height new_width rgb resized canvas tiles "
            "rgb_13 resized_13 canvas_13 tiles_13".split()
        )
    ]
    for job, (fixed, sums), (fixed_13, sums_13) in zip(jobs(), old["images"], new["images"], strict=True):
        assert fixed == fixed_13
        other = [b if a != b else "-" for a, b in zip(sums, sums_13)]
        table.append("\t".join(map(str, [*job, *fixed, *sums, *other])))
    check_appendix_a([(job, sums) for job, (_, sums) in zip(jobs(), old["images"])])
    write("images.tsv", table)

    lines = []
    for (tile, most, nesting, names), a, b in zip(PACKINGS, old["packings"], new["packings"], strict=True):
        row = {"tile": tile, "max_tiles": most, "nesting": nesting, "images": names} | a
        lines.append(json.dumps(row | {"pixel_values_crc_13": b["pixel_values_crc"]}))
    write("packings.jsonl", lines)
    write("cross_masks.jsonl", map(json.dumps, masks()))
    write("bos.jsonl", (json.dumps(row, ensure_ascii=False) for row in bos_insertions()))
    names = "width height tile max_tiles high wide new_height new_width"
    write("canvases.tsv", ["\t".join(names.split()), *("\t".join(map(str, row)) for row in canvases())])


if __name__ == "__main__":
    main()
