"""Makes ``shelf.mp4``: a camera moves along a shelf with labelled boxes, and shakes a little."""

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 480
FRAMES = 12
LABELS = [  # colour of the box, and its label
    ((176, 137, 104), ("BOLTS M6", "A-1037", "120 pieces")),
    ((108, 122, 137), ("GEAR BOX", "G-2214", "ratio 1:30")),
    ((201, 173, 127), ("FRAGILE", "lens 35 mm", "this side up")),
    ((143, 163, 130), ("BATTERY 24 V", "B-0450", "do not open")),
    ((150, 111, 92), ("CABLE 5 m", "C-7781", "CAN bus")),
]


def draw_shelf() -> np.ndarray:
    """Return the whole shelf, RGB."""
    box = 420
    shelf = Image.new("RGB", (box * len(LABELS) + 240, HEIGHT + 80), (222, 219, 212))
    draw = ImageDraw.Draw(shelf)
    draw.rectangle((0, 450, shelf.width, 490), fill=(120, 84, 58))
    for number, (colour, lines) in enumerate(LABELS):
        left = 140 + box * number
        draw.rectangle((left, 120, left + 360, 450), fill=colour, outline=(70, 60, 50), width=3)
        draw.rectangle((left + 40, 180, left + 320, 380), fill=(250, 249, 244))
        for row, (text, size) in enumerate(zip(lines, (38, 34, 28), strict=True)):
            draw.text(
                (left + 58, 195 + 60 * row), text, fill=(30, 30, 34), font=ImageFont.load_default(size)
            )
    return np.asarray(shelf)


def main() -> None:
    shelf = draw_shelf()
    random = np.random.default_rng(1)
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)
    with av.open("shelf.mp4", "w") as video:
        stream = video.add_stream("libx264", rate=2, options={"crf": "30", "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for left in np.linspace(0, shelf.shape[1] - WIDTH, FRAMES):
            view = corners + np.array([left, 40]) + random.uniform(-25, 25, (4, 2))
            transform = cv2.getPerspectiveTransform(view.astype(np.float32), corners)
            frame = cv2.warpPerspective(shelf, transform, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
            frame = np.clip(frame + random.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())


if __name__ == "__main__":
    main()
