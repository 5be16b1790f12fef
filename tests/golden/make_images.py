#!/usr/bin/env python3
"""Writes images/: small JPEG files, and as .ppm what Pillow (libjpeg-turbo) decodes them to.

    pip install pillow==11.3.0 numpy==2.3.5; make_images.py
"""
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent / "images"


def main():
    OUT.mkdir(exist_ok=True)
    y, x = np.mgrid[:30, :45]
    smooth = np.stack([4 * x + y, 255 - 5 * y, 60 + 2 * x + 3 * y], -1).clip(0, 255).astype(np.uint8)
    smooth[8:20, 10:25] = [200, 30, 60]
    rgb = Image.fromarray(smooth)
    cases = {
        "baseline": (rgb, {"quality": 95, "subsampling": 0}),
        "subsampled": (rgb, {"quality": 90, "subsampling": 2}),
        "half": (rgb, {"quality": 90, "subsampling": 1}),
        "progressive": (rgb, {"quality": 85, "progressive": True}),
        "restarts": (rgb, {"quality": 85, "restart_marker_blocks": 2}),
        "grey": (rgb.convert("L"), {"quality": 90}),
        "cmyk": (rgb.convert("CMYK"), {"quality": 95}),
    }
    for name, (image, options) in cases.items():
        image.save(OUT / f"{name}.jpg", **options)
        decoded = Image.open(OUT / f"{name}.jpg")
        # As transformers does: over white by way of RGBA if it is not RGB yet.
        decoded.convert("RGB").save(OUT / f"{name}.ppm")


if __name__ == "__main__":
    main()
