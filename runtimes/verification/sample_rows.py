"""Rows to compare models on where nobody gives any: sentences of several kinds and lengths, or painted images.

They show whether two models compute the same, and nothing of how good either is: no metric is measured on them.
"""

# H = height, W = width

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler.tasks import Task
from runtimes import tasks
from runtimes.rows.images import ImageReader, png
from runtimes.rows.inputs import Row
from runtimes.tasks.interface import InputReader

SENTENCES = (
    "Yes.",
    "Not at all what I had hoped for.",
    "The parcel came two days early, and everything in it was whole.",
    "Anna Berger moved from Vienna to Lisbon in March 2019 to work for a shipyard.",
    "How long does it take to walk from the station to the museum?",
    "Please cancel my order 48213 and send the money back to the card I paid with.",
    "A quiet film that takes its time; the last half hour is worth all of it.",
    "I would not buy this again: the handle broke in the first week and nobody answered my letters.",
    "Water boils at 100 degrees Celsius at sea level, and at about 90 degrees on a mountain of 3,000 metres.",
    "Der Zug nach Hamburg fährt heute von Gleis sieben, zwanzig Minuten später als geplant.",
    "La biblioteca cierra a las ocho, pero los sábados solo abre por la mañana.",
    "Le marché se tient chaque jeudi sur la place, sauf en août.",
    "def area(radius): return 3.14159 * radius ** 2",
    "Shares of the Oslo company fell by 4.2 % on Tuesday after it lowered its outlook for the year.",
    "Mix the flour with the butter, add an egg and a little salt, and let the dough rest for an hour in the cold.",
    (
        "The committee met on the 3rd of May; it heard two witnesses, read their reports, and put off its decision "
        "until the figures for the second quarter are known."
    ),
    "Thank you so much! You made my mother's birthday :-)",
    "The patient reports pain in the left knee since a fall two weeks ago, no fever, no swelling.",
    "Rain in the north, sun in the south, and a strong wind along the whole coast until Friday evening.",
    (
        "When the lighthouse was built, in 1874, the nearest village had forty houses, one well and no road. Stones "
        "were brought by boat in summer and on sledges in winter, and it took the masons five years to finish the "
        "tower. The first keeper, a former sailor, wrote down the weather of every day for thirty years; his books "
        "are still there."
    ),
    "Is it red, or is it green? It is neither: it is somewhere between the two, like rust on old copper.",
    "Turn left at the bridge, go on for three hundred metres, and ring at the second door.",
    "The new battery holds twice as much as the old one and weighs a third less, its maker says.",
    "She read the letter twice, folded it, and put it back into the drawer without a word.",
)
NUM_IMAGES = 12


def sample_rows(task: Task, reader: InputReader) -> tuple[Row, ...]:
    """Rows by role, without true answers or with any."""
    made = _images(reader) if isinstance(reader, ImageReader) else iter(SENTENCES)
    return tuple(tasks.module_of(task).probe_row(each) for each in made)


def _images(reader: ImageReader) -> Iterator[str]:
    """Data URIs of images: slopes of brightness in several directions, waves, and seeded noise."""
    from PIL import Image

    _, height, width = reader.processor.shape
    down_H1, right_1W = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    random = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        angle = number * np.pi / 6
        slope_HW = (np.cos(angle) * down_H1 + np.sin(angle) * right_1W) % 1
        waves_HW = (1 + np.sin(2 * np.pi * (number + 1) * (down_H1 + right_1W))) / 2
        noise_HW = random.random((height, width))
        pixels = np.stack([slope_HW, waves_HW, noise_HW], axis=-1)
        yield png(Image.fromarray((pixels * 255).astype(np.uint8)))
