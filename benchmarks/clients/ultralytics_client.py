"""Runs in an environment with `ultralytics`: BoT-SORT and its ReID class with an ONNX file of ours.

    PYTHON ultralytics_client.py TRACKER.yaml VIDEO DETECTIONS.npz OUT.npz

DETECTIONS: arrays `frame` [M], `xyxy` [M, 4] and `confidence` [M]. OUT: `tracks` [K, 6] (frame, id, left, top, right,
bottom), and of every 3rd frame with people the crops that the class cut, BGR, with its embeddings. This file imports
nothing of bot_deploy; ultralytics is AGPL-3.0 and no part of it.
"""

import itertools
import sys

import cv2
import numpy as np
import torch
import ultralytics
from ultralytics.engine.results import Boxes
from ultralytics.trackers.track import TRACKER_MAP
from ultralytics.utils import YAML, IterableSimpleNamespace

tracker_file, video, detections_file, out = sys.argv[1:]
settings = IterableSimpleNamespace(**YAML.load(tracker_file))
settings.device = torch.device("cpu")
tracker = TRACKER_MAP[settings.tracker_type](args=settings)
detections = np.load(detections_file)
capture = cv2.VideoCapture(video)
tracks, crops, embeddings = [], [], []
frames_with_people = 0
for number in itertools.count() if len(detections["frame"]) else ():
    read, frame = capture.read()
    if not read or number > detections["frame"].max():
        break
    here = detections["frame"] == number
    xyxy, confidence = detections["xyxy"][here], detections["confidence"][here]
    boxes = Boxes(np.column_stack([xyxy, confidence, np.zeros(len(xyxy))]).astype(np.float32), frame.shape[:2])
    tracks += [(number, row[4], *row[:4]) for row in tracker.update(boxes, frame)]
    if len(xyxy):
        if frames_with_people % 3 == 0:
            centres = np.column_stack([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]]).astype(np.float32)
            cut = tracker.encoder._crop_detections(frame, centres)  # noqa: SLF001
            rows = tracker.encoder(frame, centres)
            for crop, row in zip(cut, rows, strict=True):
                if row is not None:
                    crops.append(crop)
                    embeddings.append(row / np.linalg.norm(row))
        frames_with_people += 1
np.savez(
    out,
    tracks=np.array(tracks, np.float32).reshape(-1, 6),
    embeddings=np.array(embeddings, np.float32),
    version=ultralytics.__version__,
    **{f"crop{index}": crop for index, crop in enumerate(crops)},
)
