"""Where the records of delimited text end: at the line ends that are not within quotes.

A quote opens a cell where it begins one, and nowhere else: in `5" pipe` it is text. It closes the cell unless it is
doubled; what follows up to the next delimiter is text as well. This is how pyarrow reads, to the letter.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from pipeline.sources.bits import Bits, Text, after, at, between, count, first, last, where, within

QUOTE, NEWLINE, RETURN, BLANK = b'"\n\r '


class Scan:
    """Text that begins where a record begins. Blank lines are no records."""

    def __init__(self, text: Text, *, delimiter: str, whole: bool) -> None:
        """`whole`: nothing follows the text, so its end is the end of a record. No delimiter: nothing is quoted."""
        self.text, self.delimiter, self.whole = text, delimiter, whole
        self.breaks = where(text, NEWLINE) | where(text, RETURN)
        self.quotes = where(text, QUOTE) if delimiter else np.zeros_like(self.breaks)
        self.ends = self.breaks & ~self.inside
        """Of lines that are not within quotes."""
        self.record_ends = self.ends & ~after(self.ends, first=True)
        """One for each record: of CRLF the CR, and none of a blank line."""

    @cached_property
    def inside(self) -> Bits:
        """From an opening quote to before the closing one."""
        if not self.quotes.any():
            return self.quotes
        inside = between(self.quotes)
        opening, closing = self.quotes & inside, self.quotes & ~inside
        allowed = (self.separators & ~inside) | self.quotes
        stray = (opening & ~after(allowed, first=True)) | (after(closing, first=False) & ~allowed)
        return between(self._switches) if within(stray, len(self.text)).any() else inside

    @cached_property
    def _switches(self) -> Bits:
        """The quotes that open or close a cell where some quotes do neither.

        In a row of an even number of quotes none does, or each undoes what the one before did. Of an odd number, one
        does: within quotes it closes, and otherwise opens if a cell begins there. So whether a cell is open depends on
        how many have come, where cells seem to begin, since the last one that came elsewhere and so left none open.
        """
        quotes = np.flatnonzero(self.text == QUOTE)
        starts = np.flatnonzero(np.diff(quotes, prepend=-2) > 1)
        odd = quotes[starts[np.diff(starts, append=len(quotes)) % 2 == 1]]
        before = self.text[odd - 1]
        begins = (before == ord(self.delimiter)) | (before == NEWLINE) | (before == RETURN) | (odd == 0)
        begun = np.cumsum(begins)
        is_open = (begun - np.maximum.accumulate(np.where(begins, 0, begun))) % 2
        return at(odd[np.diff(is_open, prepend=0) != 0], len(self.text))

    @cached_property
    def separators(self) -> Bits:
        """Delimiters and line ends, within quotes too."""
        return where(self.text, ord(self.delimiter)) | self.breaks

    @property
    def end(self) -> int:
        """Bytes up to the end of the last record that ends here; 0: none does."""
        return len(self.text) if self.whole else last(self.ends) + 1

    @property
    def rows(self) -> int:
        """Records up to there."""
        return count(self.record_ends) + (self.whole and len(self.text) > last(self.ends) + 1)

    @property
    def first_end(self) -> int:
        """Bytes up to the end of the first record; 0: none does."""
        found = first(self.record_ends) + 1
        return found or (self.end if self.rows else 0)

    @property
    def unclosed(self) -> int:
        """Where the quote stands that is open at the end; -1: none is."""
        inside = within(self.inside, len(self.text))
        if last(inside) < max(0, len(self.text) - 1):
            return -1
        return last(inside & ~after(inside | self.quotes, first=False))

    @property
    def padded(self) -> bool:
        """Whether some cell begins or ends with a blank, a tab or, which is as rare, another control character."""
        around = (self.separators & ~self.inside) | self.quotes
        blanks = where(self.text, BLANK, up_to=True) & ~around
        padding = (blanks & after(around, first=True)) | (after(blanks, first=False) & around)
        return bool(padding.any()) or self.text[-1:].tobytes() in (b" ", b"\t")
