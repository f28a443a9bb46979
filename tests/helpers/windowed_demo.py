"""Run by test_window.py: the demo's real loop in a real window, before a camera that sees coloured rectangles."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.fake_camera import BLUE, DETECTOR, RED, embedder, film, scene

from bot_deploy.demos import app
from bot_deploy.demos.enrolment import open_people
from bot_deploy.demos.recognition import Live
from bot_deploy.demos.recorder import Recorder
from bot_deploy.demos.window import Window
from bot_deploy.video.sources import Frame


class Camera:
    """An endless film; see test_window.py for what is where."""

    name, live, fps, dropped = "a fake", True, 20.0, 0

    def __iter__(self) -> Iterator[Frame]:
        pixels = scene((RED, (40, 60, 90, 200)), (BLUE, (200, 60, 250, 200)), size=(240, 320))
        for frame in film([pixels] * 2000, self.fps):
            yield dataclasses.replace(frame, trouble="the camera is away" if 3 < frame.number < 6 else "")
            time.sleep(1 / self.fps)


def main(folder: Path) -> None:
    people = open_people(str(folder / "people.gallery"), embedder())
    live = Live(DETECTOR, embedder(), people, Camera.fps)
    with Recorder(None, folder / "events.jsonl", Camera.fps) as recorder, Window("bot demo") as window:
        summary = app.run(Camera(), live, recorder, window, snapshots=folder)  # type: ignore[arg-type]
    people.gallery.close()
    (folder / "summary.json").write_text(json.dumps(dataclasses.asdict(summary)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
