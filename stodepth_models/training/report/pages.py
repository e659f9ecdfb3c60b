"""Tables inside hand-written Markdown pages, between two markers."""

__all__ = ["MARKERS", "fill_in"]

MARKERS = ("<!-- {} -->", "<!-- end of {} -->")


def fill_in(text: str, name: str, table: str) -> str:
    """Return a page with what stands between the two markers of that name replaced.

    Raises:
        ValueError: the page has no such markers.
    """
    start, end = (marker.format(name) for marker in MARKERS)
    if start not in text or end not in text:
        raise ValueError(f"the page has no {start} and {end}")
    before, rest = text.split(start, 1)
    return f"{before}{start}\n\n{table}\n{end}{rest.split(end, 1)[1]}"
