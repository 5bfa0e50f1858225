#!/usr/bin/env python3
"""TensorBoard's own reader on the event files of a training: python3 check_tensorboard.py RUN_DIR

Needs `pip install tensorboard`. Compares every scalar with metrics.csv and looks at the pictures.
"""

import csv
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLUMNS = {
    "Loss/train": "train_loss",
    "Loss/validation": "val_loss",
    "IoU/validation": "val_iou",
    "F1_Score/validation": "val_f1",
    "Misc/learning_rate": "learning_rate",
}
PICTURES = "Validation/Predictions_vs_GroundTruth"


def main(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows, "no epochs"
    for tag, column in COLUMNS.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        as_f32 = lambda text: struct.unpack("f", struct.pack("f", float(text)))[0]
        assert found == [(int(row["epoch"]), as_f32(row[column])) for row in rows], tag
        print(f"{tag}: {len(found)} steps")
    pictures = events.Images(PICTURES)
    assert pictures, "no picture"
    for picture in pictures:
        assert picture.encoded_image_string.startswith(b"\x89PNG"), picture.step
        print(f"{PICTURES}: step {picture.step}, {picture.width} x {picture.height}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
