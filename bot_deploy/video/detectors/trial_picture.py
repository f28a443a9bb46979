"""The picture on which a detector has to find somebody before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.synthetic.clip import plan_clip

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

HEIGHT_PX = 360  # the people on it are 141 and 163 pixels high


def draw_people() -> Pixels:
    """Two synthetic people on a street, side by side, uint8 RGB [360, W, 3]; the same at every call.

    YOLOX-nano finds both with confidences of 0.89 and 0.79; OpenCV's HOG finds one with 0.66.
    """
    clip = plan_clip(seed=0, people=2, cameras=1, seconds=4, fps=1, height=HEIGHT_PX)
    return clip.render_frame(camera=1, number=1).picture
