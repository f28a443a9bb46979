"""The program of test_window.py: the demo in a real window, with a fake camera that shows coloured rectangles."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.fake_camera import BLUE, DETECTOR, RED, embedder, frames_of, scene

from bot_deploy import console
from bot_deploy.demos import app
from bot_deploy.demos.cameras import Camera
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.recognition import LiveRecognizer
from bot_deploy.demos.recorder import Recorder
from bot_deploy.demos.window import Window
from bot_deploy.video.sources import Frame


class Film:
    """A long film of two people; test_window.py has the same boxes."""

    name, is_live, fps, dropped = "a fake", True, 20.0, 0

    def __iter__(self) -> Iterator[Frame]:
        pixels = scene((RED, (40, 60, 90, 200)), (BLUE, (200, 60, 250, 200)), size=(240, 320))
        for frame in frames_of([pixels] * 2000, self.fps):
            yield dataclasses.replace(frame, problem="the camera is away" if 3 < frame.number < 6 else "")
            time.sleep(1 / self.fps)


def main(folder: Path) -> None:
    """Runs until the key q; the events, snapshots and the summary are in `folder`."""
    console.show_library_output()
    gallery = open_enrolment_gallery(str(folder / "people.gallery"), embedder())
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, Film.fps)
    with Recorder(None, folder / "events.jsonl", Film.fps) as recorder, Window("bot demo") as window:
        summary = app.run([Camera(Film(), "a fake")], recognizer, recorder, window, snapshots=folder)  # type: ignore[arg-type]
    gallery.close()
    (folder / "summary.json").write_text(json.dumps(vars(summary)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
