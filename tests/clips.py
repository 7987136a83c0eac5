"""Clips made by PyAV: a light of some colour in a grey street, steady or blinking."""

import random
from fractions import Fraction

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


def write_clip(path, pictures, rate=6, codec="libx264", pix_fmt="yuv420p", times=None, before=None, **options):
    """Write pictures as a clip, H.264 in MP4 unless asked otherwise; no pictures make a container without a frame.

    times: when each is shown, in thousandths of a second; before: called with the stream before the first picture;
    options: the codec's, with `_` for `-`.
    """
    import av

    height, width = pictures.shape[1:3]
    options = {"threads": "1"} | {name.replace("_", "-"): str(value) for name, value in options.items()}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if before:
            before(stream)
        container.start_encoding()
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
