"""A small data set of phantoms, in the format of training and evaluation."""

import csv
import json
from pathlib import Path

from PIL import Image

from inference.training.phantoms import random_phantom


def write_atlas(folder: Path, count: int) -> Path:
    """Write `count` phantoms, every second one broken, in groups of four.

    The last quarter has the split `val`, and the others have the split `train`.

    Returns:
        The folder.
    """
    (folder / "images").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["path", "label", "body_part", "boxes_norm_xyxy", "use", "group", "split"]
        )
        for seed in range(count):
            radiograph, box = random_phantom(seed, broken=seed % 2 == 0)
            path = f"images/{seed}.png"
            Image.fromarray(radiograph.pixels).save(folder / path)
            height, width = radiograph.pixels.shape
            boxes = []
            if box is not None:
                left, top, right, bottom = box
                boxes = [[left / width, top / height, right / width, bottom / height]]
            part = "arm" if seed % 3 else "leg"
            split = "val" if seed >= count * 3 // 4 else "train"
            encoded_boxes = json.dumps(boxes)
            rows.writerow([path, len(boxes), part, encoded_boxes, 1, seed // 4, split])
    return folder
