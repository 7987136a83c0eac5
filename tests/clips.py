"""Clips made by PyAV: a light of some colour in a grey street, steady or blinking."""

import random

COLOURS = {"red": (210, 40, 40), "yellow": (220, 200, 50), "green": (40, 200, 60), "blue": (50, 70, 220)}
MODES = ("steady", "blinking")


def light_pictures(colour, mode, seed, count=12, height=56, width=84):
    """Return `count` pictures, uint8 (count, height, width, 3); place, drift and when it blinks depend on the seed."""
    import numpy as np

    chance = random.Random(seed)
    pictures = np.full((count, height, width, 3), chance.randrange(80, 130), np.uint8)
    side, drift, phase = height // 3, chance.choice([-1, 0, 1]), chance.randrange(2)
    top, left = chance.randrange(height - side), chance.randrange(count, width - side - count)
    for number, picture in enumerate(pictures):
        # In three parts, so that of frames spread evenly over the clip some are lit and some are not.
        lit = mode == "steady" or (3 * number // count + phase) % 2
        if lit:
            place = left + drift * number
            picture[top : top + side, place : place + side] = COLOURS[colour]
    return pictures


def write_clip(path, pictures, rate=6):
    """Write pictures as H.264 in MP4; no pictures make a container without a frame."""
    import av

    height, width = pictures.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.start_encoding()
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
