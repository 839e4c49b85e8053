"""Where every picture and film frame that `tiny` is trained on or judged by comes from, and under which licence.

Only material whose licence allows shipping what was learnt from it, without share-alike terms, may stand here. The
same list is the origin of the attributions in `NOTICE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CC_BY_3_0: Final = "CC-BY-3.0"
CC_BY_4_0: Final = "CC-BY-4.0"
CC_BY_2_0: Final = "CC-BY-2.0"
CC0: Final = "CC0-1.0"
PUBLIC_DOMAIN: Final = "public domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photograph inside a package."""

    name: str
    """Its name in the media folder; a `.jpg` is added."""
    package: str
    """A key of `PACKAGES`."""
    path: str
    """Where it lies inside the package."""
    author: str
    licence: str
    held_out: bool = False
    """Never trained on: kept for the evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A film, cut into shots by `training.film`."""

    package: str
    archive: str
    """The zip archive inside the package."""
    path: str
    """Where the film lies inside that archive."""
    author: str
    licence: str
    held_out_s: tuple[tuple[float, float], ...]
    """Stretches, in seconds from the start: no shot that touches one is trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package of a public registry, pinned."""

    kind: str
    """`wheel` or `sdist` of PyPI, or `deb` of Debian 12."""
    requirement: str
    """What its client is asked for."""


PACKAGES: Final = {
    "moviepy": Package(kind="sdist", requirement="moviepy==2.1.2"),
    "scikit-image": Package(kind="wheel", requirement="scikit-image==0.26.0"),
    "scikit-learn": Package(kind="wheel", requirement="scikit-learn==1.9.1"),
    "lomiri-wallpapers": Package(kind="deb", requirement="lomiri-wallpapers-16.04"),
}

FILM: Final = Film(
    package="moviepy",
    archive="docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip",
    path="moviepy_10_minutes/resources/bbb.mp4",
    author="Blender Foundation, www.bigbuckbunny.org",
    licence=CC_BY_3_0,
    # Two scenes, mostly in places that no other part of the film shows: the burrow, and the flight to the stakes.
    held_out_s=((29.0, 66.0), (389.0, 461.0)),
)


def _lomiri(stem: str, author: str, licence: str = CC_BY_4_0, *, held_out: bool = False) -> Photo:
    return Photo(
        name="lomiri_" + stem.split("_by_")[0].lower(),
        package="lomiri-wallpapers",
        path=f"usr/share/backgrounds/{stem}.jpg",
        author=author,
        licence=licence,
        held_out=held_out,
    )


def _skimage(file: str, author: str, licence: str = CC0) -> Photo:
    return Photo(
        name="skimage_" + file.split(".")[0],
        package="scikit-image",
        path=f"skimage/data/{file}",
        author=author,
        licence=licence,
    )


def _sklearn(stem: str, author: str, *, held_out: bool = False) -> Photo:
    return Photo(
        name=f"sklearn_{stem}",
        package="scikit-learn",
        path=f"sklearn/datasets/images/{stem}.jpg",
        author=author,
        licence=CC_BY_2_0,
        held_out=held_out,
    )


PHOTOS: Final = (
    _lomiri("aitzgorri_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("friends_by_Aitzol_Berasategi", "Aitzol Berasategi", held_out=True),
    _lomiri("life_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("picosdeeuropa_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("Picture_0B_by_freespace", 'Trevor "Freespace"'),
    _lomiri("Picture_1A_by_freespace", 'Trevor "Freespace"'),
    _lomiri("seeding_by_Clements_Engelhardt", "Clemens Engelhardt", CC0),
    _lomiri("sunset_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("umang_by_Abhishek_Mudgal", "Abhishek Mudgal"),
    _lomiri("Wine_by_Jakkub_Mede", "Jakub Mede"),
    _skimage("astronaut.png", "NASA", PUBLIC_DOMAIN),
    _skimage("hubble_deep_field.jpg", "NASA, ESA", PUBLIC_DOMAIN),
    _skimage("rocket.jpg", "SpaceX"),
    _skimage("chelsea.png", "Stéfan van der Walt"),
    _skimage("coffee.png", "Rachel Michetti"),
    _skimage("brick.png", "CC0Textures"),
    _skimage("grass.png", "CC0Textures"),
    _skimage("gravel.png", "CC0Textures"),
    _sklearn("china", "danielbuechele (Flickr)", held_out=True),
    _sklearn("flower", "vultilion (Flickr)"),
)
