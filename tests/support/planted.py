"""Films in which a product is planted: a known answer to what a highlight is.

Shots pan over textures with grain, and things move through them. Some seconds show the product: it is small, moves,
turns brighter or darker, and changes its size. Other shots have discs of its colours, and products of other kinds.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
RATE = 12


@dataclass(frozen=True)
class Planted:
    """A film, a picture of its product, and when that is seen, in seconds."""

    film: Path
    picture: Path
    start: float
    end: float

    def overlap(self, start: float, end: float) -> float:
        """Intersection over union of an excerpt and the truth."""
        both = max(0.0, min(end, self.end) - max(start, self.start))
        return both / (end - start + self.end - self.start - both)


def make_planted(
    folder: Path,
    seed: int,
    *,
    seconds: int = 60,
    shown_s: float = 5.0,
    height: int = 240,
    width: int = 426,
    rate: int = RATE,
) -> Planted:
    """Write the film and the picture of `seed`."""
    random = np.random.default_rng(seed)
    shots = _shots(random, seconds, rate)
    long = [number for number, (start, end) in enumerate(shots) if end - start > shown_s + 0.5]
    chosen = int(random.choice(long))
    start = round((shots[chosen][0] + random.uniform(0, shots[chosen][1] - shots[chosen][0] - shown_s)) * rate) / rate
    kind, other_kind = random.permutation(3)[:2]
    product, other = _product(random, int(kind)), _product(random, int(other_kind))
    picture, film = folder / f"product-{seed}.png", folder / f"film-{seed}.mp4"
    Image.fromarray(_on_white(product, 320)).save(picture)
    grain = random.normal(0, 4, (8, height, width, 1))
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, (begins, ends) in enumerate(shots):
            texture = _texture(random, height, width)
            path = random.uniform(0.1, 0.6, (2, 2))
            blob = tuple(int(each) for each in product[..., :3].reshape(-1, 3)[random.integers(product.shape[0])])
            for index in range(round(begins * rate), round(ends * rate)):
                share = (index / rate - begins) / (ends - begins)
                frame = _view(texture, share, height, width)
                place = path[0] + (path[1] - path[0]) * share
                if number == chosen and start <= index / rate < start + shown_s:
                    size = 0.34 + 0.12 * np.sin(index / 9)
                    _paste(frame, product, place, size, 0.85 + 0.25 * np.sin(index / 17))
                elif number % 3 == 0 and number != chosen:
                    _paste(frame, other, place, 0.36, 1.0)
                elif number != chosen:
                    _disc(frame, blob, place)
                noisy = np.clip(frame + grain[index % 8], 0, 255).astype(np.uint8)
                made = av.VideoFrame.from_ndarray(noisy, format="rgb24")
                made.pts, made.time_base = index, Fraction(1, rate)
                container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return Planted(film, picture, start, start + shown_s)


def _shots(random: np.random.Generator, seconds: int, rate: int) -> list[tuple[float, float]]:
    """From cut to cut; at least one is long."""
    cuts = [0.0]
    while cuts[-1] < seconds - 10:
        cuts.append(round((cuts[-1] + random.uniform(3, 9)) * rate) / rate)
    return list(zip(cuts, [*cuts[1:], float(seconds)], strict=True))


def _product(random: np.random.Generator, kind: int) -> Pixels:
    """A striped can, a dotted bottle, or a round tin with rings; with print on it, on a transparent ground."""
    picture = Image.new("RGBA", (240, 320), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    base, mark, label, ink = (tuple(int(each) for each in random.integers(0, 256, 3)) for _ in range(4))
    step = int(random.integers(24, 60))
    if kind == 0:
        draw.rounded_rectangle((10, 5, 230, 315), 40, fill=base)
        for left in range(20, 220, step):
            draw.rectangle((left, 20, left + step // 2, 300), fill=mark)
        draw.ellipse((50, 90, 190, 230), fill=label)
    elif kind == 1:
        draw.rectangle((95, 5, 145, 90), fill=mark)
        draw.polygon(((95, 60), (145, 60), (210, 130), (210, 315), (30, 315), (30, 130)), fill=base)
        for left in range(45, 190, step):
            for top in range(135, 300, step):
                draw.ellipse((left, top, left + step // 2, top + step // 2), fill=mark)
        draw.rectangle((40, 175, 200, 245), fill=label)
    else:
        for number, inset in enumerate(range(0, 110, step // 2)):
            colour = (base, mark)[number % 2]
            draw.ellipse((5 + inset, 45 + inset, 235 - inset, 275 - inset), fill=colour)
        draw.rectangle((45, 130, 195, 195), fill=label)
    letters = "".join(chr(65 + int(each)) for each in random.integers(0, 26, 4))
    draw.text((58, 135 if kind != 1 else 180), letters, fill=ink, font_size=46)
    return np.asarray(picture)


def _texture(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
    size = (width + 120, height + 80)
    total = np.zeros((size[1], size[0], 3), np.float32) + random.integers(70, 185, 3)
    for across, amount in ((6, 42), (24, 27), (96, 15)):
        rows = max(2, across * size[1] // size[0])
        light, colour = random.normal(size=(rows, across, 1)), random.normal(size=(rows, across, 3))
        noise = (light + 0.3 * colour).astype(np.float32)
        planes = [Image.fromarray(noise[..., each]).resize(size, Image.Resampling.BICUBIC) for each in range(3)]
        total += amount * np.stack([np.asarray(each) for each in planes], axis=-1)
    texture: npt.NDArray[np.float32] = np.clip(total, 0, 255)
    return texture


def _view(texture: npt.NDArray[np.float32], share: float, height: int, width: int) -> npt.NDArray[np.float32]:
    left, top = int(115 * share), int(40 + 35 * np.sin(5 * share))
    return texture[top : top + height, left : left + width].copy()


def _paste(
    frame: npt.NDArray[np.float32], thing: Pixels, place: npt.NDArray[np.float64], size: float, light: float
) -> None:
    height = int(frame.shape[0] * size)
    small = np.asarray(Image.fromarray(thing).resize((height * 3 // 4, height), Image.Resampling.BILINEAR))
    top, left = int(place[0] * frame.shape[0]), int(place[1] * frame.shape[1])
    target = frame[top : top + small.shape[0], left : left + small.shape[1]]
    small = small[: target.shape[0], : target.shape[1]]
    cover = small[..., 3:].astype(np.float32) / 255
    target[:] = target * (1 - cover) + small[..., :3] * light * cover


def _disc(frame: npt.NDArray[np.float32], colour: tuple[int, ...], place: npt.NDArray[np.float64]) -> None:
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    middle, radius = place * frame.shape[:2] + 40, frame.shape[0] / 7
    frame[(rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2] = colour


def _on_white(thing: Pixels, side: int) -> Pixels:
    """As a shop shows it."""
    ground = Image.new("RGB", (side, side), (255, 255, 255))
    picture = Image.fromarray(thing).resize((side * 3 // 4, side))
    ground.paste(picture, (side // 8, 0), picture)
    return np.asarray(ground)
