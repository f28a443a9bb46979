"""Runs in an environment with `boxmot`: BoT-SORT and its ReID runtime with an ONNX file of ours.

    PYTHON boxmot_client.py MODEL.onnx VIDEO DETECTIONS.npz OUT.npz

The files are those of ultralytics_client.py. This file imports nothing of bot_deploy; boxmot is AGPL-3.0 and no part
of it.
"""

import itertools
import sys

import boxmot
import cv2
import numpy as np
from boxmot import BotSort
from boxmot.reid.core.crops import extract_crops
from boxmot.reid.core.runtime import ReID

model, video, detections_file, out = sys.argv[1:]
tracker = BotSort(reid_weights=model, device="cpu")
reid = ReID(model, device="cpu")
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
    rows = np.column_stack([xyxy, confidence, np.zeros(len(xyxy))]).astype(np.float32)
    tracks += [(number, row[4], *row[:4]) for row in tracker.update(rows, frame)]
    if len(xyxy):
        if frames_with_people % 3 == 0:
            crops += extract_crops(xyxy, frame, reid.model.input_shape)
            embeddings += list(reid(frame, xyxy))
        frames_with_people += 1
np.savez(
    out,
    tracks=np.array(tracks, np.float32).reshape(-1, 6),
    embeddings=np.array(embeddings, np.float32),
    version=boxmot.__version__,
    **{f"crop{index}": crop for index, crop in enumerate(crops)},
)
