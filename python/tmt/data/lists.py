"""Lists of images: text files that say which images of a dataset are used, a part of a split or of several."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tmt.data.files import Listing, read_bytes, require_some
from tmt.errors import DataError


@dataclass
class _Splits:
    """The listings of a dataset's splits, each made when it is first asked for."""

    listing_of: Callable[[str], Listing]
    known: dict[str, Listing | DataError] = field(default_factory=dict)
    places: dict[str, dict[str, int]] = field(default_factory=dict)

    def find(self, split: str, name: str) -> tuple[Listing, int] | None:
        """The listing of a split and the place in it of an image of that name, with or without ending."""
        if split not in self.known:
            self._open(split)
        listing, places = self.known[split], self.places[split]
        if isinstance(listing, DataError):
            return None
        place = places.get(name, places.get(str(Path(name).with_suffix(""))))
        return None if place is None else (listing, place)

    def _open(self, split: str) -> None:
        try:
            listing = self.listing_of(split)
        except DataError as error:
            self.known[split], self.places[split] = error, {}
        else:
            self.known[split], self.places[split] = listing, {name: i for i, name in enumerate(listing.names)}


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list with their numbers, without empty ones and those that begin with `#`.

    Raises DataError for a file that cannot be read or says nothing.
    """
    try:
        text = read_bytes(path, "list of images").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be a text file in UTF-8, got {error}; save it as such") from error
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1)]
    found = [(i, line) for i, line in lines if line and not line.startswith("#")]
    return require_some(found, f"{path}: must name an image a line", "add names, or leave the list out")


def chosen(path: Path, split: str, listing_of: Callable[[str], Listing]) -> Listing:
    """The images that a list names, in its order: a line is NAME, of `split`, or SPLIT/NAME.

    Samples are called as the list calls them. Raises DataError, naming the line, for a name that is not there and for
    one that comes twice.
    """
    splits, found, seen = _Splits(listing_of), [], {}
    for number, line in read_lines(path):
        listing, place = _find(splits, split, line, f"{path}, line {number}")
        image = listing.images[place]
        if image in seen:
            raise DataError(f"{path}, line {number}: image must be named once, got {line} as in line {seen[image]}")
        seen[image] = number
        found.append((line, image, listing.labels[place], listing))
    names, images, labels, listings = (list(part) for part in zip(*found, strict=True))
    return replace(listings[0], names=names, images=images, labels=labels, strays=())


def _find(splits: _Splits, split: str, line: str, where: str) -> tuple[Listing, int]:
    other, _, name = line.partition("/")
    found = splits.find(split, line) or (splits.find(other, name) if name else None)
    if found is None:
        why = splits.known.get(other) if name else splits.known[split]
        reason = f" ({why})" if isinstance(why, DataError) else ""
        raise DataError(
            f"{where}: image must be there, got {line}{reason}; lines are NAME, of split {split}, or SPLIT/NAME"
        )
    return found
